"""How difficult examples are, and bins of it, domain by domain.

Difficulty is the examples' label, where all have a number (a level, a pass rate turned around), else the length of the
solution: characters of `completion`, of what the assistant says, or of `text`. Bins are the levels themselves where there are few,
else of equal width between a domain's least and largest; empty ones are left out, so that counts can be reversed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from assay.errors import InputError
from assay.examples import Example, Examples

NO_DOMAIN = "all"
BY = ("auto", "label", "length")


@dataclass(frozen=True)
class Graded:
    """The domain of each example, its difficulty, and the bin that it falls into (counted within its domain, from the easiest)."""

    domains: Sequence[str]
    difficulty: Float64[np.ndarray, " n"]
    bins: Int64[np.ndarray, " n"]
    by: str

    def rows(self, domain: str) -> Int64[np.ndarray, " m"]:
        """The examples of a domain."""
        return np.flatnonzero([one == domain for one in self.domains])

    def names(self) -> list[str]:
        """The domains, in the order of their first example."""
        return list(dict.fromkeys(self.domains))

    def span(self, domain: str, number: int) -> tuple[float, float]:
        """The least and largest difficulty in a bin."""
        rows = self.rows(domain)
        inside = self.difficulty[rows[self.bins[rows] == number]]
        return float(inside.min()), float(inside.max())


def grade(train: Examples, bins: int = 4, by: str = "auto") -> Graded:
    """Domains (sources), difficulty (`by` label, length, or the first of them that all examples have) and bins.

    Raises InputError: fewer than two bins, no examples, labels that are no numbers.
    """
    if bins < 2:
        raise InputError(f"{bins} bins of difficulty were asked for; at least 2 were expected.")
    if not len(train):
        raise InputError("There are no examples to grade; at least one was expected.")
    if by not in BY:
        raise InputError(f"Difficulty by '{by}' was asked for; expected one of {', '.join(BY)}.")
    labels = [_number(label) for label in train.labels]
    if by == "label" and None in labels:
        row = labels.index(None)
        raise InputError(
            f"Example {train.ids[row]} has the label {train.labels[row]!r}; difficulty by label needs a number in every row. "
            "Name its column (--label), or take by length."
        )
    chosen = "length" if by == "length" or None in labels else "label"
    found = [float(len(_solution(example))) for example in train] if chosen == "length" else labels
    difficulty = np.array(found, dtype=np.float64)
    domains = [source or NO_DOMAIN for source in train.sources]
    placed = np.zeros(len(train), np.int64)
    for domain in dict.fromkeys(domains):
        rows = np.flatnonzero([one == domain for one in domains])
        placed[rows] = binned(difficulty[rows], bins)
    return Graded(domains, difficulty, placed, chosen)


def binned(difficulty: Float64[np.ndarray, " n"], bins: int) -> Int64[np.ndarray, " n"]:
    """The bin of each, from 0 for the easiest, without empty ones.

    >>> binned(np.array([1.0, 2.0, 2.0, 5.0]), 4).tolist(), binned(np.array([0.0, 1.0, 2.0, 9.0, 10.0]), 2).tolist()
    ([0, 1, 1, 2], [0, 0, 0, 1, 1])
    """
    levels, position = np.unique(difficulty, return_inverse=True)
    if len(levels) <= bins:
        return position.astype(np.int64)
    edges: Float64[np.ndarray, " e"] = np.linspace(float(levels[0]), float(levels[-1]), bins + 1)[1:-1]
    return np.unique(np.digitize(difficulty, edges), return_inverse=True)[1].astype(np.int64)


def _number(label: object) -> float | None:
    if isinstance(label, bool) or not isinstance(label, int | float):
        return None
    return float(label)


def _solution(example: Example) -> str:
    data = example.data
    if "completion" in data:
        return str(data["completion"])
    if "messages" in data:
        return "".join(m["content"] for m in data["messages"] if m["role"] == "assistant")
    return example.text
