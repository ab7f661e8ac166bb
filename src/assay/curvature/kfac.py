"""K-FAC: the Fisher matrix of a layer as the Kronecker product of its sides' second moments.

    C = T * S kron A,      A = mean a a^T,   S = mean d d^T,   T positions an example
    eigenvalues  T * outer(L_S, L_A),  eigenvectors  Q_S kron Q_A

Martens & Grosse 2015 (1503.05671), with T as an example's gradient is a sum over its positions. Exact where inputs and
output gradients are independent and those of different positions uncorrelated. Blocks without sides (norms, grouped
convolutions, parameters taken example by example) have no factors and get their diagonal. Cost: a forward and a
backward pass; tokens x (rows^2 + cols^2) in it; rows^3 + cols^3 once, in float64.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from assay.curvature.base import Curvature, Fit, accumulated, accumulating
from assay.curvature.covariance import Covariances, Factor
from assay.curvature.eigenbasis import Bases
from assay.curvature.spectral import Spectral
from assay.curvature.store import Workshop


@dataclass(frozen=True)
class KFAC(Curvature):
    """Products of the factors' eigenvalues, in their eigenbasis."""

    name: ClassVar[str] = "kfac"

    def fitted(self, to: Fit, workshop: Workshop) -> Spectral:
        """One pass."""
        found = Covariances(to.layout.blocks, to.model.device)
        accumulated(found, to, self.measured(to), workshop, "curvature, factors")
        return product(found, accumulating(to.model))


def product(found: Covariances, dtype: torch.dtype) -> Spectral:
    """The operator of these factors, its bases and eigenvalues in `dtype`."""
    cast = dict[int, Tensor]()  # a shared basis stays shared

    def basis(factor: Factor) -> Tensor | None:
        given = factor.basis
        return None if given is None else cast.setdefault(id(given), given.to(dtype).contiguous())

    bases: list[Bases] = []
    eigenvalues: list[Tensor] = []
    for block, f in enumerate(found.factors()):
        bases.append((None, None) if f is None else (basis(f.left), basis(f.right)))
        products = found.mean_squares(block) if f is None else f.positions * torch.outer(f.left.values, f.right.values)
        eigenvalues.append(products.to(dtype))
    return Spectral(found.blocks, tuple(bases), tuple(eigenvalues))
