"""Mean and mean square of gradients in one pass: against dense gradients, and taken up again."""

import torch
from tests.support import TEXTS, array_model, arrays, batch_of, examples, text_model
from torch import nn

from assay.curvature.average import Averages, averages
from assay.curvature.base import Fit
from assay.curvature.sweep import sweep
from assay.examples import Examples
from assay.gradients.blocks import lay_out, to_vectors
from assay.gradients.functional import dense_gradients
from assay.models import Model
from assay.tasks import Loss


def assert_right(model: Model, rows: Examples) -> None:
    layout = lay_out(model)
    mean, squares = averages(Fit(model, rows, layout, Loss("mean")))
    right = to_vectors(layout.blocks, dense_gradients(model, batch_of(model, rows), Loss("mean")))
    torch.testing.assert_close(mean, right.mean(0))
    found = torch.cat([block.flatten() for block in squares.eigenvalues])
    torch.testing.assert_close(found, right.square().mean(0))


def test_a_language_model_with_tied_weights() -> None:
    assert_right(text_model("Llama", tie_word_embeddings=True, num_hidden_layers=1), examples(*TEXTS))


def test_layers_at_one_position() -> None:
    torch.manual_seed(0)
    assert_right(array_model(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))), arrays(torch.randn(7, 3)))


def test_sums_are_taken_up_again() -> None:
    model, rows = text_model("Llama", num_hidden_layers=1), examples(*TEXTS)
    layout, halves = lay_out(model), (rows.select([0, 1]), rows.select([2, 3]))
    kept, whole, again = (Averages(layout.blocks, model.device) for _ in range(3))
    sweep(model, halves[0], kept, Loss("mean"), layout)
    sweep(model, rows, whole, Loss("mean"), layout)
    again.restore(kept.state())
    sweep(model, halves[1], again, Loss("mean"), layout)
    for name, total in whole.state().items():
        torch.testing.assert_close(again.state()[name], total)
