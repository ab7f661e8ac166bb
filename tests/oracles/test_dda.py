"""DDA against a transcription of its formula in float64, against contrastive GradDot, and against real steps of training."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import Float64
from tests.support import batch_of, examples, naive_losses, text_model
from torch import Tensor, nn

import assay
from assay.errors import DataError, MethodError
from assay.examples import Examples
from assay.methods import DDA, GradDot
from assay.models import Checkpoint, Model
from assay.tasks import Contrast
from assay.training import Recipe

TRAIN = examples(
    *({"prompt": f"the {a}", "completion": f" {b} {c}"} for a in ("cat", "big dog") for b in ("sat on", "saw")
      for c in ("the mat .", "you"))
)  # fmt: skip
QUERIES = examples(
    {"prompt": "the dog sat", "completion": " under the tree .", "contrast": " on you"},
    {"prompt": "a cat", "completion": " saw", "contrast": " ran under the red mat"},
)
WRONG = [{"prompt": row.data["prompt"], "completion": row.data["completion"]} for row in QUERIES]
RIGHT = [{"prompt": row.data["prompt"], "completion": row.data["contrast"]} for row in QUERIES]


def flat(module: nn.Module, loss: Tensor) -> Tensor:
    gradients = torch.autograd.grad(loss, list(module.parameters()), retain_graph=True)
    return torch.cat([g.flatten() for g in gradients])


def staged(count: int = 4) -> Model:
    """The base and `count - 1` later checkpoints of a small Llama."""
    plain = text_model("Llama", tie_word_embeddings=True, num_hidden_layers=1)
    noise, stages = torch.Generator().manual_seed(3), []
    for k in range(count):
        state = {
            name: t + 0.15 * k * torch.randn(t.shape, generator=noise, dtype=torch.float64)
            for name, t in plain.module.state_dict().items()
        }
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
        stages.append(Checkpoint.of_state(str(k), 0.1, plain.module, state))
    return Model(plain.module, plain.task, checkpoints=stages)


def transcription(model: Model, beta: float) -> Float64[np.ndarray, "n q"]:
    """The paper's mean less beta times the base, by loops over checkpoints, queries and examples."""
    parts: list[np.ndarray] = []
    for stage in model.checkpoints:
        module = stage.load()
        own, wrong, right = (
            naive_losses(module, batch_of(model, rows), how)
            for rows, how in ((TRAIN, "sum"), (examples(*WRONG), "mean"), (examples(*RIGHT), "mean"))
        )
        scores = np.zeros((len(TRAIN), len(QUERIES)))
        for q in range(len(QUERIES)):
            delta = flat(module, wrong[q] - right[q])
            for i in range(len(TRAIN)):
                scores[i, q] = float(flat(module, own[i]) @ delta)
        spread = np.sqrt(((scores - scores.mean(0)) ** 2).mean(0))
        parts.append(scores / spread)
    return np.mean(parts[1:], axis=0) - beta * parts[0]


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("indexed", [False, True])
def test_transcription(beta: float, indexed: bool, tmp_path: Path) -> None:
    """Exact, and through an index whose compression is as wide as the layers, which keeps all."""
    model = staged()
    if indexed:
        built = assay.build(model, TRAIN, tmp_path / "index", method=DDA(beta=beta), compression="factored:64")
        found = built.score(QUERIES).array
    else:
        found = assay.attribute(model, TRAIN, QUERIES, DDA(beta=beta)).array
    expected = transcription(model, beta)
    np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())


def test_one_checkpoint_without_the_base_is_contrastive_graddot() -> None:
    model = staged(2)
    found = assay.attribute(model, TRAIN, QUERIES, DDA(beta=0.0, level="none")).array
    last = Model(model.checkpoints[1].load(), model.task)
    expected = assay.attribute(last, TRAIN, QUERIES, GradDot(measure="contrast")).array
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_nothing_was_taught_between_equal_checkpoints() -> None:
    model = staged(2)
    model = Model(model.module, model.task, checkpoints=[model.checkpoints[1], *model.checkpoints[1:]])
    assert np.abs(assay.attribute(model, TRAIN, QUERIES, DDA(beta=0.0)).array).max() > 0.1
    assert np.abs(assay.attribute(model, TRAIN, QUERIES, DDA(beta=1.0)).array).max() < 1e-6


def test_the_base_is_that_of_the_run() -> None:
    """A recipe is trained; its initialisation is the base."""
    plain = text_model("Llama", num_hidden_layers=1)
    recipe = Recipe(plain.module, plain.task, optimizer="adamw", lr=3e-3, epochs=3, batch_size=4, checkpoints=3)
    run = recipe.train(TRAIN)
    base = Checkpoint("base", 1.0, lambda: plain.module)
    given = Model(run.model.module, plain.task, checkpoints=[base, *run.checkpoints])
    expected = assay.attribute(given, TRAIN, QUERIES, DDA(beta=1.0)).array
    np.testing.assert_array_equal(assay.attribute(run, TRAIN, QUERIES, DDA(beta=1.0)).array, expected)
    np.testing.assert_array_equal(assay.attribute(recipe, TRAIN, QUERIES, DDA(beta=1.0)).array, expected)


def test_what_the_base_preferred_counts_less_the_larger_beta() -> None:
    """Over the examples, the scores correlate ever less with the base's losses on the contrast."""
    model = staged()
    base = Model(model.checkpoints[0].load(), model.task)
    preferred = assay.attribute(base, TRAIN, QUERIES, GradDot(measure="contrast")).array
    for q in range(len(QUERIES)):
        seen = [
            np.corrcoef(assay.attribute(model, TRAIN, QUERIES, DDA(beta=beta)).array[:, q], preferred[:, q])[0, 1]
            for beta in (0.0, 0.5, 1.0, 2.0)
        ]
        assert seen == sorted(seen, reverse=True)
        assert seen[0] - seen[-1] > 0.2


def test_a_score_above_zero_means_that_the_example_teaches_the_wrong_answer() -> None:
    """A small step on one example moves log p(completion) - log p(contrast) by its score, for each query."""
    model, rate = staged(2), 1e-5
    scores = assay.attribute(model, TRAIN, QUERIES, DDA(beta=0.0, level="none"))
    for i in (0, 3, 6):
        module = copy.deepcopy(model.checkpoints[1].load())
        before = contrast(model, module)
        module.zero_grad()
        naive_losses(module, batch_of(model, TRAIN.select([i])))[0].backward()
        with torch.no_grad():
            for p in module.parameters():
                p -= rate * (p.grad if p.grad is not None else 0.0)
        np.testing.assert_allclose((contrast(model, module) - before) / rate, scores.array[i], rtol=2e-2, atol=1e-2)
    assert "taught the query's completion rather than its contrast" in scores.provenance.notes[0]


def contrast(model: Model, module: nn.Module) -> np.ndarray:
    with torch.no_grad():
        return model.task.measure(module, batch_of(model, QUERIES), Contrast("mean")).numpy()


def test_retraining_does_not_ask_for_the_base_to_be_subtracted() -> None:
    """What each example did to the contrast, by training without it: subtracting the base's part predicts it worse."""
    plain = text_model("Llama", num_hidden_layers=1)
    recipe = Recipe(plain.module, plain.task, optimizer="sgd", lr=0.005, epochs=4, batch_size=8, checkpoints=4)
    run = recipe.train(TRAIN)
    whole, effect = contrast(run.model, run.model.module), np.zeros((len(TRAIN), len(QUERIES)))
    for i in range(len(TRAIN)):
        weights = np.ones(len(TRAIN))
        weights[i] = 0
        without = recipe.train(TRAIN, weights).model
        effect[i] = whole - contrast(without, without.module)
    agree = {
        beta: np.mean([
            np.corrcoef(assay.attribute(run, TRAIN, QUERIES, DDA(beta=beta)).array[:, q], effect[:, q])[0, 1]
            for q in range(len(QUERIES))
        ])
        for beta in (0.0, 0.5, 1.0)
    }  # fmt: skip
    assert agree[0.0] > 0.95
    assert agree[0.5] < agree[0.0] - 0.02
    assert agree[1.0] < 0.3


def test_parts_add_up() -> None:
    model = staged(3)
    method = DDA(beta=0.5)
    scores = assay.attribute(model, TRAIN, QUERIES, method)
    parts = assay.parts(model, TRAIN, QUERIES, method, by=("loss-token", "module"))
    for fold in parts:
        i, q = TRAIN.ids.index(fold.train_id), QUERIES.ids.index(fold.query_id)
        assert fold.total == pytest.approx(float(scores.array[i, q]), abs=1e-4 * float(np.abs(scores.array).max()))


def test_bad_input() -> None:
    model = staged(2)
    bare = Model(model.module, model.task)
    one = Model(model.module, model.task, checkpoints=model.checkpoints[:1])
    for given, has in ((bare, "no checkpoints"), (one, "1 checkpoint[^s]")):
        with pytest.raises(MethodError, match=rf"the model has {has}.*base model first"):
            assay.attribute(given, TRAIN, QUERIES, "dda")
    lacking: Examples = examples(*WRONG)
    with pytest.raises(DataError, match="no field 'contrast'"):
        assay.attribute(model, TRAIN, lacking, "dda")
    with pytest.raises(MethodError, match=r"beta=-1"):
        DDA(beta=-1)
    assert assay.attribute(model, TRAIN, lacking, DDA(measure="loss")).array.shape == (8, 2)
