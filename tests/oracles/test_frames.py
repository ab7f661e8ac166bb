"""Values of utterances: sums of exact frame values, which add up to the proxy's utility; corrupted ones are worth less."""

from functools import cache

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from tests.speech_toy import SYMBOLS, Linear, Recordings, spoken

import assay
from assay.errors import MethodError
from assay.methods import FrameValues
from assay.methods.speech.frames import collapsed, frame_values, frames_of
from assay.tasks import CTC


@cache
def trained() -> tuple[assay.Model, Recordings, Recordings, np.ndarray]:
    """A recogniser, its training data of which a fifth have another transcript, validation data, and which fifth."""
    pairs, rng = spoken(60, 0), np.random.default_rng(1)
    wrong = rng.permutation(60) < 12
    for i in np.flatnonzero(wrong):
        said = pairs[i][1]
        while said == pairs[i][1]:
            said = "".join(rng.permutation(list(SYMBOLS))[:3])
        pairs[i] = (pairs[i][0], said)
    train = Recordings(pairs)
    recipe = assay.Recipe(Linear, CTC(SYMBOLS), optimizer="adam", lr=0.05, epochs=12, batch_size=10)
    return recipe.train(train).model, train, Recordings(spoken(20, 2)), wrong


def test_corrupted_utterances_are_worth_less() -> None:
    model, train, valid, wrong = trained()
    values = assay.value(model, train, valid, FrameValues())
    assert roc_auc_score(wrong, -values.array) > 0.85
    assert roc_auc_score(wrong, -values.raw["mean"]) > 0.85
    np.testing.assert_allclose(values.raw["sum"], values.raw["mean"] * values.raw["frames"], atol=1e-12)
    assert values.provenance.notes[0].startswith(f"{values.raw['frames'].sum():,.0f} training")


@pytest.mark.parametrize("components", [0, 2])
def test_sums_are_the_utility_of_the_proxy(components: int) -> None:
    model, train, valid, _ = trained()
    k = 5
    values = assay.value(model, train, valid, FrameValues(k=k, components=components, valid_frames=100))
    task = model.task
    assert isinstance(task, CTC)
    mine = frames_of(model, task, assay.read(train))
    theirs = frames_of(model, task, assay.read(valid)).some(100, 0)
    rows, queries = FrameValues(components=components)._reduced(mine, theirs)
    order = np.argsort((1 - queries @ rows.T).numpy(), axis=1, kind="stable")[:, :k]
    utility = (mine.symbols[order] == theirs.symbols[:, None]).mean(1) - 1 / len(np.unique(mine.symbols))
    assert values.array.sum() == pytest.approx(utility.mean(), abs=1e-10)
    mean = assay.value(model, train, valid, FrameValues(k=k, components=components, valid_frames=100, fold="mean"))
    np.testing.assert_array_equal(mean.array, values.raw["mean"])


def test_frame_values_are_those_of_knn_shapley() -> None:
    rng = np.random.default_rng(0)
    x, xv = (torch.nn.functional.normalize(torch.tensor(rng.normal(size=(n, 3)), dtype=torch.float32)) for n in (9, 4))
    y, yv = rng.integers(0, 2, 9), rng.integers(0, 2, 4)
    found, _ = frame_values(x, xv, y, yv, 3)
    knn = assay.methods.KNNShapley(k=3, metric="cosine", scale=False)
    np.testing.assert_allclose(found, assay.value(None, (x, y), (xv, yv), knn).array, atol=1e-12)


def test_runs_of_blanks_become_their_mean() -> None:
    rows, kept = collapsed(np.arange(6.0)[:, None], np.array([0, 0, 2, 2, 0, 0]))
    np.testing.assert_array_equal(rows[:, 0], [0.5, 2.0, 3.0, 4.5])
    np.testing.assert_array_equal(kept, [0, 2, 3, 4])


def test_other_models_and_no_goal_are_refused() -> None:
    model, train, valid, _ = trained()
    with pytest.raises(MethodError, match="recogniser"):
        assay.value(None, train, valid, "frames")
    with pytest.raises(MethodError, match="on="):
        assay.value(model, train, method="frames")
