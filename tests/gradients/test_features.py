"""Windows, packing, numbers that are not finite, and what a pass leaves behind."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support import array_model, arrays, examples, text_model
from torch import Tensor, nn

from assay.compress import Factored, Identity
from assay.errors import NonFiniteError
from assay.examples import Examples
from assay.gradients import features
from assay.gradients.blocks import lay_out
from assay.gradients.features import Tile, feature_tiles, notes, pack, window_rows
from assay.models import Model
from assay.tasks import Classify, Loss, Margin, Miss

SENTENCES = [f"the {a} {b} on the mat {'and ran ' * (k % 5)}." for k, (a, b) in enumerate(
    (a, b) for a in ("cat", "dog", "tree", "I", "you") for b in ("sat", "ran", "saw", "under", "hello")
)]  # fmt: skip
ROWS = examples(*SENTENCES)


def tiles(model: Model, rows: Examples, **options: Any) -> list[Tile]:
    settings = {"compression": Factored(rank=3), "measurement": Loss(), "layout": lay_out(model)} | options
    return list(feature_tiles(model, rows, **settings))


def joined(found: list[Tile]) -> Tensor:
    return torch.cat([tile.features for tile in found])


lengths = st.lists(st.integers(1, 300), max_size=40)


@given(lengths=lengths, positions=st.integers(1, 500), most=st.integers(1, 8))
@settings(max_examples=200, deadline=None)
def test_packing(lengths: list[int], positions: int, most: int) -> None:
    groups = pack(lengths, positions, most)
    assert sorted(k for group in groups for k in group) == list(range(len(lengths)))
    for group in groups:
        longest = max(lengths[k] for k in group)
        assert len(group) <= most
        assert longest * len(group) <= positions or len(group) == 1
    sizes = [[lengths[k] for k in group] for group in groups]
    backwards = lengths[::-1]
    assert sizes == [[backwards[k] for k in group] for group in pack(backwards, positions, most)]
    longest = [max(size) for size in sizes]
    assert longest == sorted(longest, reverse=True)


@pytest.mark.parametrize("window", [1, 4, 7, 25, 100])
def test_windows_do_not_matter(window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = text_model("Llama", dtype=torch.float32)
    whole = joined(tiles(model, ROWS))
    monkeypatch.setattr(features, "POSITIONS", 40)
    found = tiles(model, ROWS, window=window)
    assert [tile.start for tile in found] == list(range(0, 25, window))
    assert [k for tile in found for k in tile.ids] == list(ROWS.ids)
    torch.testing.assert_close(joined(found), whole, rtol=1e-4, atol=1e-5)


def test_a_pass_that_starts_later_gives_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "POSITIONS", 40)
    model = text_model("Llama", dtype=torch.float32)
    whole = joined(tiles(model, ROWS, window=8))
    assert torch.equal(whole, joined(tiles(model, ROWS, window=8)))
    for start in (8, 16, 24):
        assert torch.equal(joined(tiles(model, ROWS, window=8, start=start)), whole[start:])
    assert tiles(model, ROWS, window=8, start=32) == []


def test_statistics() -> None:
    model = text_model("Llama")
    rows = examples("the cat sat", "a dog " * 60)
    (tile,) = tiles(model, rows, miss=True, measurement=Margin("mean"))
    assert tile.features.dtype == torch.float32
    assert tile.statistics["cut"].tolist() == [0, 1]
    assert tile.statistics["skipped"].tolist() == [0, 0]
    for name, measurement in (("value", Margin("mean")), ("miss", Miss("mean"))):
        for k in range(2):
            batch = model.task.collate([model.task.encode(rows[k])])
            expected = model.task.measure(model.module, batch, measurement).detach().float()
            torch.testing.assert_close(tile.statistics[name][k : k + 1], expected)


def test_windows_fit_their_memory() -> None:
    assert window_rows(10) == 1024
    assert window_rows(2**20) == 64
    assert window_rows(2**40) == 1
    assert window_rows(10, limit=8) == 8


def test_notes() -> None:
    assert notes(0, []) == ()
    cut, skipped = notes(3, list("abcdefg"))
    assert cut.startswith("3 examples")
    assert "a, b, c, d, e, ..." in skipped
    assert skipped.startswith("7 examples")


# -- not finite ------------------------------------------------------------------------------------------------------


class Root(nn.Module):
    """Finite at 0 with an infinite gradient; NaN below."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(1, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x).sqrt()


def roots() -> Model:
    model = array_model(Root())
    with torch.no_grad():
        model.module.linear.weight.fill_(1.0)  # pyright: ignore
    return model


@pytest.mark.parametrize(("x", "what"), [(-1.0, "loss"), (0.0, "gradient")])
def test_the_example_is_named(x: float, what: str) -> None:
    """The square root's derivative at 0 is infinite, times the input 0: NaN."""
    rows = arrays(torch.tensor([[1.0], [2.0], [x], [3.0]], dtype=torch.float64))
    with pytest.raises(NonFiniteError, match=f"Example {rows.ids[2]} has a {what}.*on_nonfinite='skip'"):
        tiles(roots(), rows)


def test_skipped_examples_are_zero_and_the_others_as_without_them() -> None:
    rows = arrays(torch.tensor([[1.0], [-2.0], [2.0], [0.0], [-1.0]], dtype=torch.float64))
    (tile,) = tiles(roots(), rows, on_nonfinite="skip", compression=Identity())
    assert tile.statistics["skipped"].tolist() == [0, 1, 0, 1, 1]
    assert tile.features[[1, 3, 4]].abs().max() == 0
    (alone,) = tiles(roots(), rows.select([0, 2]), compression=Identity())
    assert torch.equal(alone.features, tile.features[[0, 2]])
    assert torch.equal(alone.statistics["value"], tile.statistics["value"][[0, 2]])
    assert tile.statistics["value"].isfinite().all()


def test_an_infinite_loss_with_a_finite_gradient() -> None:
    """A target of probability zero: the gradient of the logits is finite, the loss is not."""

    class Impossible(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(2, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x).index_fill(1, torch.tensor([2]), float("-inf"))

    import assay

    model = Model(Impossible(), Classify())
    rows = assay.read((torch.randn(3, 2), torch.tensor([0, 2, 1])))
    with pytest.raises(NonFiniteError, match=f"{rows.ids[1]} has a loss.*inf"):
        tiles(model, rows)
    (tile,) = tiles(model, rows, on_nonfinite="skip")
    assert tile.statistics["skipped"].tolist() == [0, 1, 0]


def test_numbers_too_large_for_the_features() -> None:
    """Finite in float64 and infinite in float32, in which features are kept."""
    rows = arrays(torch.tensor([[1.0], [1e60]], dtype=torch.float64))
    model = array_model(nn.Linear(1, 1))
    with pytest.raises(NonFiniteError, match="gradient"):
        tiles(model, rows)


# -- left behind -----------------------------------------------------------------------------------------------------


def test_a_pass_that_is_given_up_leaves_the_module_as_it_was() -> None:
    model = text_model("Llama", dtype=torch.float32)
    model.module.train()
    before = {name: (p.requires_grad, p.clone()) for name, p in model.module.named_parameters()}
    running = feature_tiles(model, ROWS, Factored(rank=2), Loss(), lay_out(model), window=8)
    next(running)
    assert not model.module.training
    running.close()
    assert all(m.training for m in model.module.modules())
    assert not any(m._forward_hooks for m in model.module.modules())
    for name, p in model.module.named_parameters():
        assert p.requires_grad == before[name][0]
        assert torch.equal(p, before[name][1])
        assert p.grad is None


def test_coverage_does_not_depend_on_a_pass_that_is_running() -> None:
    model = text_model("Llama", dtype=torch.float32)
    running = feature_tiles(model, ROWS, Factored(rank=2), Loss(), lay_out(model), window=8)
    next(running)
    assert lay_out(model).coverage == 1
    running.close()
