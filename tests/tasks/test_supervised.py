"""Classification, regression, a loss of one's own, and the identities between measurements."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import assay
from assay.errors import DataError, MethodError, ModelError
from assay.examples import Example
from assay.tasks import Batch, Classify, Custom, Loss, Margin, Measurement, Miss, Regress, Task


def batch_of(task: Task, x: Tensor, y: Any) -> Batch:
    return task.collate([task.encode(row) for row in assay.read((x, y))])


@pytest.fixture
def logits() -> Tensor:
    return (3 * torch.randn(6, 4, dtype=torch.float64)).requires_grad_()


TARGET = torch.tensor([0, 3, 2, 1, 1, 0])


def test_loss_and_margin_are_tied(logits: Tensor) -> None:
    """`l = log(1 + exp(-f))` and `dl/df = -miss` (Park et al. 2023)."""
    loss, margin, miss = (m.of_logits(logits, TARGET) for m in (Loss(), Margin(), Miss()))
    torch.testing.assert_close(loss, torch.log1p(torch.exp(-margin)))
    (by_loss,) = torch.autograd.grad(loss.sum(), logits, retain_graph=True)
    (by_margin,) = torch.autograd.grad(margin.sum(), logits)
    torch.testing.assert_close(by_loss, -miss[:, None] * by_margin)
    torch.testing.assert_close(miss, 1 - logits.softmax(1)[range(6), TARGET])


@pytest.mark.parametrize("measurement", [Loss(), Margin(), Miss()], ids=str)
def test_values_with_gradients_in_closed_form(measurement: Measurement, logits: Tensor) -> None:
    value = measurement.of_logits(logits, TARGET)
    (expected,) = torch.autograd.grad(value.sum(), logits)
    found, gradient = measurement.with_gradient(logits.detach().clone(), TARGET)
    torch.testing.assert_close(found, value.detach())
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("measurement", [Loss(), Margin()], ids=str)
def test_large_logits_do_not_overflow(measurement: Measurement) -> None:
    logits = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0]], dtype=torch.float64)
    target = torch.tensor([0, 0])
    value, gradient = measurement.with_gradient(logits.clone(), target)
    assert value.isfinite().all()
    assert gradient.isfinite().all()
    expected = [0.0, 2e4] if isinstance(measurement, Loss) else [1e4, -2e4]
    torch.testing.assert_close(value, torch.tensor(expected).double())


# -- classification --------------------------------------------------------------------------------------------------


def test_classification() -> None:
    module, task, x = nn.Linear(3, 4), Classify(), torch.randn(6, 3)
    batch = batch_of(task, x, TARGET)
    expected = nn.functional.cross_entropy(module(x), TARGET, reduction="none")
    torch.testing.assert_close(task.measure(module, batch, Loss()), expected)
    torch.testing.assert_close(task.measure(module, batch, Loss("mean")), expected)


def test_inputs_take_the_modules_precision() -> None:
    for dtype in (torch.float64, torch.bfloat16):
        value = Classify().measure(nn.Linear(3, 4).to(dtype), batch_of(Classify(), torch.randn(6, 3), TARGET), Loss())
        assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


@pytest.mark.parametrize("y", [4, -1])
def test_classes_out_of_range(y: int) -> None:
    batch = batch_of(Classify(), torch.randn(3, 3), torch.tensor([0, y, 1]))
    with pytest.raises(DataError, match=rf"Example row:2 has label {y}; the model has 4 classes"):
        Classify().measure(nn.Linear(3, 4), batch, Loss())


@pytest.mark.parametrize("y", [1.5, "cat", None, torch.tensor([1, 2])])
def test_targets_that_are_no_class(y: Any) -> None:
    with pytest.raises(DataError, match="Example e1 has"):
        Classify().encode(Example("e1", {"x": torch.zeros(3), "y": y}))


def test_whole_numbers_are_classes() -> None:
    assert Classify().encode(Example("e1", {"x": torch.zeros(3), "y": 2.0})).tensors["y"] == torch.tensor(2)


@pytest.mark.parametrize("output", [torch.zeros(3, 2, 2), torch.zeros(2, 3), torch.zeros(()), (torch.zeros(3, 2),)])
def test_modules_that_return_no_logits(output: Any) -> None:
    class Other(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return output

    with pytest.raises(ModelError, match="The module returned"):
        Classify().measure(Other(), batch_of(Classify(), torch.randn(3, 3), torch.tensor([0, 1, 1])), Loss())


def test_shapes_that_differ() -> None:
    task = Classify()
    items = [task.encode(Example(str(n), {"x": torch.zeros(n), "y": 0})) for n in (2, 3)]
    with pytest.raises(DataError, match="different shapes"):
        task.collate(items)


def test_sampled_classes_follow_the_model() -> None:
    """3000 draws, within 5 standard errors."""
    module, x = nn.Linear(3, 4), torch.randn(1, 3)
    batch = batch_of(Classify(), x.expand(3000, 3), torch.zeros(3000).long())
    drawn = Classify().sample_labels(module, batch, torch.Generator().manual_seed(0)).tensors["y"]
    p = module(x)[0].softmax(0).detach()
    frequency = torch.bincount(drawn, minlength=4) / 3000
    assert ((frequency - p).abs() < 5 * (p * (1 - p) / 3000).sqrt()).all()


def test_data_of_another_kind() -> None:
    with pytest.raises(DataError, match=r"kind 'text'.*'classify' reads arrays"):
        Classify().check(assay.read([{"text": "a"}]))


# -- regression ------------------------------------------------------------------------------------------------------


def test_regression() -> None:
    module, x, y = nn.Linear(3, 2), torch.randn(5, 3), torch.randn(5, 2)
    found = Regress().measure(module, batch_of(Regress(), x, y), Loss())
    torch.testing.assert_close(found, 0.5 * (module(x) - y).square().sum(1))
    with pytest.raises(MethodError, match="one output"):
        Regress().measure(module, batch_of(Regress(), x, y), Margin())
    with pytest.raises(DataError, match="2 numbers an example and the module returns 1"):
        Regress().measure(nn.Linear(3, 1), batch_of(Regress(), x, y), Loss())


def test_regression_with_one_output() -> None:
    """`dl/df = f - y = -miss`, as for classes."""
    module, x, y = nn.Linear(3, 1), torch.randn(5, 3), torch.randn(5)
    batch = batch_of(Regress(), x, y)
    loss, margin, miss = (Regress().measure(module, batch, m) for m in (Loss(), Margin(), Miss()))
    torch.testing.assert_close(loss, 0.5 * miss.square())
    torch.testing.assert_close(margin, module(x)[:, 0])
    torch.testing.assert_close(miss, y - module(x)[:, 0])


def test_sampled_targets_are_normal_around_the_output() -> None:
    """3000 draws: mean within 5 standard errors, variance within 15%."""
    module, x = nn.Linear(3, 1), torch.randn(1, 3)
    batch = batch_of(Regress(), x.expand(3000, 3), torch.zeros(3000))
    drawn = Regress().sample_labels(module, batch, torch.Generator().manual_seed(0)).tensors["y"]
    noise = drawn - module(x).detach().double()
    assert abs(float(noise.mean())) < 5 / 3000**0.5
    assert abs(float(noise.var()) - 1) < 0.15


# -- a loss of one's own ---------------------------------------------------------------------------------------------


def test_a_loss_of_ones_own() -> None:
    def loss(module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return (module(x)[:, 0] - y).abs()

    task, module, x, y = Custom(loss, name="absolute"), nn.Linear(3, 1), torch.randn(5, 3), torch.randn(5)
    batch = batch_of(task, x, y)
    torch.testing.assert_close(task.measure(module, batch, Loss()), (module(x)[:, 0] - y).abs())
    with pytest.raises(MethodError, match="'absolute' knows its loss only"):
        task.measure(module, batch, Margin())
    with pytest.raises(MethodError, match="no distribution"):
        task.sample_labels(module, batch, torch.Generator())


def test_a_loss_without_targets_and_in_another_precision() -> None:
    task = Custom(lambda module, x, y: module(x).square().sum(1))
    item = task.encode(Example("e", {"x": torch.ones(3, dtype=torch.float64), "y": None}))
    assert task.measure(nn.Linear(3, 2), task.collate([item]), Loss()).shape == (1,)


@pytest.mark.parametrize("wrong", [lambda m, x, y: m(x).mean(), lambda m, x, y: m(x), lambda m, x, y: 3.0])
def test_losses_that_are_not_one_number_an_example(wrong: Any) -> None:
    with pytest.raises(ModelError, match="returned"):
        Custom(wrong).measure(nn.Linear(3, 2), batch_of(Custom(wrong), torch.randn(5, 3), torch.zeros(5)), Loss())
