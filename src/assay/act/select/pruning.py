"""Pruning by a value: what `hard`, `softmax` and `linear` share.

One end of the values is dropped down to the budget; the selectors differ in how sharply. Which end: values from training
dynamics say how easy an example is, so the highest (easy) go by default; other values say what an example is worth, so the
lowest go. `drop_hardest` first drops a share at the other end, where wrong labels gather: pruning the easy end alone keeps them all.

Paper: Anand et al. 2023 (EMNLP); Paul et al. 2021 (arXiv 2107.07075). Random pruning of the same size is the line to beat.
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Bool, Float64, Int64

from assay.act.select.base import Choice, Selector, share_of
from assay.errors import InputError, MethodError
from assay.examples import Examples
from assay.methods import METHODS
from assay.methods.base import option
from assay.values import Values

DIFFICULTY = ("dynamics",)
"""Families whose values say how easy an example is."""


@dataclass(frozen=True)
class Pruning(Selector):
    """Drops examples of one end of the values; `draws`: by chance."""

    draws: ClassVar[bool] = True

    drop: str = option(
        "auto", "which end goes: the easy end of training dynamics is highest; auto: highest of training dynamics and "
        "self-influence, else lowest", ("auto", "highest", "lowest"),
    )  # fmt: skip
    drop_hardest: float | str = option(
        0.0, "a share at the lowest end that goes first, where wrong labels gather, such as 5%"
    )
    by_class: bool = option(False, "keep the classes' shares of the data as they are")
    seed: int = option(0, "of what is drawn")

    def check(self) -> None:
        """Numbers out of range."""
        share_of(self.drop_hardest, "drop_hardest", least=-1e-9)

    @abstractmethod
    def pick(self, liking: Float64[np.ndarray, " m"], count: int, rng: np.random.Generator) -> Int64[np.ndarray, " k"]:
        """Which `count` of the candidates stay, given how much each is to be kept."""

    def choose(self, result: Values, train: Examples | None, count: int) -> Choice:
        """Within each class, or among all."""
        values, n = result.array, len(result.array)
        drop = self.drop if self.drop != "auto" else drop_of(result.method)
        hardest = round(share_of(self.drop_hardest, "drop_hardest", least=-1e-9) * n)
        if hardest and drop == "lowest":
            raise MethodError(
                "drop_hardest drops the lowest values, which go anyway; give drop='highest' with it, or leave it out."
            )
        candidate = np.ones(n, dtype=bool)
        candidate[np.argsort(values, kind="stable")[:hardest]] = False
        if count > int(candidate.sum()):
            raise InputError(
                f"The budget is {count:,} of {n:,} examples, and drop_hardest leaves {int(candidate.sum()):,}; give less of one of them."
            )
        liking = -values if drop == "highest" else values
        rng, kept = np.random.default_rng(self.seed), list[np.ndarray]()
        for members, share in strata(labels_for(train, n) if self.by_class else None, candidate, count):
            kept.append(members[self.pick(liking[members], share, rng)])
        chosen = np.sort(np.concatenate(kept)).astype(np.int64)
        rank = np.empty(n, np.int64)
        rank[np.argsort(-values, kind="stable")] = np.arange(1, n + 1)
        told = f"{self.name}: the {drop} values of '{result.method}' are dropped" + (
            f", the {hardest:,} lowest before" if hardest else ""
        )
        return Choice(
            chosen, self._why(chosen, candidate, values, rank, drop), {"value": values, "rank": rank}, (told + ".",)
        )

    def _why(
        self, chosen: Int64[np.ndarray, " k"], candidate: Bool[np.ndarray, " n"], values: Any, rank: Any, drop: str
    ) -> list[str]:
        """One sentence for every example."""
        kept, n = set(chosen.tolist()), len(values)
        how, lost = ("drawn", "not drawn") if self.draws else ("kept", f"at the {drop} end")
        words: list[str] = []
        for row in range(n):
            place = f"value {values[row]:+.4g}, rank {rank[row]:,} of {n:,}"
            if row in kept:
                words.append(f"{how}; {place}")
            elif not candidate[row]:
                words.append(f"among the lowest that go first; {place}")
            else:
                words.append(f"{lost}; {place}")
        return words


def drop_of(method: str) -> str:
    """The end that goes by default."""
    family = next((kind.family for kind in METHODS if kind.name == method), "")
    return "highest" if family in DIFFICULTY or method == "self-influence" else "lowest"


def labels_for(train: Examples | None, n: int) -> list[Any]:
    """A label of every example. Raises MethodError."""
    labels = [] if train is None else list(train.labels)
    if len(labels) != n or any(label is None for label in labels):
        raise MethodError(
            "by_class keeps the shares of the classes, and the training data have no label for every example."
        )
    return labels


def strata(
    labels: list[Any] | None, candidate: Bool[np.ndarray, " n"], count: int
) -> list[tuple[Int64[np.ndarray, " m"], int]]:
    """Candidates of each class and how many of them stay: their share of all examples, by largest remainders."""
    if labels is None:
        return [(np.flatnonzero(candidate), count)]
    names = sorted(set(labels), key=str)
    code = np.array([names.index(label) for label in labels])
    room = np.array([int((candidate & (code == k)).sum()) for k in range(len(names))])
    exact = np.bincount(code, minlength=len(names)) * count / len(labels)
    shares = np.minimum(np.floor(exact).astype(np.int64), room)
    while int(shares.sum()) < count:
        shares[int(np.argmax(np.where(shares < room, exact - shares, -np.inf)))] += 1
    return [(np.flatnonzero(candidate & (code == k)), int(share)) for k, share in enumerate(shares)]


def drawn(log_weights: Float64[np.ndarray, " m"], count: int, rng: np.random.Generator) -> Int64[np.ndarray, " k"]:
    """`count` draws without replacement, one after the other in proportion to the weights: the largest of log weight + Gumbel noise
    (Efraimidis and Spirakis 2006).
    """
    return np.argsort(-(log_weights + rng.gumbel(size=len(log_weights))), kind="stable")[:count]
