"""EK-FAC + CG: influence functions with the exact damped Gauss-Newton matrix, solved by preconditioned conjugate gradients.

    (H + lam) x = g_q,    H = Gauss-Newton matrix of the fitting examples,    M^-1 = (EKFAC + lam)^-1
    score(i, q) = (1/N) x^T g_i

with `lam` as EK-FAC takes it, by default a number for each block, so that the two methods at equal damping differ by EK-FAC's
approximation alone. Standard parts (Hestenes & Stiefel 1952; Martens 2010; George et al. 2018,
1806.03884) combined by us; a sibling is ASTRA (Wang et al. 2025, 2507.14740), preconditioned Neumann steps on batches.

Cost: EK-FAC's two passes, then an iteration about `1 + 3 q` forward passes of the fitting examples for q queries, 50 at
most; one gradient pass over the training data. Memory: 5 vectors a query. Assumes what influence functions do: a model
near a minimum of a damped objective. Exact up to `tolerance` for the fitting examples; the sample is the only estimate.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from assay.curvature.base import per_block
from assay.curvature.cg import solve
from assay.curvature.ekfac import EKFAC
from assay.curvature.gauss_newton import GaussNewton
from assay.examples import Examples
from assay.gradients.blocks import Layout
from assay.methods.base import option
from assay.methods.gradient.influence import InfluenceMethod, Inverse
from assay.methods.gradient.inverse import Solver, fitting_rows
from assay.models import Model


@dataclass(frozen=True)
class EKFACCG(InfluenceMethod):
    """Gradients through the exact damped inverse Gauss-Newton matrix."""

    name: ClassVar[str] = "ekfac-cg"
    summary: ClassVar[str] = "influence through the exact damped Gauss-Newton matrix, by CG that EK-FAC preconditions"
    paper: ClassVar[str] = "ours, of standard parts; sibling: Wang et al. 2025 (2507.14740)"
    blockwise: ClassVar[bool] = False

    fitting_examples: int = option(2048, "random training examples that the curvature is taken of at most")
    tolerance: float = option(1e-3, "a query is solved at this residual, relative to its gradient")
    iterations: int = option(50, "most iterations")

    def check(self) -> None:
        """Numbers in range."""
        super().check()
        self.expect(0 < self.tolerance < 1, "tolerance", "a number above 0 and below 1")
        self.expect(self.iterations >= 1, "iterations", "at least 1")

    def curvature(self) -> EKFAC:
        """The preconditioner."""
        return EKFAC(self._fisher(), self.seed)

    def fitted_state(self, model: Model, train: Examples, layout: Layout, stage: int) -> "Preconditioned":  # pyright: ignore[reportIncompatibleMethodOverride]
        """EK-FAC and the exact matrix on the same examples."""
        rows = fitting_rows(self, model, train, layout, self.fitting_examples)
        matrix = GaussNewton.on(model, rows, layout.blocks, self.train_measurement().reduction)
        return Preconditioned(matrix, super().fitted_state(model, rows, layout, stage), self)

    def query_side(self, psi: Float[Tensor, "q k"], state: Any, stage: int) -> Float[Tensor, "q k"]:
        """`(H + lam)^-1 psi`."""
        return state[stage](psi)

    def remarks(self, state: Any) -> tuple[str, ...]:
        """Iterations and residuals."""
        return tuple(state.notes)


@dataclass(frozen=True)
class Preconditioned(Solver):
    """The exact matrix with EK-FAC's inverse, whose damping is added to both."""

    matrix: GaussNewton
    near: Inverse
    method: EKFACCG

    @property
    def damping(self) -> Float[Tensor, " params"]:
        """`lam` of every parameter."""
        blocks = self.matrix.blocks
        lams = torch.tensor(per_block(self.near.damping, len(blocks)), dtype=torch.float64)
        return lams.repeat_interleave(torch.tensor([block.size for block in blocks])).to(self.matrix.dtype)

    def __call__(self, psi: Float[Tensor, "q params"]) -> Float[Tensor, "q params"]:
        """`(H + lam)^-1 psi`; notes iterations and residuals."""
        self.notes.clear()
        diagonal = self.damping.to(psi.device)
        found = solve(
            lambda v: self.matrix(v) + diagonal * v,
            psi.to(self.matrix.dtype),
            precondition=self.near,
            tolerance=self.method.tolerance,
            iterations=self.method.iterations,
        )
        left, most = float(found.residuals.max()), int(found.iterations.max())
        unsolved = int((found.residuals > self.method.tolerance).sum())
        told = f"CG took {most} iterations at most, and leaves a relative residual of at most {left:.1e}"
        self.notes.append(f"{told}; {unsolved} queries are above the tolerance." if unsolved else f"{told}.")
        return found.x.to(psi)
