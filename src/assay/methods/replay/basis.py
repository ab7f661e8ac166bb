"""Replay index: replay a basis of query gradients once, then answer any query by an inner product.

The derivative is linear in the gradient it starts from: with T_w the map of replay, tau(g) = T_w g. So r directions D [r, P] are
replayed as one batch, F = T_w D [n, r] is kept, and a new query is written in them, g ~ D^T c:

    score(i, q) = -< F_i, c >,          c = R g_q           (plus for another measurement than the loss)

The directions span the leading part of a sample's gradients G [s, P], in one of two senses:

    plain       the largest part of the gradients themselves:   D, the r right singular vectors of G;   R = D
    influence   the largest part of what they would predict, by the influence of m training examples X [m, P]
                at the end of the run,  N = X (X^T X / m + lam I)^-1 = (X X^T / m + lam I)^-1 X:
                D = V_r^T G  with  N G^T = U S V^T;   R = (N D^T)^+ N,  the c whose prediction is nearest to the query's

A query's part outside the span is lost; how much is told. lam is a tenth of the mean eigenvalue of X^T X / m on its span.
Ours; replay as in Ilyas & Engstrom 2025 (2504.16430). Cost: that of replaying r + `held_out` queries, once; a query then costs its own
gradient and r numbers a training example. Memory: s + m + 2 r vectors of the parameters, then r a run.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from jaxtyping import Float, Float64
from torch import Tensor

linalg: Any = torch.linalg  # its functions carry no types

SMALLEST = 1e-10
"""Share of the largest singular value below which a direction is rounding (squares of float32 have 1e-14)."""


@dataclass(frozen=True)
class Basis:
    """Directions to replay and how a gradient is written in them: `g ~ directions^T (reader g)`."""

    directions: Float[Tensor, "r params"] = field(repr=False)
    reader: Float[Tensor, "r params"] = field(repr=False)

    def coordinates(self, gradients: Float[Tensor, "q params"]) -> Float[Tensor, "q r"]:
        """`c` of each query."""
        return gradients @ self.reader.T

    def captured(self, gradients: Float[Tensor, "q params"]) -> Float64[Tensor, " q"]:
        """The share of each query's squared length that lies in the span of the directions, 0 to 1."""
        inner = (self.directions @ gradients.T).double()
        gram = (self.directions @ self.directions.T).double()
        solved: Tensor = linalg.solve(gram, inner)
        inside = (inner * solved).sum(0)
        return (inside / gradients.double().square().sum(1).clamp_min(1e-300)).clamp(0.0, 1.0)


def plain(gradients: Float[Tensor, "s params"], rank: int) -> Basis:
    """The `rank` leading right singular vectors of the sample's gradients; fewer if the sample spans fewer."""
    weights, values = _leading((gradients @ gradients.T).double(), rank)
    directions = (weights / values.sqrt()).T.to(gradients.dtype) @ gradients
    return Basis(directions, directions.clone())


def influence(gradients: Float[Tensor, "s params"], training: Float[Tensor, "m params"], rank: int) -> Basis:
    """Combinations of the sample whose predicted scores of `training` examples (their loss gradients) are largest."""
    gram = (training @ training.T).double() / len(training)
    gram.diagonal().add_(0.1 * gram.diagonal().mean())
    predictor: Tensor = linalg.solve(gram, training.double()).to(training.dtype)  # N, [m, params]
    predicted = (predictor @ gradients.T).double()
    weights, _ = _leading(predicted.T @ predicted, rank)
    directions = weights.T.to(gradients.dtype) @ gradients
    directions = directions / directions.square().sum(1, keepdim=True).sqrt()
    solved: Tensor = linalg.pinv((predictor @ directions.T).double(), rtol=SMALLEST**0.5)
    return Basis(directions, solved.to(predictor.dtype) @ predictor)


def _leading(gram: Float64[Tensor, "s s"], rank: int) -> tuple[Float64[Tensor, "s r"], Float64[Tensor, " r"]]:
    """Leading eigenvectors and eigenvalues, largest first."""
    values, vectors = cast(tuple[Tensor, Tensor], linalg.eigh(gram))
    kept = min(rank, int((values > SMALLEST * values[-1]).sum()))
    return vectors[:, -kept:].flip(1), values[-kept:].flip(0)


def correlation(one: Float64[Tensor, "n q"], other: Float64[Tensor, "n q"]) -> Sequence[float]:
    """Pearson's, column by column; 0 where one is constant."""
    a, b = one - one.mean(0), other - other.mean(0)
    scale = (a.square().sum(0) * b.square().sum(0)).sqrt()
    return cast(list[float], torch.where(scale > 0, (a * b).sum(0) / scale.clamp_min(1e-300), 0.0).tolist())
