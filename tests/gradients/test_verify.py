"""Rules are not believed until they were seen to be right on the user's own model."""

from collections.abc import Callable

import pytest
import torch
from tests.support import (
    TEXTS,
    array_model,
    arrays,
    assert_gradients,
    batch_of,
    examples,
    quadratic,
    shaken,
    text_model,
)
from torch import Tensor, nn

from assay.compress import Factored
from assay.gradients import verify
from assay.gradients.blocks import Layout, lay_out
from assay.gradients.features import layout_for
from assay.gradients.rules import Linear
from assay.models import Model
from assay.tasks import Loss

PROBE = Factored(rank=4)


def verified(model: Model, rows: Tensor) -> Layout:
    return verify.verified_layout(model, batch_of(model, arrays(rows)), Loss(), PROBE)


def slow(layout: Layout) -> set[str]:
    return {layout.blocks[k].name for k in layout.direct}


class Functional(nn.Module):
    """A weight used as a layer and once more functionally, which no hook sees."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.tanh(self.a(x))) + nn.functional.linear(x, self.a.weight)[..., :3]


class Penalised(nn.Module):
    """The loss depends on a weight beside the layer's output."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.tanh(self.a(x))) * (1 + self.a.weight.square().sum())


class TimeFirst(nn.Module):
    """Positions before examples."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.tanh(self.a(x.transpose(0, 1))).transpose(0, 1))


class TimeFirstFlat(TimeFirst):
    """The same in one list, which only the numbers give away."""

    def forward(self, x: Tensor) -> Tensor:
        batch, time, _ = x.shape
        inner = torch.tanh(self.a(x.transpose(0, 1).reshape(time * batch, 4)))
        return self.b(inner.reshape(time, batch, 4).transpose(0, 1))


class BatchStatistics(nn.Module):
    """Examples see each other, so a batch's gradients are not those of the examples."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(4, 4), nn.BatchNorm1d(4, track_running_stats=False), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.norm(self.a(x).transpose(1, 2)).transpose(1, 2))


@pytest.mark.parametrize(
    ("build", "wrong"),
    [
        (Functional, {"a"}), (Penalised, {"a"}), (TimeFirst, {"a"}), (TimeFirstFlat, {"a"}),
        (BatchStatistics, {"a", "b", "norm.weight", "norm.bias"}),
    ],
)  # fmt: skip
def test_what_no_rule_knows_goes_example_by_example(build: Callable[[], nn.Module], wrong: set[str]) -> None:
    model = array_model(build())
    rows = torch.randn(4, 3, 4)
    layout = verified(model, rows[:2])
    assert slow(layout) == wrong
    assert_gradients(model, batch_of(model, arrays(rows)), layout=layout)
    assert [b.name for b in layout.blocks] == [b.name for b in lay_out(model).blocks]  # features stay comparable


def test_an_unverified_layout_would_be_wrong() -> None:
    model = array_model(Functional())
    with pytest.raises(AssertionError):
        assert_gradients(model, batch_of(model, arrays(torch.randn(4, 3, 4))))


class Sometimes(nn.Module):
    """A layer that runs at times only, and then on a list of tokens in an order of its own."""

    on = False

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        if self.on:
            h = h + self.b(x.transpose(0, 1).reshape(-1, 4)).reshape(x.shape[1], x.shape[0], 4).transpose(0, 1)
        return h


def test_a_layer_that_did_not_run_in_the_check_is_not_believed_later() -> None:
    model = array_model(Sometimes())
    rows = torch.randn(4, 2, 4)
    layout = verified(model, rows[:2])
    assert layout.unseen == {model.module.b}
    model.module.on = True
    assert_gradients(model, batch_of(model, arrays(rows)), layout=layout)


def test_right_rules_are_believed() -> None:
    model = text_model("Llama")
    layout = layout_for(model, examples(*TEXTS), Loss(), PROBE)
    assert not layout.direct
    assert layout == lay_out(model)
    assert layout.describe() == f"{model.size:,} of {model.size:,} trainable parameters (100.0%)"
    assert "example by example" in verified(array_model(Functional()), torch.randn(2, 3, 4)).describe()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kind", ["Llama", "GPT2", "Qwen2"])
def test_rounding_is_not_taken_for_a_wrong_rule(kind: str, dtype: torch.dtype) -> None:
    assert not layout_for(text_model(kind, dtype=dtype), examples(*TEXTS), Loss(), PROBE).direct


def test_a_rule_with_a_wrong_factor_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    late = Linear.late
    monkeypatch.setattr(Linear, "late", lambda self, m, d, b: 1.05 * late(self, m, d, b))
    model = array_model(nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)))
    assert slow(verified(model, torch.randn(2, 4))) == {"0"}


class Swapped(nn.Module):
    """A layer that sees the examples in another order; equal examples would hide it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x.flip(0)).flip(0))


def test_the_check_looks_for_two_different_examples_with_a_finite_loss() -> None:
    model = Model(shaken(Swapped().double()), quadratic())
    one, other = torch.randn(2, 3, 4).double()
    rows = torch.stack([one * 1e200, other * 1e200, one, one, one, other])
    assert slow(layout_for(model, arrays(rows), Loss(), PROBE)) == {"a"}
