"""LinFiK: products of dense gradients, and real steps of training."""

import numpy as np
import pytest
import torch
from tests.support import batch_of, examples, naive_losses, text_model
from torch import Tensor, nn

import assay
from assay.errors import MethodError, NonFiniteError
from assay.examples import Examples
from assay.methods import EKFAC, GradCos, GradDot, LinFiK, TracIn
from assay.methods.gradient import linfik, live
from assay.methods.gradient.base import GradientMethod
from assay.models import Checkpoint, Model
from assay.tasks import Loss, Regress

TRAIN = examples(
    *(
        f"the {a} {b} {c}"
        for a in ("cat", "dog", "big red tree")
        for b in ("sat on", "saw")
        for c in ("the mat .", "you")
    )
)
TARGETS = examples("the dog sat under the tree .", "hello who are you", "a big cat ran and saw the red mat")


def llama(dtype: torch.dtype = torch.float64) -> Model:
    return text_model("Llama", dtype=dtype, tie_word_embeddings=True)


def dense(model: Model, rows: Examples) -> Tensor:
    """Gradients of mean losses, from the model library's own logits: one backward pass an example."""
    parameters, batch = list(model.module.parameters()), batch_of(model, rows)
    found = []
    for k in range(len(rows)):
        loss = naive_losses(model.module, batch.select(k), "mean")[0]
        found.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)]).double())
    return torch.stack(found)


PLAIN = LinFiK(step="plain")


def metric(model: Model, gradients: Tensor) -> Tensor:
    """`1 / sqrt(v + lam)` of dense gradients, a parameter after another."""
    sizes = [p.numel() for p in model.module.parameters()]
    parts = gradients.square().mean(0).split(sizes)
    return torch.cat([(part + 0.1 * part.mean()).rsqrt() for part in parts])


def normalised(model: Model, train: Tensor, targets: Tensor) -> Tensor:
    """Values by the formula, from dense gradients of all of them."""
    P, m, g = metric(model, train), train.mean(0), targets.mean(0)
    beyond = g - (g @ (P * m)) / (m @ (P * m)) * m
    return (train / train.norm(dim=1, keepdim=True)) @ (P * beyond)


@pytest.mark.parametrize("step", ["normalised", "plain"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 1e-4)])
def test_values_are_the_products_of_dense_gradients(dtype: torch.dtype, tolerance: float, step: str) -> None:
    model = llama(dtype)
    train, targets = dense(model, TRAIN), dense(model, TARGETS)
    right = (normalised(model, train, targets) if step == "normalised" else train @ targets.mean(0)).numpy()
    method = LinFiK(step=step)
    values = assay.value(model, TRAIN, TARGETS, method)
    assert np.abs(values.array - right).max() < tolerance * np.abs(right).max()
    assert values.unit == "arbitrary"
    assert values.coverage == 1
    scores = assay.attribute(model, TRAIN, TARGETS, method)
    assert np.abs(scores.array.mean(1) - right).max() < tolerance * np.abs(right).max()


def test_the_derivative_of_one_step() -> None:
    """A step of fixed length, scaled as Adam scales it, on the pool and a little more of one example: what more of the example
    does to the targets' mean loss, by real steps.
    """
    model = llama()
    values = assay.value(model, TRAIN, TARGETS, "linfik").array
    gradients, batch = dense(model, TRAIN), batch_of(model, TARGETS)
    P, m = metric(model, gradients), gradients.mean(0)
    start = nn.utils.parameters_to_vector(model.module.parameters()).detach().clone()
    rate, share = 1e-3, 1e-2 * float(m.norm())

    def loss(towards: Tensor, rate: float) -> float:
        length = (towards @ (P * towards)).sqrt()
        nn.utils.vector_to_parameters(start - rate * P * towards / length, model.module.parameters())
        with torch.no_grad():
            return float(naive_losses(model.module, batch, "mean").mean())

    def fall(towards: Tensor) -> float:
        return (loss(towards, -rate) - loss(towards, rate)) / (2 * rate)

    units = gradients / gradients.norm(dim=1, keepdim=True)
    falls = np.array([fall(m + share * unit) - fall(m - share * unit) for unit in units]) / (2 * share)
    right = values / float((m @ (P * m)).sqrt())
    np.testing.assert_allclose(falls, right, atol=0.01 * np.abs(right).max())


def test_long_gradients_and_common_ones_do_not_win() -> None:
    """Of inputs that all share a feature, the one whose other feature is the target's comes first, not the longest one."""
    x = torch.tensor([[1.0, 0, 0], [1.0, 0.5, 0], [1.0, 0, 0.5], [1.0, 0, 0.5]], dtype=torch.float64)
    y = torch.tensor([[50.0], [1.0], [1.0], [1.0]], dtype=torch.float64)
    module = nn.Linear(3, 1, bias=False).double()
    nn.init.zeros_(module.weight)
    model, on = Model(module, Regress()), (x[1:2], y[1:2])
    assert assay.value(model, (x, y), on, PLAIN).array.argmax() == 0
    found = assay.value(model, (x, y), on, "linfik").array
    assert found.argmax() == 1
    assert found[2] < 0


def test_a_large_pool_is_known_by_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    model = llama()
    monkeypatch.setattr(linfik, "SAMPLE", 5)
    found = assay.value(model, TRAIN, TARGETS, LinFiK(seed=3))
    rows = np.sort(np.random.default_rng(3).permutation(len(TRAIN))[:5])
    some, targets = dense(model, TRAIN.select(rows)), dense(model, TARGETS)
    gradients = dense(model, TRAIN)
    P, m, g = metric(model, some), some.mean(0), targets.mean(0)
    right = (gradients / gradients.norm(dim=1, keepdim=True)) @ (P * (g - (g @ (P * m)) / (m @ (P * m)) * m))
    np.testing.assert_allclose(found.array, right.numpy(), atol=1e-6 * float(right.abs().max()))
    assert any("5 random rows of 12" in note for note in found.provenance.notes)


def test_stored_features_do_not_do() -> None:
    with pytest.raises(MethodError, match="exact gradients"):
        LinFiK(compression="factored:4")


def test_one_scan_serves_all_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    """The training examples are multiplied with one direction, however many targets there are, also group by group."""
    widths: list[int] = []
    plain = live.Live.multiply

    def counted(self: live.Live, model: Model, layout: object, train: Examples, psi: Tensor, *rest: object) -> None:
        widths.append(len(psi))
        plain(self, model, layout, train, psi, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(live.Live, "multiply", counted)
    model = llama()
    assay.value(model, TRAIN, TARGETS, "linfik")
    assert widths == [1]
    expected = assay.value(model, TRAIN, TARGETS, "graddot").array
    assert widths == [1, 1]
    monkeypatch.setattr(live, "MOST_NUMBERS", 1000)
    grouped = assay.value(model, TRAIN, TARGETS, "graddot").array
    assert len(widths) > 3
    assert set(widths) == {1}
    np.testing.assert_allclose(grouped, expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize(
    "method", [GradDot(), TracIn(), GradCos(), EKFAC(), GradDot(measure="margin"), LinFiK(measure="margin")], ids=str
)
def test_the_mean_gradient_gives_the_mean_score(method: GradientMethod) -> None:
    """Also for a sum over checkpoints; methods that are not linear in the query's gradient take the mean of the scores."""
    model = llama()
    before = {name: 0.9 * tensor for name, tensor in model.module.state_dict().items()}
    stages = [Checkpoint.of_state("a", 0.2, model.module, before), Checkpoint("b", 0.1, lambda: model.module)]
    model = Model(model.module, model.task, checkpoints=stages)
    values = assay.value(model, TRAIN, TARGETS, method).array
    right = assay.attribute(model, TRAIN, TARGETS, method).array.mean(1, dtype=float)
    np.testing.assert_allclose(values, right, atol=1e-5 * np.abs(right).max())


def test_the_sign_of_one_plain_step() -> None:
    """A step of SGD on one example at rate 1e-4 moves the targets' mean loss as its value says: more than 95% of signs, and in
    proportion.
    """
    model = llama()
    values = assay.value(model, TRAIN, TARGETS, PLAIN).array
    batch, gradients = batch_of(model, TARGETS), dense(model, TRAIN)
    start = nn.utils.parameters_to_vector(model.module.parameters()).detach().clone()

    def loss() -> float:
        with torch.no_grad():
            return float(model.task.measure(model.module, batch, Loss("mean")).mean())

    before, falls = loss(), []
    for g in gradients:
        nn.utils.vector_to_parameters(start - 1e-4 * g, model.module.parameters())
        falls.append(before - loss())
    assert np.mean(np.sign(falls) == np.sign(values)) > 0.95
    assert np.corrcoef(falls, values)[0, 1] > 0.999
    np.testing.assert_allclose(np.array(falls) / 1e-4, values, atol=0.02 * np.abs(values).max())


def test_a_target_that_is_not_finite_is_named() -> None:
    x, y = torch.randn(6, 3, dtype=torch.float64), torch.randn(6, dtype=torch.float64)
    wrong = x.clone()
    wrong[2] = 1e200
    model, targets = Model(nn.Linear(3, 1).double(), Regress()), assay.read((wrong, y))
    with pytest.raises(NonFiniteError, match=targets.ids[2]):
        assay.value(model, (x, y), targets, "linfik")
