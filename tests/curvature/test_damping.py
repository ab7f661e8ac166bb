"""Damping chosen by cross-validation, where the best is known."""

import pytest
import torch
from torch import Tensor, nn

import assay
from assay.curvature.base import Fit
from assay.curvature.damping import GRID, cross_validated, resolved
from assay.curvature.dense import Dense
from assay.curvature.ekfac import EKFAC
from assay.errors import MethodError
from assay.examples import Examples
from assay.gradients.blocks import lay_out
from assay.models import Model
from assay.tasks import Loss, Regress


def case(rows: int, spread: float) -> tuple[Fit, Tensor, Tensor]:
    """A linear regression of known noise, whose Fisher matrix is the covariance of the inputs; gradients of other rows."""
    scales = torch.logspace(0, -spread, 24, dtype=torch.float64)
    x = torch.randn(rows, 24, dtype=torch.float64) * scales
    module = nn.Linear(24, 1, bias=False).double()
    y = module(x).detach().squeeze(1) + torch.randn(rows, dtype=torch.float64)
    data: Examples = assay.read((x, y))
    model = Model(module, Regress())
    fresh = torch.randn(4000, 24, dtype=torch.float64) * scales * torch.randn(4000, 1, dtype=torch.float64)
    return Fit(model, data, lay_out(model), Loss()), scales.square().diag(), fresh


@pytest.mark.parametrize(("rows", "spread"), [(60, 0.0), (600, 1.0)])
def test_it_is_nearly_as_good_as_the_best_of_the_grid(rows: int, spread: float) -> None:
    """The true objective, with the true Fisher matrix and fresh gradients: few rows want much damping, many rows little.
    The multiple chosen loses at most 15% of what the best of the grid gains.
    """
    torch.manual_seed(1)
    to, fisher, fresh = case(rows, spread)
    chosen = cross_validated(Dense(), to)
    operator = Dense().fit(Fit(to.model, to.examples[::2], to.layout, to.measurement))
    values: list[float] = []
    for multiple in GRID:
        u = operator.solve(fresh, operator.heuristic() * multiple)
        values.append(float((0.5 * (u @ fisher * u).sum(1) - (u * fresh).sum(1)).mean()))
    best = min(values)
    assert values[GRID.index(chosen)] <= 0.85 * best
    assert values[0] > 0.85 * best or values[-1] > 0.85 * best  # the choice matters


def test_words_and_numbers() -> None:
    to, _, _ = case(60, 0.0)
    operator = EKFAC().fit(to)
    torch.testing.assert_close(resolved("heuristic", operator, EKFAC(), to), 0.1 * operator.eigenvalue_means)
    assert resolved(0.25, operator, EKFAC(), to) == 0.25
    multiples = resolved("cv", operator, EKFAC(), to) / operator.heuristic()  # type: ignore[operator]
    assert min(abs(float(multiples[0]) - multiple) for multiple in GRID) < 1e-9
    with pytest.raises(MethodError, match="learning rates"):
        resolved("path", operator, EKFAC(), to)
    with pytest.raises(MethodError, match="8 examples"):
        cross_validated(EKFAC(), Fit(to.model, to.examples[:7], to.layout, to.measurement))
