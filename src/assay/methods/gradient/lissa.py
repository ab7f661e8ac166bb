"""LiSSA: the inverse curvature product as a Neumann series, one random batch a term.

    x <- g_q + (I - (H_B + lam I) / s) x,    T times from x = g_q,    v = x / s,   averaged over repeats
    score(i, q) = (1/N) v^T g_i

Papers: Agarwal, Bullins & Hazan 2017 (1602.03943), algorithm 1; for influence functions Koh & Liang 2017 (1703.04730),
section 3. It converges if `s > (lam_max + lam) / 2`, which is checked, `lam_max` being found by Lanczos on the whole fitting
set; by default `s = 1.1 lam_max + lam`. After T terms a direction of curvature h is damped by `1 - (1 - (h + lam)/s)^T`, so
truncation acts as more damping. H is the Gauss-Newton matrix, whose products are sums of squares, where the original has
the Hessian: away from a minimum that has negative directions, along which the series diverges.

Cost: T products (about `1 + 3 q` forward passes of a batch each) a repeat, one after the other. A historical reference:
`ekfac-cg` solves the same system with fewer products.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from assay import progress
from assay.curvature.cg import norm
from assay.curvature.gauss_newton import GaussNewton
from assay.curvature.krylov import lanczos
from assay.errors import MethodError
from assay.examples import Examples
from assay.gradients.blocks import Layout
from assay.methods.base import option
from assay.methods.gradient.inverse import InverseMethod, Solver, fitting_rows
from assay.models import Model

PRODUCTS = 20
"""Lanczos steps for the largest eigenvalue, after which it is known to a few percent."""
DIVERGED = 1e6
"""Growth of x beyond what the series can sum to, at which it counts as diverged."""


@dataclass(frozen=True)
class LiSSA(InverseMethod):
    """Gradients through the inverse Gauss-Newton matrix by a stochastic Neumann series."""

    name: ClassVar[str] = "lissa"
    summary: ClassVar[str] = "influence through the inverse Gauss-Newton matrix, by a stochastic series"
    paper: ClassVar[str] = "Agarwal et al. 2017 (1602.03943); Koh & Liang 2017 (1703.04730)"

    damping: float = option(0.01, "lam, added to the curvature")
    depth: int = option(5000, "terms of the series")
    scaling: float | None = option(None, "s, above (largest curvature + lam) / 2; by default 1.1 largest + lam")
    batch_size: int = option(32, "examples whose curvature a term takes; at least all fitting examples: no noise")
    repeats: int = option(1, "series that are averaged")
    fitting_examples: int = option(1024, "random training examples that batches are drawn from")

    def check(self) -> None:
        """Numbers in range."""
        super().check()
        self.expect(self.damping > 0, "damping", "a number above 0")
        self.expect(self.scaling is None or self.scaling > 0, "scaling", "a number above 0")
        for name in ("depth", "batch_size", "repeats", "fitting_examples"):
            self.expect(getattr(self, name) >= 1, name, "at least 1")

    def fitted_state(self, model: Model, train: Examples, layout: Layout, stage: int) -> "Series":
        """The matrix in batches, and the scale."""
        rows = fitting_rows(self, model, train, layout, self.fitting_examples)
        matrix = GaussNewton.on(model, rows, layout.blocks, self.train_measurement().reduction, most=self.batch_size)
        return Series(matrix, self, self._scale(matrix))

    def _scale(self, matrix: GaussNewton) -> float:
        draw = torch.Generator().manual_seed(self.seed)
        start = torch.randn(1, matrix.size, generator=draw, dtype=torch.float64).to(matrix.dtype)
        largest = float(lanczos(matrix, start.to(matrix.model.device), PRODUCTS).largest)
        scale = 1.1 * largest + self.damping if self.scaling is None else self.scaling
        least = (largest + self.damping) / 2
        if scale <= least:
            raise MethodError(
                f"lissa with scaling={scale:.3g} diverges: the largest curvature is {largest:.3g}, so it must be above "
                f"{least:.3g}. Leave scaling out, and it is chosen."
            )
        return scale


@dataclass(frozen=True)
class Series(Solver):
    """The series for a block of queries."""

    matrix: GaussNewton
    method: LiSSA
    scale: float

    def __call__(self, psi: Float[Tensor, "q params"]) -> Float[Tensor, "q params"]:
        """Mean of the repeats; raises MethodError where it diverges."""
        g = psi.to(self.matrix.dtype)
        total = torch.zeros_like(g)
        for repeat in range(self.method.repeats):
            total += self._series(g, np.random.default_rng((self.method.seed, repeat)))
        return (total / self.method.repeats).to(psi)

    def _series(self, g: Float[Tensor, "q params"], draw: np.random.Generator) -> Float[Tensor, "q params"]:
        batches = [self.matrix.part(number) for number in range(len(self.matrix.batches))]
        shares = np.array([batch.count for batch in batches]) / self.matrix.count  # so that the mean of H_B is H
        lam, s, x = self.method.damping, self.scale, g
        bound = DIVERGED * s / lam * norm(g)
        with progress.task("series", self.method.depth) as advance:
            for _ in range(self.method.depth):
                H = batches[draw.choice(len(batches), p=shares)]
                x = g + x - (H(x) + lam * x) / s
                if not bool((norm(x) <= bound).all()):
                    raise MethodError(
                        f"lissa diverged with scaling={s:.3g}: single batches curve more than the whole. Give a larger scaling "
                        f"(for example {2 * s:.3g}), a larger batch_size, or more damping."
                    )
                advance()
        return x / s
