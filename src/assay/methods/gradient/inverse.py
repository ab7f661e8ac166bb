"""Influence functions: what methods share that multiply the queries with an inverse curvature matrix.

    score(i, q) = (1/N) g_q^T (H + lam I)^-1 g_i,        H = curvature of J = (1/N) sum_i L_i

the change of the query's loss when example i leaves, to first order (Cook 1977; Koh & Liang 2017, 1703.04730, eq. 2, whose
sign is the other one). A method says by `fitted` how it solves; the solution is then met with each training gradient.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from assay.compress.against import Against
from assay.examples import Examples
from assay.gradients.blocks import Layout
from assay.gradients.features import OnNonfinite, feature_tiles
from assay.methods.gradient.base import GradientMethod
from assay.models import Model


@dataclass(frozen=True)
class Solver(ABC):
    """A fitted inverse curvature matrix. `notes` takes what a solve has to tell."""

    notes: list[str] = field(default_factory=list[str], init=False, compare=False)

    @abstractmethod
    def __call__(self, psi: Float[Tensor, "q params"]) -> Float[Tensor, "q params"]:
        """`(H + lam I)^-1 psi`."""


@dataclass(frozen=True)
class InverseMethod(GradientMethod):
    """Exact gradients through an inverse curvature matrix of the parameters."""

    unit: ClassVar[str] = "nats of query loss per removed example"
    compresses: ClassVar[bool] = False

    @abstractmethod
    def fitted_state(self, model: Model, train: Examples, layout: Layout, stage: int) -> Solver:
        """The inverse."""

    def scale(self, rows: int) -> float:
        """One over the number of training examples."""
        return 1.0 / rows

    def query_side(self, psi: Float[Tensor, "q k"], state: Any, stage: int) -> Float[Tensor, "q k"]:
        """`(H + lam I)^-1 psi`."""
        return state[stage](psi)

    def remarks(self, state: Any) -> tuple[str, ...]:
        """Those of the solver."""
        return tuple(state.notes)


def fitting_rows(method: GradientMethod, model: Model, train: Examples, layout: Layout, count: int) -> Examples:
    """So many random training examples, in their order, less those whose gradient is not finite; of these the method's
    `on_nonfinite` says whether they raise. One gradient pass over them.
    """
    chosen = some(train, count, method.seed)
    lengths_only = Against(psi=torch.empty(0, sum(block.size for block in layout.blocks)), squares=True)
    on_nonfinite = cast(OnNonfinite, method.on_nonfinite)
    given = (model, chosen, lengths_only, method.train_measurement(), layout)
    skipped = [
        tile.statistics["skipped"] for tile in feature_tiles(*given, on_nonfinite=on_nonfinite, label="curvature")
    ]
    return chosen.select((torch.cat(skipped) == 0).nonzero().squeeze(1).numpy())


def some(train: Examples, count: int, seed: int) -> Examples:
    """So many random examples, in their order."""
    rows = np.random.default_rng(seed).permutation(len(train))[:count]
    return train.select(np.sort(rows))
