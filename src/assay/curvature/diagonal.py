"""The diagonal of the Fisher matrix: `C = diag(mean over examples of g^2)`.

Cost: a forward and a backward pass with gradients formed; as many numbers as parameters. Takes parameters for
independent: no layer's structure is seen.
"""

from dataclasses import dataclass
from typing import ClassVar

from assay.curvature.base import Curvature, Fit
from assay.curvature.spectral import Spectral, squares_in
from assay.curvature.store import Workshop


@dataclass(frozen=True)
class Diagonal(Curvature):
    """Mean squared gradients, in the axes of the parameters."""

    name: ClassVar[str] = "diagonal"

    def fitted(self, to: Fit, workshop: Workshop) -> Spectral:
        """One pass."""
        none = [(None, None)] * len(to.layout.blocks)
        return squares_in(to, self.measured(to), none, workshop)
