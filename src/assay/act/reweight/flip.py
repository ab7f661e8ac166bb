"""The difficulty flip: within each domain the counts of the bins of difficulty are reversed, the total staying as it was.

    n_b examples in bin b = 1..B (by weight)   ->   n_{B+1-b} draws from bin b,      weight of each = its old one * n_{B+1-b} / n_b

A weight is how often an example is to be drawn on average; weights of a domain add up to what they did before. Bins that get more draws
than they have examples are drawn with replacement, others lose some. Flipping twice is the identity.

Which domains are flipped is not a matter of taste: with values (the influence on what the model should do well), those in
which the flipped counts have the higher total, sum of n_b * mean value of b. Without values, all of them.

Paper: Kou et al. 2025 (arXiv 2505.19949), who flip a mixture of mathematics and code towards hard mathematics and easy code. Their
counts are not published: the reversal is a reconstruction. Cost: none beyond the values.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64, Real

from assay.errors import InputError
from assay.evaluate.reasoning.difficulty import Graded


@dataclass(frozen=True)
class Flip:
    """`weights[i]`: how often to draw example i, on average. `rows`: what became of each domain and bin, for people."""

    weights: Float64[np.ndarray, " n"]
    flipped: Sequence[str]
    rows: Sequence[dict[str, Any]]

    def draw(self, seed: int = 0) -> Int64[np.ndarray, " m"]:
        """Positions to train on: of each weight its whole part for certain, then a draw for what is left over; as many as the
        weights add up to, in order of the examples.
        """
        whole = np.floor(self.weights + 1e-9).astype(np.int64)
        rest = np.clip(self.weights - whole, 0.0, None)
        more = round(float(self.weights.sum())) - int(whole.sum())
        counts = whole
        if more > 0 and rest.sum() > 0:
            # systematic sampling: each is drawn in proportion, and none more than once too often
            at = np.random.default_rng(seed).uniform() + np.arange(more)
            ends = np.cumsum(rest) * (more / rest.sum())
            counts = whole + np.bincount(np.minimum(np.searchsorted(ends, at), len(ends) - 1), minlength=len(whole))
        return np.repeat(np.arange(len(self.weights)), counts)


def flip(
    graded: Graded, values: Real[np.ndarray, " n"] | None = None, weights: Real[np.ndarray, " n"] | None = None
) -> Flip:
    """New sampling weights. `values`: which domains to flip (see above); `weights`: those that hold now, by default 1 each.

    Raises InputError for arrays of another length, or weights that are not above 0.
    """
    n = len(graded.domains)
    now = np.ones(n) if weights is None else np.asarray(weights, dtype=np.float64)
    if now.shape != (n,) or not (np.isfinite(now).all() and (now > 0).all()):
        raise InputError(
            f"Weights of shape {now.shape} were given for {n} examples; one number above 0 each was expected."
        )
    if values is not None and np.shape(values) != (n,):
        raise InputError(f"Values of shape {np.shape(values)} were given for {n} examples; one each was expected.")
    new, flipped, told = now.copy(), list[str](), list[dict[str, Any]]()
    for domain in graded.names():
        rows = graded.rows(domain)
        place = graded.bins[rows]
        counts = np.bincount(place, now[rows])
        means = None if values is None else np.bincount(place, np.asarray(values)[rows]) / np.bincount(place)
        gain = None if means is None else float((counts[::-1] - counts) @ means)
        turned = gain is None or gain > 0
        if turned:
            flipped.append(domain)
            new[rows] *= (counts[::-1] / counts)[place]
        for number, count in enumerate(counts.tolist()):
            low, high = graded.span(domain, number)
            told.append({
                "domain": domain, "bin": number + 1, "from": low, "to": high, "examples": int((place == number).sum()),
                "before": count, "after": float(counts[::-1][number]) if turned else count,
                "mean": None if means is None else float(means[number]), "flipped": turned,
            })  # fmt: skip
    return Flip(new, flipped, told)
