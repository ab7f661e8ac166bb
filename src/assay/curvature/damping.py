"""How much is added to the curvature before it is inverted.

    a number      added as it is
    "heuristic"   a tenth of each block's mean eigenvalue (Grosse et al. 2023, 2308.03296, section 2.2)
    "path"        1 / (sum of the learning rates): gradient descent of that length on a quadratic leaves
                  (1 - exp(-L h)) / h of a gradient along an eigenvalue h, close to 1 / (h + 1/L)
    "cv"          by cross-validation, without a look at any query

Cross-validation: fit on one half of the fitting sample; of the other half take a few gradients g in the place of
queries' and measure, over the gradients g_j of its remaining examples, the quadratic that the inverse minimises,

    sum_g [ 1/2 mean_j (u_g . g_j)^2 - u_g . g ],       u_g = (C + lam I)^-1 g

over a grid of multiples of the heuristic. Its expectation is `1/2 u^T F u - u^T g` with the true F, least at
`u = F^-1 g`: a damping that is too small pays for the noise of C, one that is too large for its bias.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from assay.compress.against import Against
from assay.compress.none import Identity
from assay.curvature.base import Curvature, Damping, Fit, Operator
from assay.errors import MethodError
from assay.examples import Examples
from assay.gradients.features import feature_tiles

WORDS = ("heuristic", "path", "cv")
GRID = tuple(10 ** (k / 2) for k in range(-6, 7))
"""Multiples of the heuristic that are tried: 0.001 to 1,000, two a decade."""
PROBES = 16
"""Gradients in the place of queries', at most."""
HELD_OUT = 512
"""Held-out examples that they are measured on, at most."""
NUMBERS = 2**28
"""Numbers of solved probes held at once, unless one multiple already has more (1 GiB)."""


def resolved(damping: float | str, operator: Operator, choice: Curvature, to: Fit) -> Damping:
    """The number, or the number of each block. Raises MethodError: a path that is not known, too few examples."""
    match damping:
        case "heuristic":
            return operator.heuristic()
        case "path":
            if not to.model.path:
                raise MethodError(
                    "damping='path' takes the learning rates of the run, and the model does not know them. Train it by "
                    "assay.Recipe(..., optimizer='sgd'), give assay.Model(..., path=sum of the rates), or a number."
                )
            return 1.0 / to.model.path
        case "cv":
            return operator.heuristic() * cross_validated(choice, to)
        case _:
            return float(damping)


def cross_validated(choice: Curvature, to: Fit, grid: Sequence[float] = GRID) -> float:
    """The best multiple of the heuristic. Costs a fit on half of the examples and a pass over some of the others.

    Raises MethodError for fewer than 8 examples.
    """
    if len(to.examples) < 8:
        raise MethodError(
            f"damping='cv' needs 8 examples or more to fit the curvature, and {len(to.examples)} were given."
        )
    fitted, held = (to.examples.select(range(k, len(to.examples), 2)) for k in (0, 1))
    operator = choice.fit(replace(to, examples=fitted))
    count = min(PROBES, len(held) // 2, max(2, NUMBERS // (len(grid) * sum(block.size for block in to.layout.blocks))))
    probes, rest = held[:count], held[count : count + HELD_OUT]
    g = _gradients(to, probes)
    heuristic = operator.heuristic()
    at_once = max(1, NUMBERS // g.numel())
    objectives: list[float] = []
    for first in range(0, len(grid), at_once):
        solved = [operator.solve(g, heuristic * multiple) for multiple in grid[first : first + at_once]]
        quadratic = _mean_squares(choice, to, rest, torch.cat(solved)).reshape(len(solved), -1)
        linear = torch.stack([(u.double() * g.double()).sum(1) for u in solved])
        objectives += (0.5 * quadratic - linear).sum(1).tolist()
    return grid[min(range(len(grid)), key=lambda k: objectives[k])]


def _gradients(to: Fit, examples: Examples) -> Float[Tensor, "q k"]:
    """Of the training measurement itself, as a query's are."""
    given = (to.model, examples, Identity(), to.measurement, to.layout)
    return torch.cat([tile.features for tile in feature_tiles(*given, on_nonfinite=to.on_nonfinite, label="damping")])


def _mean_squares(choice: Curvature, to: Fit, examples: Examples, u: Float[Tensor, "q k"]) -> Float64[Tensor, " q"]:
    """`mean_j (u . g_j)^2` over the gradients of which the curvature is the second moment."""
    total, counted = torch.zeros(len(u), dtype=torch.float64), 0.0
    given = (to.model, examples, Against(psi=u), choice.measured(to), to.layout)
    for tile in feature_tiles(*given, on_nonfinite=to.on_nonfinite, label="damping"):
        total += tile.features.double().square().sum(0)
        counted += len(tile.ids) - float(tile.statistics["skipped"].sum())
    return total / max(counted, 1.0)
