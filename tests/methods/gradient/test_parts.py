"""Parts of scores: they sum to the score, are what backward passes give, and find what was planted."""

from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from tests.support import batch_of, classifier, config, examples, language_model, tokenizer
from torch import nn

import assay
from assay.errors import InputError, MethodError
from assay.examples import Examples
from assay.gradients.functional import dense_gradients
from assay.grain import BY, ELSEWHERE
from assay.methods import BM25, TRAK, GradCos, GradDot, TracIn
from assay.methods.gradient.base import GradientMethod
from assay.models import Checkpoint, Model
from assay.tasks import CausalLM, Classify, Loss, Measure
from assay.tasks.language import IGNORED

TRAIN = examples(
    "the cat sat on the mat . you saw a big red dog . who ran ?",
    "a big red dog ran under the tree",
    "hello who are you",
)
QUERIES = examples("the dog sat under the tree .", "who saw the cat")


@cache
def model() -> Model:
    """With two checkpoints, the last as it is now."""
    module = language_model("GPT2")
    now = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    before = {name: 0.8 * tensor for name, tensor in now.items()}
    stages = zip(("early", "late"), (0.5, 0.125), (before, now), strict=True)
    kept = [Checkpoint.of_state(name, rate, module, state) for name, rate, state in stages]
    return Model(module, CausalLM(tokenizer(), 64), checkpoints=kept)


def dot(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    return sum(float((one[name] * other[name]).sum()) for name in one)


@pytest.mark.parametrize("method", [GradDot(), GradCos(), TracIn(), GradDot(measure="margin", train_loss="mean")])
def test_every_fold_sums_to_the_score(method: GradientMethod) -> None:
    scores = assay.attribute(model(), TRAIN, QUERIES, method).array
    parts = assay.parts(model(), TRAIN, QUERIES, method, by=BY)
    assert len(parts) == 6 * 6
    for q, i in product(range(len(QUERIES)), range(len(TRAIN))):
        folds = [parts.of(QUERIES.ids[q], TRAIN.ids[i], by) for by in BY]
        size = np.abs(scores).max()
        assert abs(folds[0].total - scores[i, q]) < 1e-5 * size
        for fold in folds:
            assert abs(fold.total - folds[0].total) < 1e-10 * np.abs(folds[0].scores).sum(), fold.by
            assert len(fold) == len(fold.names)
    assert [fold.query_id for fold in parts] == sorted(fold.query_id for fold in parts)


def test_query_tokens_are_a_backward_pass_each() -> None:
    """Of a cosine: unit gradients on both sides, the query's taken token by token."""
    plain, method = Model(model().module, model().task), GradCos()
    (fold,) = assay.parts(plain, TRAIN[1:2], QUERIES[:1], method, by="query-token")
    g = dense_gradients(plain, batch_of(plain, TRAIN[1:2]), Loss("sum"))
    batch = batch_of(plain, QUERIES[:1])
    whole = dense_gradients(plain, batch, Loss("mean"))
    length = np.sqrt(dot(g, g) * dot(whole, whole))
    labels = batch.tensors["labels"]
    count = int((labels != IGNORED).sum())
    for t in range(1, labels.shape[1]):
        alone = torch.full_like(labels, IGNORED)
        alone[:, t] = labels[:, t]
        expected = dot(dense_gradients(plain, batch.replace(labels=alone), Loss("sum")), g) / count / length
        assert abs(fold.scores[t] - expected) < 1e-7
    assert fold.scores[0] == 0


def test_modules_are_terms_of_the_product_and_layers_their_sums() -> None:
    plain = Model(model().module, model().task)
    modules, layers = assay.parts(plain, TRAIN[:1], QUERIES[:1], GradDot(), by=("module", "layer"))
    g = dense_gradients(plain, batch_of(plain, TRAIN[:1]), Loss("sum"))
    h = dense_gradients(plain, batch_of(plain, QUERIES[:1]), Loss("mean"))
    for name, score in zip(modules.names, modules.scores, strict=True):
        mine = {p for p in g if p == name or p.rpartition(".")[0] == name}
        assert mine
        assert abs(score - sum(float((g[p] * h[p]).sum()) for p in mine)) < 1e-6 * np.abs(modules.scores).max()
    assert layers.names == [
        "transformer.wte",
        "transformer.wpe",
        "transformer.h.0",
        "transformer.h.1",
        "transformer.ln_f",
    ]
    inside = [s for n, s in zip(modules.names, modules.scores, strict=True) if n.startswith("transformer.h.1.")]
    assert abs(layers.scores[3] - sum(inside)) < 1e-10


def test_tokens_carry_the_text_and_its_places() -> None:
    text = TRAIN[0].text
    (fold,) = assay.parts(model(), TRAIN[:1], QUERIES[:1], "graddot", by="loss-token")
    assert fold.names[0] == "<s>"
    assert "".join(fold.names[1:]) == text
    pieces = [text[start:end] for start, end in zip(fold.starts, fold.ends, strict=True)]
    assert pieces[1:] == list(fold.names[1:])
    (sentences,) = assay.parts(model(), TRAIN[:1], QUERIES[:1], "graddot", by="sentence")
    assert [name.strip() for name in sentences.names] == [
        "the cat sat on the mat .", "you saw a big red dog .", "who ran ?"
    ]  # fmt: skip
    assert abs(sentences.scores[2] - fold.scores[-3:].sum()) < 1e-12


def test_only_the_top_of_given_scores(tmp_path: Path) -> None:
    scores = assay.attribute(model(), TRAIN, QUERIES, "graddot", tokens=1)
    assert scores.parts is not None
    assert set(scores.parts.by) == {"loss-token", "position", "query-token", "module"}
    wanted = [(scores.query_ids[q], scores.train_ids[i]) for i, q in scores.pairs(1)]
    assert scores.parts.pairs == wanted
    asked = assay.parts(model(), TRAIN, QUERIES, "graddot", of=scores, top=1, by="layer")
    assert asked.pairs == wanted
    scores.save(tmp_path / "run")
    back = assay.Scores.load(tmp_path / "run").parts
    assert back is not None
    assert back.to_frame().equals(scores.parts.to_frame())
    scores = assay.attribute(model(), TRAIN, QUERIES, "graddot")
    scores.save(tmp_path / "run")
    assert not (tmp_path / "run" / "parts.parquet").exists()
    assert assay.Scores.load(tmp_path / "run").parts is None


def test_a_fitted_method_is_taken_as_it_is() -> None:
    fitted = GradDot().fit(model(), TRAIN)
    (one,), (other,) = (assay.parts(m, TRAIN[2:], QUERIES[:1], "graddot", by="module") for m in (fitted, model()))
    np.testing.assert_array_equal(one.scores, other.scores)


def test_a_classifier_of_texts_has_positions_and_a_rest() -> None:
    rows = examples({"text": "the big red dog", "label": 2}, {"text": "who saw you", "label": 0})
    (fold,) = assay.parts(classifier(), rows[:1], rows[1:], "graddot", by="position")
    assert fold.names[-1] == ELSEWHERE
    assert abs(fold.total - assay.attribute(classifier(), rows[:1], rows[1:], "graddot").array[0, 0]) < 1e-5
    with pytest.raises(MethodError, match=r"no parts by 'loss-token'\. It has parts by 'position', 'module'"):
        assay.parts(classifier(), rows[:1], rows[1:], "graddot")


def test_arrays_have_modules_and_no_tokens() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    x, y = torch.randn(4, 3, dtype=torch.float64), torch.tensor([0, 1, 1, 0])
    scores = assay.attribute(Model(net, Classify()), (x, y), (x[:2], y[:2]), tokens=1)
    assert scores.parts is not None
    assert scores.parts.by == ("module",)
    with pytest.raises(MethodError, match="no parts by 'loss-token'"):
        assay.parts(Model(net, Classify()), (x, y), (x[:2], y[:2]))


@pytest.mark.parametrize("method", [TRAK(compression="sjlt:8"), GradDot(compression="factored:4"), BM25()])
def test_features_that_are_stored_have_no_parts(method: assay.methods.Registered) -> None:
    with pytest.raises(MethodError, match="without compression"):
        assay.parts(model(), TRAIN, QUERIES, method)
    with pytest.raises(MethodError, match="without compression"):
        assay.attribute(model(), TRAIN, QUERIES, method, tokens=1)


def test_what_cannot_be_asked_is_told() -> None:
    with pytest.raises(MethodError, match="no parts by 'word'"):
        assay.parts(model(), TRAIN, QUERIES, by="word")
    with pytest.raises(InputError, match="other examples"):
        assay.parts(model(), TRAIN[:2], QUERIES, of=assay.attribute(model(), TRAIN, QUERIES))
    own = GradDot(measure=Measure(lambda logits, target: logits.mean()))
    assert "query-token" not in (assay.attribute(model(), TRAIN, QUERIES, own, tokens=1).parts or assay.Parts()).by
    with pytest.raises(MethodError, match="a function of all tokens together"):
        assay.parts(model(), TRAIN, QUERIES, own, by="query-token")


def planted() -> tuple[Model, Examples, Examples]:
    """A model that learned from a few texts that `hello` is followed by `you`, and from many that anything follows."""
    words = ["the", "cat", "dog", "sat", "ran", "on", "under", "mat", "tree", "and", "saw", "big", "red"]
    generator = np.random.default_rng(0)
    rows: list[str] = []
    for k in range(60):
        some = list(generator.choice(words, 7))
        if k % 5 == 0:
            some[2:2] = ["hello", "you"]
        rows.append(" ".join(some))
    train, task = examples(*rows), CausalLM(tokenizer(), 64)
    torch.manual_seed(0)
    start = transformers.AutoModelForCausalLM.from_config(config("Qwen3"))
    recipe = assay.Recipe(start, task, optimizer="adamw", lr=1e-2, epochs=2, batch_size=10, seed=0)
    queries = assay.read([{"prompt": "a dog saw and hello", "completion": " you"}])
    return recipe.train(train).model, train, queries


def test_the_planted_token_is_the_top_token() -> None:
    trained, train, queries = planted()
    scores = assay.attribute(trained, train, queries, "graddot")
    parts = assay.parts(trained, train, queries, "graddot", of=scores, top=3)
    helpful = [fold for fold in parts if fold.total > 0]
    assert len(helpful) == 3
    for fold in helpful:
        top = int(np.argmax(fold.scores))
        assert fold.names[top - 1].strip() == "hello"
        assert fold.names[top].strip() == "you"
        assert fold.scores[top] > 0.9 * fold.total
