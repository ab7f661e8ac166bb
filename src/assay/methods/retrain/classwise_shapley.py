"""Class-wise Shapley: an example's value for its own class, without harm to the others.

    phi_i = mean over S of other classes of  Shapley value of i among its own class y in the game  v_y(T | S),
    v_y(T | S) = a_y exp(a_-y),      a_y = share of the validation rows that are of class y and predicted right,
                                     a_-y = share of those of other classes predicted right, after training on T + S

Two wrongs that make up for each other in the plain accuracy do not do so here. S is uniform among all subsets of the
other classes, T grows along a random permutation of the class and its reverse.

Paper: Schoch, Xu and Ji 2022, NeurIPS (arXiv 2211.06800), equations 4 to 7. Cost: 2 n_y fits an update of class y. Deviations:
not normalised to the class's accuracy afterwards, which the paper does to compare classes; no truncation, as what a
permutation comes to depends on S.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float, Int64

from assay.errors import MethodError
from assay.methods.base import option
from assay.methods.retrain.base import Retraining, Session
from assay.methods.retrain.estimate import Estimate, Marginals, sample
from assay.methods.retrain.samplers import Unit, Walk, stream
from assay.methods.retrain.scoring import Scoring
from assay.methods.retrain.stopping import State, Stop, parse_stop


@dataclass(frozen=True)
class ClasswiseShapley(Retraining):
    """Shapley within each class, in a game that also counts what happens to the others."""

    name: ClassVar[str] = "classwise-shapley"
    summary: ClassVar[str] = "Shapley within each class, weighed by what happens to the other classes"
    paper: ClassVar[str] = "Schoch, Xu and Ji 2022 (2211.06800)"

    stop: str | Stop = option("stderr:0.05 | updates:500", "when to stop, for each class")  # noqa: RUF009 - a field

    def check(self) -> None:
        """One value an example, judged by class."""
        super().check()
        self.expect(self.by == "example", "by", "example: its players are the examples of a class")
        self.expect(self.scoring == "auto", "scoring", "auto: it has its own, by class")
        parse_stop(self.stop)

    def estimate(self, session: Session) -> Estimate:
        """Class by class; each has its own utility."""
        labels = np.asarray(session.train.matrix().y) if session.train.kind in ("arrays", "table") else None
        if labels is None or labels.ndim != 1:
            raise MethodError("classwise-shapley takes examples with features and a class each.")
        n = len(labels)
        classes, codes = np.unique(labels.astype(str) if labels.dtype.kind == "O" else labels, return_inverse=True)
        parts, notes = [np.zeros(n), np.full(n, np.inf), np.full(n, np.inf), np.zeros(n, np.int64)], list[str]()
        for code, label in enumerate(classes):
            members = np.flatnonzero(codes == code)
            scoring = Scoring(f"class {label}", partial(_own_game, code), partial(_guessed, code), predicts=True)
            with session.runner(scoring=scoring) as runner:
                estimator, draws = Marginals(n, np.ones(n)), _walks(members, n, self.seed + code)
                updates, _ = sample(runner, draws, estimator, _Among(members, parse_stop(self.stop)), f"class {label}")
            found = (estimator.values, estimator.stderr, estimator.variance, estimator.counts)
            for whole, part in zip(parts, found, strict=True):
                whole[members] = part[members]
            notes.append(f"class {label}: {updates:,} updates (stop: {parse_stop(self.stop)}).")
        values, stderr, variance, counts = parts
        return Estimate(values, stderr if np.isfinite(stderr).all() else None, variance, counts, tuple(notes))


def _own_game(code: int, p: Float[np.ndarray, "q C"], codes: Int64[np.ndarray, " q"]) -> float:
    right, own = p.argmax(1) == codes, codes == code
    return float((right & own).mean() * np.exp((right & ~own).mean()))


def _guessed(code: int, prior: Float[np.ndarray, " C"], codes: Int64[np.ndarray, " q"]) -> float:
    """Expected shares of a guess among the most frequent classes."""
    right = np.isin(codes, best := np.flatnonzero(prior == prior.max())) / len(best)
    return float(right[codes == code].sum() / len(codes) * np.exp(right[codes != code].sum() / len(codes)))


def _walks(members: Int64[np.ndarray, " m"], n: int, seed: int) -> Iterator[tuple[Unit, ...]]:
    """A set of others, and the class in a random order and backwards."""
    number = 0
    while True:
        random = stream(seed, number, purpose=2)
        base = random.random(n) < 0.5
        base[members] = False
        order = members[random.permutation(len(members))]
        yield Walk(order, base), Walk(order[::-1].copy(), base)
        number += 1


@dataclass(frozen=True)
class _Among(Stop):
    """A rule that looks at some players only."""

    members: Int64[np.ndarray, " m"]
    rule: Stop

    def __call__(self, state: State) -> bool:
        some: Any = {name: getattr(state, name)[self.members] for name in ("values", "stderr", "counts")}
        history = [(updates, values[self.members]) for updates, values in state.history]
        return self.rule(replace(state, **some, history=history))

    def most(self, players: int) -> float:
        return self.rule.most(len(self.members))
