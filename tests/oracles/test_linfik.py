"""LinFiK: the mean product of dense gradients, and real steps of training."""

import numpy as np
import pytest
import torch
from tests.support import batch_of, examples, naive_losses, text_model
from torch import Tensor, nn

import assay
from assay.errors import NonFiniteError
from assay.examples import Examples
from assay.methods import EKFAC, GradCos, GradDot, TracIn
from assay.methods.gradient import live
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


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 1e-4)])
def test_values_are_the_mean_product_of_dense_gradients(dtype: torch.dtype, tolerance: float) -> None:
    model = llama(dtype)
    right = (dense(model, TRAIN) @ dense(model, TARGETS).mean(0)).numpy()
    values = assay.value(model, TRAIN, TARGETS, "linfik")
    assert np.abs(values.array - right).max() < tolerance * np.abs(right).max()
    assert values.unit == "arbitrary"
    assert values.coverage == 1
    scores = assay.attribute(model, TRAIN, TARGETS, "linfik")
    assert np.abs(scores.array.mean(1) - right).max() < tolerance * np.abs(right).max()


def test_one_scan_serves_all_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    """The training examples are multiplied with one direction, however many targets there are, also group by group."""
    widths: list[int] = []
    plain = live.Live.multiply

    def counted(self: live.Live, model: Model, layout: object, train: Examples, psi: Tensor, *rest: object) -> None:
        widths.append(len(psi))
        plain(self, model, layout, train, psi, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(live.Live, "multiply", counted)
    model = llama()
    expected = assay.value(model, TRAIN, TARGETS, "linfik").array
    assert widths == [1]
    monkeypatch.setattr(live, "MOST_NUMBERS", 1000)
    grouped = assay.value(model, TRAIN, TARGETS, "linfik").array
    assert len(widths) > 2
    assert set(widths) == {1}
    np.testing.assert_allclose(grouped, expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize("method", [GradDot(), TracIn(), GradCos(), EKFAC(), GradDot(measure="margin")], ids=str)
def test_the_mean_gradient_gives_the_mean_score(method: GradDot) -> None:
    """Also for a sum over checkpoints; methods that are not linear in the query's gradient take the mean of the scores."""
    model = llama()
    before = {name: 0.9 * tensor for name, tensor in model.module.state_dict().items()}
    stages = [Checkpoint.of_state("a", 0.2, model.module, before), Checkpoint("b", 0.1, lambda: model.module)]
    model = Model(model.module, model.task, checkpoints=stages)
    values = assay.value(model, TRAIN, TARGETS, method).array
    right = assay.attribute(model, TRAIN, TARGETS, method).array.mean(1, dtype=float)
    np.testing.assert_allclose(values, right, atol=1e-5 * np.abs(right).max())


def test_the_sign_of_one_step() -> None:
    """A step of SGD on one example at rate 1e-4 moves the targets' mean loss as its value says: more than 95% of signs, and in
    proportion.
    """
    model = llama()
    values = assay.value(model, TRAIN, TARGETS, "linfik").array
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
