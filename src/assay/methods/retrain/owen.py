"""Shapley's value by integration over the chance to be in: Owen's multilinear extension.

    phi_i = integral over q from 0 to 1 of  e_i(q),      e_i(q) = E[U(E + i) - U(E - i)],  each other in E with probability q

e_i is a polynomial of degree n - 1, so a Gauss-Legendre rule of `nodes` points is exact for n up to 2 nodes, and nearly so
beyond, as the utility of data changes smoothly with its amount. The random sets at q come with their complements, at 1 - q
(halved sampling). Its errors are those of independent sets: a check on `shapley`, whose permutations err together.

Paper: Okhrati and Lipani 2021, ICPR (arXiv 2010.12082), equation 3 and algorithm 1; Owen 1972. Cost: 2 (n + 1) fits an update.
Deviation: Gauss-Legendre instead of equally spaced points, which keep an error that does not fall with the samples.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float64, Int64

from assay.methods.base import option
from assay.methods.retrain.base import Retraining, Session
from assay.methods.retrain.estimate import Estimate, Estimator, Moments, contributions, sample
from assay.methods.retrain.samplers import Flips, Unit, stream
from assay.methods.retrain.semivalue import ends, finished
from assay.methods.retrain.stopping import Stop, parse_stop


@dataclass(frozen=True)
class OwenShapley(Retraining):
    """Shapley by Gauss-Legendre integration of the multilinear extension."""

    name: ClassVar[str] = "owen"
    summary: ClassVar[str] = "Shapley's value as an integral over the chance of each example to be in"
    paper: ClassVar[str] = "Okhrati and Lipani 2021 (2010.12082)"

    nodes: int = option(8, "points of the integration rule")
    stop: str | Stop = option("stderr:0.05 | updates:400", "when to stop; an update is a set and its complement")  # noqa: RUF009 - a field

    def check(self) -> None:
        """An even number of points, so that each has its mirror image."""
        super().check()
        self.expect(self.nodes >= 2 and self.nodes % 2 == 0, "nodes", "an even number of at least 2")
        parse_stop(self.stop)

    def estimate(self, session: Session) -> Estimate:
        """Sampled at the nodes in turn."""
        with session.runner() as runner:
            n = runner.game.players
            nobody = np.zeros(n, bool)
            everybody, empty = runner.utility(~nobody), runner.utility(nobody)
            nodes, weights = gauss_legendre(self.nodes)
            half = self.nodes // 2
            estimator = _Integral(n, weights[:half])
            draws = _sets(n, nodes[:half], self.seed)
            updates, seconds = sample(runner, draws, estimator, parse_stop(self.stop), "owen")
            told = f"sampled: {updates:,} pairs of sets at {self.nodes} points in {seconds:.1f} s (stop: {self.stop})."
            return finished(estimator, (told, ends(everybody, empty, estimator.values)))


def gauss_legendre(nodes: int) -> tuple[Float64[np.ndarray, " k"], Float64[np.ndarray, " k"]]:
    """Points and weights on [0, 1]."""
    points, weights = np.polynomial.legendre.leggauss(nodes)
    return (points + 1) / 2, weights / 2


def _sets(n: int, nodes: Float64[np.ndarray, " half"], seed: int) -> Iterator[tuple[Unit, ...]]:
    number = 0
    while True:
        base = stream(seed, number).random(n) < nodes[number % len(nodes)]
        yield Flips(base, np.arange(n)), Flips(~base, np.arange(n))
        number += 1


class _Integral(Estimator):
    """A mean at each point, added up with the rule's weights; the pairs of update k belong to point k mod `nodes`."""

    def __init__(self, n: int, weights: Float64[np.ndarray, " half"]) -> None:
        self._weights, self._at = weights, [Moments(n) for _ in weights]
        self._number = 0

    def add(self, units: Sequence[Unit], utilities: Sequence[Float64[np.ndarray, " _"]]) -> int:
        """The mean over a set and its complement is a sample of (e(q) + e(1 - q)) / 2."""
        parts = [contributions(unit, found)[2] for unit, found in zip(units, utilities, strict=True)]
        self._at[self._number % len(self._at)].add(np.mean(parts, axis=0), np.ones(len(parts[0]), bool))
        self._number += 1
        return 1

    @property
    def values(self) -> Float64[np.ndarray, " n"]:
        return np.sum([2 * w * at.mean for w, at in zip(self._weights, self._at, strict=True)], axis=0)

    @property
    def stderr(self) -> Float64[np.ndarray, " n"]:
        return np.sqrt(np.sum([(2 * w) ** 2 * at.error for w, at in zip(self._weights, self._at, strict=True)], axis=0))

    @property
    def variance(self) -> Float64[np.ndarray, " n"]:
        return np.sum([2 * w * at.variance for w, at in zip(self._weights, self._at, strict=True)], axis=0)

    @property
    def counts(self) -> Int64[np.ndarray, " n"]:
        return (
            np.sum([at.count for at in self._at], axis=0)
            if self._number >= 2 * len(self._at)
            else np.zeros(len(self._at[0].mean), np.int64)
        )
