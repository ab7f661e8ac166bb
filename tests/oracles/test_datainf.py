"""DataInf against the mean of explicit inverses."""

import numpy as np
import pytest
import torch
from tests.support import batch_of, shaken, text_model
from torch import Tensor, nn

import assay
from assay.examples import Examples
from assay.gradients.blocks import lay_out
from assay.gradients.functional import dense_gradients
from assay.methods import DataInf, GradDot
from assay.methods.gradient import datainf
from assay.models import Model
from assay.tasks import Classify, Loss

N = 12


def case() -> tuple[Model, Examples, Examples]:
    torch.manual_seed(0)
    x, y = torch.randn(N + 4, 3, dtype=torch.float64), torch.randint(0, 3, (N + 4,))
    model = Model(shaken(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).double()), Classify())
    return model, assay.read((x[:N], y[:N])), assay.read((x[N:], y[N:]))


def by_layer(model: Model, rows: Examples) -> list[Tensor]:
    dense = dense_gradients(model, batch_of(model, rows), Loss())
    return [block.assemble(dense).flatten(1) for block in lay_out(model).blocks]


def naive(model: Model, train: Examples, queries: Examples, factor: float, exact: bool = False) -> Tensor:
    """A dense inverse for every example and layer (`exact`: the inverse of the mean)."""
    total = torch.zeros(len(train), len(queries), dtype=torch.float64)
    for g, q in zip(by_layer(model, train), by_layer(model, queries), strict=True):
        lam = factor * g.square().mean() * torch.eye(g.shape[1], dtype=torch.float64)
        outer = torch.einsum("na,nb->nab", g, g)
        inverse = torch.linalg.inv(outer.mean(0) + lam) if exact else torch.linalg.inv(outer + lam).mean(0)
        total += g @ inverse @ q.T / len(train)
    return total


def test_the_mean_of_inverses() -> None:
    model, train, queries = case()
    right = naive(model, train, queries, 0.1)
    scores = assay.attribute(model, train, queries, DataInf()).array
    np.testing.assert_allclose(scores, right.numpy(), atol=1e-6 * float(right.abs().max()))
    q = torch.cat(by_layer(model, queries), 1)
    folded = DataInf().fitted_state(model, train, lay_out(model), 0)(q)
    products = torch.cat(by_layer(model, train), 1) @ folded.T / N
    torch.testing.assert_close(products, right, rtol=1e-5, atol=1e-6 * float(right.abs().max()))  # g_j are float32


def test_one_example_makes_it_exact() -> None:
    model, train, queries = case()
    one = train.select([0])
    right = naive(model, one, queries, 0.1, exact=True)
    scores = assay.attribute(model, one, queries, DataInf()).array
    np.testing.assert_allclose(scores, right.numpy(), rtol=1e-4, atol=1e-6 * float(right.abs().max()))


def test_large_damping_is_graddot() -> None:
    """Up to the layers' own lam, which is divided by."""
    torch.manual_seed(0)
    x, y = torch.randn(N + 4, 3, dtype=torch.float64), torch.randint(0, 3, (N + 4,))
    model = Model(shaken(nn.Linear(3, 3).double()), Classify())
    train, queries = assay.read((x[:N], y[:N])), assay.read((x[N:], y[N:]))
    scores = assay.attribute(model, train, queries, DataInf(damping=1e6)).array
    dot = assay.attribute(model, train, queries, GradDot()).array
    lam = 1e6 * float(by_layer(model, train)[0].square().mean())
    np.testing.assert_allclose(scores * lam * N, dot, atol=1e-4 * np.abs(dot).max())


def test_some_of_the_examples() -> None:
    model, train, queries = case()
    few = assay.attribute(model, train, queries, DataInf(fitting_examples=5)).array
    assert np.abs(few - assay.attribute(model, train, queries, DataInf()).array).max() > 0.01 * np.abs(few).max()


@pytest.mark.parametrize("limit", [10, 10**4])
def test_large_layers_are_told(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datainf, "LARGE", limit)
    model, train, queries = case()
    notes = assay.attribute(model, train, queries, DataInf()).provenance.notes
    assert [note.split(";")[1] for note in notes] == ([" 2 are larger: 0, 2."] if limit == 10 else [])


def test_a_window_of_examples_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from assay.gradients import features

    model = text_model("Llama", num_hidden_layers=1)
    rows = assay.read([{"text": t} for t in ("the cat sat on the mat", "a big red dog ran", "hello who are you")])
    whole = assay.attribute(model, rows, rows, DataInf()).array
    monkeypatch.setattr(features, "NUMBERS", 1)
    np.testing.assert_allclose(assay.attribute(model, rows, rows, DataInf()).array, whole, rtol=1e-4)
