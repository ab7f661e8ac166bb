"""What every registered method promises, whatever it computes: one suite over the registry.

Texts go through a tiny Llama with two checkpoints; arrays through linear models where a gradient is known to vanish or
to change its sign; the methods for trees have a boosted ensemble and arrays of their own.
"""

import copy
import pickle
from collections.abc import Callable
from dataclasses import FrozenInstanceError, fields
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.ensemble import GradientBoostingClassifier
from tests.support import examples, text_model
from torch import Tensor, nn

import assay
from assay.errors import AssayError
from assay.examples import Examples
from assay.gradients import features
from assay.inference import local
from assay.methods import METHODS as EVERY
from assay.methods import Method, Registered, ValueMethod
from assay.methods import streamed as blocks
from assay.methods.gradient.base import GradientMethod
from assay.methods.lexical import embedding
from assay.models import Checkpoint, Model
from assay.moments import AdamMoments
from assay.results import Result
from assay.tasks import Classify, Regress
from assay.training import Recipe

OTHERS = ("retrain", "neighbors", "closed", "speech", "student")
METHODS = tuple(kind for kind in EVERY if kind.family not in OTHERS and kind.name != "pvi")
"""The others need labels, an estimator, transcripts, more rows or a recipe: test_retraining.py, test_closed_forms.py, test_students.py,
test_dynamics.py."""
OPTIONS: dict[str, dict[str, Any]] = {
    "trak": {"compression": "sjlt:64"},  # of 2,048 dimensions no more is learned
    "lissa": {"depth": 5},
    "source": {"segments": 2},
    "path-krylov": {"segments": 1, "krylov": 4},
}
SAME: dict[str, dict[str, Any]] = {"dda": {"beta": 0.5, "measure": "loss"}, "infra": {"mlp": "*"}}
"""Where all checkpoints are one model, queries have one answer, and no module is called a MLP."""
APART: dict[str, dict[str, Any]] = {"trackstar": {"mix": 0.0}}  # by default it looks at all queries together
SCORING = [kind for kind in METHODS if issubclass(kind, Method)]
VALUING = [kind for kind in METHODS if issubclass(kind, ValueMethod)]
OF_MODELS = ("gradient", "replay", "unrolling")  # families whose gradients are a model's
ASKING = ("inference",)  # families that ask a model and take no gradient
OF_RECIPES = ("replay", "unrolling")  # families that take a recipe
GRADIENT = [kind for kind in METHODS if issubclass(kind, GradientMethod)]
TRAIN = examples(
    "the cat sat on the mat", "a big red dog ran under the tree and saw the cat", "hello who are you", "I am a dog .",
    "the cat sat on the mat", "you saw the big red mat", "a dog and a cat ran", "under the tree sat a dog and a cat .",
    "who sat on the mat", "the tree",
)  # fmt: skip
TWINS = (0, 4)
QUERIES = examples("the cat ran", "who saw the big dog under the tree", "hello", "the cat sat on the mat")
CONTRASTS = examples(
    *(
        {"prompt": "the", "completion": f" {one}", "contrast": f" {other}"}
        for one, other in (
            ("cat ran", "dog"),
            ("big dog", "tree sat"),
            ("mat", "red mat"),
            ("cat sat on the mat", "cat"),
        )
    )
)
"""For methods that ask why one answer and not another."""

ROWS = np.random.default_rng(0).normal(size=(32, 3))
ROWS[4] = ROWS[0]
CLASSES = (ROWS[:, 0] + 0.5 * ROWS[:, 1] > 0).astype(int)
TREE_TRAIN, TREE_QUERIES = assay.read((ROWS[:24], CLASSES[:24])), assay.read((ROWS[24:28], 1 - CLASSES[24:28]))
MODULES = [kind for kind in METHODS if kind.family != "trees"]
"""What may hold a user's module."""

named = pytest.mark.parametrize("kind", SCORING, ids=lambda kind: kind.name)
valued = pytest.mark.parametrize("kind", VALUING, ids=lambda kind: kind.name)
anything = pytest.mark.parametrize("kind", METHODS, ids=lambda kind: kind.name)


@cache
def language() -> Model:
    """With two checkpoints, of which the last is the model as it is."""
    plain = text_model("Llama", tie_word_embeddings=True, num_hidden_layers=1)
    now = {name: tensor.clone() for name, tensor in plain.module.state_dict().items()}
    before = {name: 0.9 * tensor for name, tensor in now.items()}
    stages = [
        Checkpoint.of_state(name, rate, plain.module, state, partial(moments, plain.module, 0.1))
        for name, rate, state in (("a", 0.2, before), ("b", 0.1, now))
    ]
    return Model(plain.module, plain.task, checkpoints=stages)


@cache
def boosted() -> Any:
    """A fitted estimator."""
    model = GradientBoostingClassifier(n_estimators=6, max_depth=2, random_state=0)
    return model.fit(ROWS[:24], CLASSES[:24])


def asked(kind: type[Registered]) -> Any:
    """The model of a method's kind."""
    return boosted() if kind.family == "trees" else language()


def train_of(kind: type[Registered]) -> Examples:
    return TREE_TRAIN if kind.family == "trees" else TRAIN


def queries_of(kind: type[Registered]) -> Examples:
    if kind.name == "dda":
        return CONTRASTS
    return TREE_QUERIES if kind.family == "trees" else QUERIES


def moments(module: nn.Module, first: float) -> AdamMoments:
    """Of an optimiser that moves all parameters alike."""
    sizes = {name: torch.ones_like(p.detach()) for name, p in module.named_parameters()}
    return AdamMoments({n: first * p for n, p in sizes.items()}, sizes, 3)


def made(kind: type[Any], **options: Any) -> Any:
    """The method as it is tested: with its defaults, or nearly."""
    return kind(**OPTIONS.get(kind.name, {}) | options)


def result(
    kind: type[Registered], model: Any, train: Examples | None = None, queries: Examples | None = None, **options: Any
) -> Result:
    """Scores, or values."""
    train, queries = train or train_of(kind), queries or queries_of(kind)
    if issubclass(kind, Method):
        return assay.attribute(subject(kind, model), train, queries, made(kind, **options))
    return assay.value(model, train, method=made(kind, **options))


def subject(kind: type[Registered], model: Any) -> Any:
    """What the method takes: a model, or a recipe that trains it; on all examples at once, so that their order is moot."""
    if kind.family not in OF_RECIPES or not isinstance(model, Model):
        return model
    return Recipe(model.module, model.task, optimizer="sgd", lr=0.01, epochs=4, batch_size=100)


@cache
def usual(kind: type[Registered]) -> Any:
    """The scores, or values, that others are compared with."""
    return result(kind, asked(kind))


def numbers(
    kind: type[Registered], model: Any, train: Examples | None = None, queries: Examples | None = None, **options: Any
) -> np.ndarray:
    """One row an example; a value method has one column."""
    found: Any = result(kind, model, train, queries, **options)
    return found.array.reshape(len(train or train_of(kind)), -1)


def assert_same(found: np.ndarray, expected: np.ndarray, tolerance: float = 1e-4) -> None:
    """Up to rounding, relative to the largest number."""
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=tolerance * np.abs(expected).max())


# -- what comes back ---------------------------------------------------------------------------------------------------


@named
def test_scores_have_the_right_form(kind: type[Method]) -> None:
    scores = usual(kind)
    assert scores.array.shape == (len(train_of(kind)), len(queries_of(kind)))
    assert scores.array.dtype == np.float32
    assert np.isfinite(scores.array).all()
    assert np.abs(scores.array).max() > 0
    assert list(scores.train_ids) == list(train_of(kind).ids)
    assert list(scores.query_ids) == list(queries_of(kind).ids)
    assert list(scores.train.texts) == list(train_of(kind).texts)


@valued
def test_values_have_the_right_form(kind: type[ValueMethod]) -> None:
    values = usual(kind)
    assert values.array.shape == (len(train_of(kind)),)
    assert np.isfinite(values.array).all()
    assert list(values.ids) == list(train_of(kind).ids)


@anything
def test_provenance_is_complete(kind: type[Registered]) -> None:
    found = usual(kind)
    about = found.provenance
    assert (about.method, about.unit) == (kind.name, kind.unit)
    assert about.parameters.items() >= made(kind).parameters().items()
    assert about.sign == "higher = more helpful"
    assert about.train_fingerprint == train_of(kind).fingerprint()
    assert about.inputs["train"] == train_of(kind).origin
    assert about.seconds > 0
    assert about.peak_memory > 2**20
    assert {"assay", "python", "torch", "numpy"} <= set(about.versions)
    if issubclass(kind, Method):
        assert about.query_fingerprint == queries_of(kind).fingerprint()
        assert about.inputs["queries"] == queries_of(kind).origin
    takes_model = kind.family in (*OF_MODELS, *ASKING, "trees", "dynamics") or kind.name == "embedding"
    assert (about.model_fingerprint is not None) == ("model" in about.inputs) == takes_model
    if kind.name == "infra":  # of a model, its MLPs
        assert 0 < about.coverage < 1
    else:
        assert about.coverage == (1.0 if kind.family in OF_MODELS else None)


@anything
def test_results_come_back_from_disk(kind: type[Registered], tmp_path: Path) -> None:
    found = usual(kind)
    found.save(tmp_path / "run")
    loaded: Any = type(found).load(tmp_path / "run")
    np.testing.assert_array_equal(loaded.array, found.array)
    assert loaded.provenance == found.provenance
    assert loaded.to_frame().equals(found.to_frame())


@named
@pytest.mark.parametrize("k", [1, 3, 50])
def test_the_best_k_are_those_of_all_scores(kind: type[Method], k: int) -> None:
    fitted = made(kind).fit(subject(kind, asked(kind)), train_of(kind))
    some, everything = fitted.score(queries_of(kind), top=k), fitted.score(queries_of(kind))
    assert not some.is_dense
    assert some.top(k).to_dict() == everything.top(k).to_dict()


# -- what must not matter ----------------------------------------------------------------------------------------------


@anything
def test_the_same_input_gives_the_same_bits(kind: type[Registered]) -> None:
    np.testing.assert_array_equal(numbers(kind, asked(kind)), usual(kind).array.reshape(len(train_of(kind)), -1))


@anything
def test_order_moves_rows_and_columns_and_nothing_else(kind: type[Registered]) -> None:
    rows, columns = np.random.permutation(len(train_of(kind))), [2, 0, 3, 1]
    expected = usual(kind).array.reshape(len(train_of(kind)), -1)[rows]
    if issubclass(kind, Method):
        expected = expected[:, columns]
    assert_same(numbers(kind, asked(kind), train_of(kind).select(rows), queries_of(kind).select(columns)), expected)


@anything
def test_batches_do_not_matter(kind: type[Registered], monkeypatch: pytest.MonkeyPatch) -> None:
    expected = usual(kind).array.reshape(len(train_of(kind)), -1)
    monkeypatch.setattr(features, "EXAMPLES", 1)
    monkeypatch.setattr(blocks, "BLOCK_SCORES", 1)
    monkeypatch.setattr(local, "EXAMPLES", 1)
    monkeypatch.setattr(embedding, "pack", lambda lengths, positions, most: [[k] for k in range(len(lengths))])
    assert_same(numbers(kind, asked(kind)), expected)


@anything
def test_equal_rows_score_equally_and_stay_two(kind: type[Registered]) -> None:
    found = usual(kind)
    array, (one, other) = found.array.reshape(len(train_of(kind)), -1), TWINS
    assert found.train.ids[one] != found.train.ids[other]
    if kind.name != "random":  # a function of the ids
        assert_same(array[one], array[other], 1e-5)


@named
def test_a_query_alone_scores_as_among_others(kind: type[Method]) -> None:
    apart = APART.get(kind.name, {})
    expected = numbers(kind, asked(kind), **apart)
    assert_same(numbers(kind, asked(kind), queries=queries_of(kind)[1:2], **apart), expected[:, 1:2])


# -- what stays as it was ----------------------------------------------------------------------------------------------


@anything
def test_constructors_record_and_nothing_changes_them(kind: type[Registered]) -> None:
    method = made(kind)
    before = copy.deepcopy(vars(method))
    assert set(before) == {entry.name for entry in fields(kind)}
    assert all("help" in entry.metadata for entry in fields(kind))
    if isinstance(method, Method):
        method.fit(subject(kind, asked(kind)), train_of(kind)).score(queries_of(kind))
    else:
        method.value(asked(kind), train_of(kind))  # type: ignore[attr-defined]
    assert vars(method) == before
    assert method == kind(**before)
    for name in before:
        with pytest.raises(FrozenInstanceError):
            setattr(method, name, before[name])


def snapshot(module: nn.Module) -> dict[str, Any]:
    """Everything of a module that somebody might leave changed."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "_state_dict_hooks")
    return {
        "bits": {name: tensor.clone() for name, tensor in module.state_dict().items()},
        "gradients": {name: (p.requires_grad, p.grad, p.dtype, id(p)) for name, p in module.named_parameters()},
        "modules": {name: (m.training, type(m), id(m)) for name, m in module.named_modules()},
        "hooks": {name: [len(getattr(m, hook)) for hook in hooks] for name, m in module.named_modules()},
        "attributes": {name: set(vars(m)) for name, m in module.named_modules()},
    }


def assert_untouched(before: dict[str, Any], module: nn.Module) -> None:
    after = snapshot(module)
    bits, other = before["bits"], after.pop("bits")
    assert bits.keys() == other.keys()
    assert all(torch.equal(tensor, other[name]) for name, tensor in bits.items())
    assert after == {name: value for name, value in before.items() if name != "bits"}


@pytest.fixture
def borrowed() -> Model:
    """A model in a mixed state: some of it in training mode, a parameter frozen, a hook of the user's."""
    model = language()
    module = copy.deepcopy(model.module).train()
    module.get_submodule("model.layers.0.self_attn").eval()
    module.get_submodule("model.layers.0.mlp.up_proj").requires_grad_(False)
    module.get_submodule("model.norm").register_forward_hook(lambda m, x, y: None)
    return Model(module, model.task, checkpoints=model.checkpoints)


@pytest.mark.parametrize("kind", MODULES, ids=lambda kind: kind.name)
def test_the_model_is_borrowed(kind: type[Registered], borrowed: Model) -> None:
    before = snapshot(borrowed.module)
    result(kind, borrowed)
    assert_untouched(before, borrowed.module)


@pytest.mark.parametrize("kind", MODULES, ids=lambda kind: kind.name)
@pytest.mark.parametrize("after", [1, 3])
def test_the_model_is_borrowed_also_when_something_fails(kind: type[Registered], after: int, borrowed: Model) -> None:
    """The task breaks at its `after`-th measurement, representation or output; the model itself at its `after`-th pass where
    it is asked without a measurement.
    """
    calls = 0

    class Broken(type(borrowed.task)):  # type: ignore[misc]
        def _count(self) -> None:
            nonlocal calls
            calls += 1
            if calls == after:
                raise KeyboardInterrupt

        def measure(self, *given: Any, **options: Any) -> Tensor:
            self._count()
            return super().measure(*given, **options)

        def features(self, *given: Any) -> Tensor:
            self._count()
            return super().features(*given)

        def outputs(self, *given: Any) -> Tensor:
            self._count()
            return super().outputs(*given)

    task = copy.copy(borrowed.task)
    task.__class__ = Broken
    if kind.family in ASKING:
        borrowed.module.get_submodule("model.norm").register_forward_pre_hook(lambda m, x: task._count())  # type: ignore[attr-defined]
    before = snapshot(borrowed.module)
    broken = Model(borrowed.module, task)  # without checkpoints, so that the user's own module runs
    if kind.name in ("tracin", "less", "dda"):
        own = Checkpoint("own", 1.0, lambda: borrowed.module, partial(moments, borrowed.module, 0.1))
        broken = Model(borrowed.module, task, checkpoints=[own, own] if kind.name == "dda" else [own])
    if kind.family == "dynamics":  # one batch a checkpoint
        broken = Model(
            borrowed.module, task, checkpoints=[Checkpoint(str(k), 1.0, lambda: borrowed.module) for k in range(3)]
        )
    with pytest.raises(KeyboardInterrupt):
        result(kind, broken)
        raise KeyboardInterrupt if kind.family in ("lexical", "baseline") else AssertionError("nothing broke")
    assert_untouched(before, borrowed.module)


@pytest.mark.parametrize("kind", [kind for kind in METHODS if kind.family == "trees"], ids=lambda kind: kind.name)
def test_the_estimator_is_borrowed(kind: type[Registered]) -> None:
    before = pickle.dumps(boosted())
    result(kind, boosted())
    assert pickle.dumps(boosted()) == before
    with pytest.raises(AssayError, match="features"):
        result(kind, boosted(), queries=assay.read((ROWS[:2, :2], CLASSES[:2])))
    assert pickle.dumps(boosted()) == before


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [kind for kind in METHODS if kind.name != "random"], ids=lambda kind: kind.name)
def test_data_that_do_not_fit_are_refused_in_words(kind: type[Registered]) -> None:
    wrong = TRAIN if kind.family == "trees" else assay.read((torch.zeros(3, 2), torch.zeros(3)))
    with pytest.raises(AssayError) as caught:
        result(kind, asked(kind), train=wrong)
    assert caught.value.exit_code == 2
    assert "arrays" in str(caught.value)


@pytest.mark.parametrize(
    "kind",
    [kind for kind in METHODS if kind.family in (*OF_MODELS, *ASKING, "trees", "dynamics") or kind.name == "embedding"],
)
@pytest.mark.parametrize("given", [None, "path/of/a/model", 3])
def test_what_is_no_model_is_refused_in_words(kind: type[Registered], given: Any) -> None:
    with pytest.raises(AssayError, match=rf"{kind.name}.*was given {type(given).__name__}"):
        result(kind, given)


# -- gradients that are known ------------------------------------------------------------------------------------------


def linear() -> tuple[nn.Module, Tensor]:
    """Whole numbers, so that a prediction can be met exactly."""
    torch.manual_seed(0)
    module = nn.Linear(4, 1, bias=False).double()
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[1.0, -2.0, 3.0, 0.0]]))
    return module, torch.randint(-4, 5, (20, 4)).double()


def on_checkpoint(module: nn.Module, task: Any) -> Model:
    end = Checkpoint("end", 0.5, lambda: module, partial(moments, module, 0.0))
    return Model(module, task, checkpoints=[end])


def with_base(kind: type[Any], model: Model) -> Model:
    """With the model before training in front, for the methods that take it: the same one."""
    return Model(model.module, model.task, checkpoints=[*model.checkpoints * (2 if kind.from_start else 1)])


def refused(kind: type[GradientMethod], make: Callable[[type[GradientMethod]], GradientMethod]) -> bool:
    """Whether the method takes exact gradients only; then it says so."""
    if not kind.compresses and make is not WIDTHS[0]:
        with pytest.raises(AssayError, match=rf"{kind.name} needs exact gradients"):
            make(kind)
        return True
    return False


WIDTHS: list[Callable[[type[GradientMethod]], GradientMethod]] = [
    lambda kind: kind(**({} if kind.compresses else OPTIONS.get(kind.name, {})), **SAME.get(kind.name, {})),
    lambda kind: kind(compression="factored:2", **SAME.get(kind.name, {})),
    lambda kind: kind(compression="sjlt:3", **SAME.get(kind.name, {})),
]


@pytest.mark.parametrize("kind", GRADIENT, ids=lambda kind: kind.name)
@pytest.mark.parametrize("make", WIDTHS, ids=["default", "factored", "sjlt"])
def test_an_example_without_gradient_scores_zero(
    kind: type[GradientMethod], make: Callable[[type[GradientMethod]], GradientMethod]
) -> None:
    """A prediction met exactly: no gradient of the loss, and no residual for TRAK; LESS without momentum."""
    if refused(kind, make):
        return
    module, x = linear()
    y = torch.randn(20, dtype=torch.float64)
    y[5] = module(x[5]).item()
    model = with_base(kind, on_checkpoint(module, Regress()))
    array = assay.attribute(model, (x, y), (x[:6], y[:6]), make(kind)).array
    assert (array[5] == 0).all()
    assert (np.abs(np.delete(array, 5, axis=0)).max(1) > 0).all()
    if kind.name != "trak":  # its queries are margins, whose gradient does not vanish
        assert (array[:, 5] == 0).all()


@pytest.mark.parametrize("kind", GRADIENT, ids=lambda kind: kind.name)
@pytest.mark.parametrize("make", WIDTHS, ids=["default", "factored", "sjlt"])
def test_a_negated_query_negates_its_scores(
    kind: type[GradientMethod], make: Callable[[type[GradientMethod]], GradientMethod]
) -> None:
    """The target on the other side of the prediction; of two classes the other one, whose margin is the negative."""
    if refused(kind, make):
        return
    module, x = linear()
    if kind.name == "trak":

        class Two(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.line = module

            def forward(self, x: Tensor) -> Tensor:
                return torch.cat([torch.zeros(len(x), 1, dtype=x.dtype), self.line(x)], 1)

        y = torch.randint(0, 2, (20,))
        model, other = on_checkpoint(Two(), Classify()), 1 - y
    else:
        y = torch.randn(20, dtype=torch.float64)
        model, other = with_base(kind, on_checkpoint(module, Regress())), 2 * module(x).detach().squeeze(1) - y
    one, negated = (assay.attribute(model, (x, y), (x[:6], z[:6]), make(kind)).array for z in (y, other))
    assert np.abs(one).max() > 0
    assert_same(negated, -one, 1e-6)


@pytest.mark.parametrize("kind", [kind for kind in METHODS if kind.family == "gradient"], ids=lambda kind: kind.name)
def test_an_example_that_is_not_finite_stops_or_is_told(kind: type[Any]) -> None:
    module, x = linear()
    y = torch.randn(20, dtype=torch.float64)
    x[7] = 1e200  # finite as data; its gradient is not as a float32
    train = assay.read((x, y))
    model = on_checkpoint(module, Regress())
    model = with_base(kind, model) if issubclass(kind, GradientMethod) else model
    queries = assay.read((x[:3], y[:3]))
    with pytest.raises(AssayError, match=str(train.ids[7])):
        result(kind, model, train, queries, **SAME.get(kind.name, {}))
    method = kind(**OPTIONS.get(kind.name, {}) | SAME.get(kind.name, {}) | {"on_nonfinite": "skip"})
    scoring = isinstance(method, Method)
    found: Any = assay.attribute(model, train, queries, method) if scoring else assay.value(model, train, method=method)
    assert (found.array[7] == 0).all()
    assert np.isfinite(found.array).all()
    (note,) = [note for note in found.provenance.notes if "not finite" in note]
    assert note == f"1 examples had a loss or gradient that is not finite and score 0: {train.ids[7]}."
