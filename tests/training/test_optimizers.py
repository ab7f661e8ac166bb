"""Our optimisers against torch.optim, step by step in float64, and under automatic differentiation."""

import pytest
import torch
from torch import Tensor

from assay.training import SGD, Adam, AdamW, Optimizer, Update
from assay.training.optimizers import clipped

STEPS = 25
CASES = {
    "sgd": (SGD(), lambda p: torch.optim.SGD(p, lr=0.1)),
    "sgd decay": (SGD(0.0, 0.05), lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=0.05)),
    "momentum": (SGD(0.9, 0.01), lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01)),
    "adam": (Adam(), lambda p: torch.optim.Adam(p, lr=0.1)),
    "adam decay": (
        Adam((0.8, 0.95), 1e-3, 0.1),
        lambda p: torch.optim.Adam(p, lr=0.1, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.1),
    ),
    "adamw": (AdamW(weight_decay=0.2), lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.2)),
}


def gradient_at(params: Tensor, step: int) -> Tensor:
    """Some gradient that depends on both, with an entry that stays 0 and a varying scale."""
    direction = torch.sin(torch.arange(len(params), dtype=params.dtype) * (step + 1))
    gradient = direction * 10.0 ** (step % 3 - 1) + 0.3 * params
    gradient[0] = 0.0
    return gradient


@pytest.mark.parametrize("clip", [None, 0.7])
@pytest.mark.parametrize("case", CASES)
def test_equal_to_torch_optim(case: str, clip: float | None) -> None:
    ours, make = CASES[case]
    rates = tuple(0.1 / (1 + step) for step in range(STEPS))
    update = Update(ours, rates, clip)
    theirs = torch.nn.Parameter(torch.randn(40, dtype=torch.float64))
    optimizer = make([theirs])
    params = theirs.detach().clone()
    moments = ours.start(params)
    for step in range(STEPS):
        params, moments = update(params, moments, gradient_at(params, step), step)
        theirs.grad = gradient_at(theirs.detach(), step)
        if clip is not None:
            torch.nn.utils.clip_grad_norm_([theirs], clip)
        optimizer.param_groups[0]["lr"] = rates[step]
        optimizer.step()
        torch.testing.assert_close(params, theirs.detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("ours", "make", "names"),
    [
        (Adam(), lambda p: torch.optim.Adam(p, lr=0.1), {"first": "exp_avg", "second": "exp_avg_sq"}),
        (SGD(0.9), lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), {"momentum": "momentum_buffer"}),
    ],
)
def test_moments_are_those_of_torch_optim(ours: Optimizer, make: object, names: dict[str, str]) -> None:
    theirs = torch.nn.Parameter(torch.randn(10, dtype=torch.float64))
    optimizer = make([theirs])  # type: ignore[operator]
    params, moments = theirs.detach().clone(), ours.start(theirs.detach())
    for step in range(5):
        gradient = gradient_at(params, step)
        theirs.grad = gradient.clone()
        params, moments = ours.update(params, moments, gradient, 0.1, step + 1)
        optimizer.step()
    assert tuple(moments) == ours.remembers == tuple(names)
    for name, torchs in names.items():
        torch.testing.assert_close(moments[name], optimizer.state[theirs][torchs], rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("case", CASES)
def test_an_update_is_pure_and_differentiable(case: str) -> None:
    ours = CASES[case][0]
    params = torch.randn(6, dtype=torch.float64, requires_grad=True)
    gradient = torch.randn(6, dtype=torch.float64, requires_grad=True)
    moments = {name: torch.rand(6, dtype=torch.float64) for name in ours.remembers}
    before = [t.detach().clone() for t in (params, gradient, *moments.values())]

    def move(p: Tensor, g: Tensor) -> Tensor:
        return ours.update(p, moments, clipped(g, 1.0), 0.1, 3)[0]

    assert torch.autograd.gradcheck(move, (params, gradient))
    assert all(torch.equal(a, b) for a, b in zip(before, (params, gradient, *moments.values()), strict=True))


def test_adam_differentiates_where_a_gradient_was_never_other_than_zero() -> None:
    params = torch.zeros(2, dtype=torch.float64)
    gradient = torch.tensor([0.0, 1.0], dtype=torch.float64, requires_grad=True)
    moved, _ = Adam(eps=1e-2).update(params, Adam().start(params), gradient, 0.1, 1)
    (derivative,) = torch.autograd.grad(moved.sum(), gradient)
    assert derivative[0] == pytest.approx(-0.1 / 1e-2)  # of -r * g / (|g| + eps) at 0
    assert derivative[1] == pytest.approx(-0.1 * 1e-2 / (1 + 1e-2) ** 2)
