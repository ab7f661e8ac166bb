"""Replay against retraining: finite differences in float64, true removals, and what must not change a bit."""

import dataclasses
import weakref
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from tests.support import examples, language_model, tokenizer
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.models.llama import modeling_llama

import assay
from assay.errors import InputError, MethodError, ModelError
from assay.examples import Examples
from assay.methods import Replay
from assay.methods.centre import Centre
from assay.methods.replay import adjoint, engine, exact, gauss_newton
from assay.methods.replay.engine import differentiate
from assay.methods.replay.smoothness import metasmoothness
from assay.methods.replay.tape import Tape
from assay.methods.replay.update import Linearised
from assay.tasks import CausalLM, Classify, Custom, Loss, Margin
from assay.training import SGD, Adam, AdamW, Recipe, Update, store

N, FEATURES, CLASSES, QUERIES = 22, 5, 3, 4
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "sgd": {"optimizer": "sgd", "lr": 0.3},
    "sgd, decay, linear, clip": {
        "optimizer": "sgd", "lr": 0.5, "weight_decay": 0.05, "schedule": "linear", "clip": 0.4,
    },
    "momentum, decay, cosine, warmup": {
        "optimizer": "sgd", "lr": 0.2, "momentum": 0.8, "weight_decay": 0.03, "schedule": "cosine", "warmup": 0.3,
    },
    "adam, decay, linear, clip": {
        "optimizer": "adam", "lr": 0.03, "weight_decay": 0.05, "schedule": "linear", "clip": 0.5, "eps": 1e-4,
    },
    "adamw": {"optimizer": "adamw", "lr": 0.03},
    "adamw, decay, cosine, warmup, clip": {
        "optimizer": "adamw", "lr": 0.03, "weight_decay": 0.2, "schedule": "cosine", "warmup": 0.2, "clip": 0.6,
        "betas": (0.8, 0.95),
    },
}  # fmt: skip
MOST = OPTIMIZERS["adamw, decay, cosine, warmup, clip"]


def data(n: int = N, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    centres = 1.2 * torch.randn(CLASSES, FEATURES, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    y = torch.randint(0, CLASSES, (n,), generator=generator)
    return centres[y] + torch.randn(n, FEATURES, generator=generator, dtype=torch.float64), y


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(FEATURES, 6), nn.Tanh(), nn.Linear(6, CLASSES)).double()


def recipe(**options: Any) -> Recipe:
    settings = {"optimizer": "sgd", "lr": 0.3, "epochs": 3, "batch_size": 6} | options
    return Recipe(settings.pop("module", network), Classify(), **settings)


@cache
def train() -> Examples:
    return assay.read(data())


@cache
def queries() -> Examples:
    return assay.read(data(QUERIES, 1))


def losses(made: Recipe, weights: Tensor, train: Examples, queries: Examples) -> Tensor:
    return made.train(train, weights).loss_of(queries)


def differences(
    made: Recipe, train: Examples, queries: Examples, rows: list[int], weights: Tensor | None = None, h: float = 1e-4
) -> np.ndarray:
    """`dL_q / dw_i` by central differences of fourth order, [rows, queries]."""
    weights = torch.ones(len(train), dtype=torch.float64) if weights is None else weights
    found = []
    for row in rows:
        moved = {}
        for k in (-2, -1, 1, 2):
            other = weights.clone()
            other[row] += k * h
            moved[k] = losses(made, other, train, queries)
        found.append((8 * (moved[1] - moved[-1]) - (moved[2] - moved[-2])) / (12 * h))
    return torch.stack(found).numpy()


def assert_relative(found: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    """Relative to the largest entry of each query."""
    assert (np.abs(found - expected).max(0) <= tolerance * np.abs(expected).max(0)).all(), np.abs(found - expected)


# -- finite differences of retraining ----------------------------------------------------------------------------------


@pytest.mark.parametrize("case", OPTIMIZERS)
def test_equals_finite_differences(case: str) -> None:
    made, rows = recipe(**OPTIMIZERS[case]), [3, 12, 21]
    scores = assay.attribute(made, train(), queries(), "replay").array
    assert_relative(-scores[rows], differences(made, train(), queries(), rows), 1e-5)


@pytest.mark.parametrize("case", ["sgd", "adamw, decay, cosine, warmup, clip"])
def test_equals_finite_differences_at_any_weights(case: str) -> None:
    made, rows = recipe(**OPTIMIZERS[case]), [1, 5, 20]
    weights = torch.rand(N, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    weights[5] = 0.0
    tape = Tape(made.steps(train(), weights), 2**30)
    tau = differentiate(tape, gradients_of(tape, made), 2**30)
    assert_relative(tau.T.numpy()[rows], differences(made, train(), queries(), rows, weights), 1e-5)


TEXTS = (
    "the cat sat on the mat", "a big red dog ran under the tree", "hello who are you", "I am a dog .",
    "you saw the big red mat", "a dog and a cat ran",
)  # fmt: skip


@pytest.fixture
def exact_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Llama's norm computes in float32, which finite differences see; the same in float64."""

    def forward(self: Any, hidden: Tensor) -> Tensor:
        return self.weight * hidden * torch.rsqrt(hidden.square().mean(-1, keepdim=True) + self.variance_epsilon)

    monkeypatch.setattr(modeling_llama.LlamaRMSNorm, "forward", forward)


@pytest.mark.parametrize(("kind", "attention"), [("Llama", "sdpa"), ("GPT2", "eager"), ("GPT2", "sdpa")])
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_a_transformer_equals_finite_differences(kind: str, attention: str, dropout: float, exact_norm: None) -> None:
    name = "attention_dropout" if kind == "Llama" else "attn_pdrop"
    module = language_model(kind, attn_implementation=attention, num_hidden_layers=1, **{name: dropout})
    made = Recipe(
        module,
        CausalLM(tokenizer(), 64),
        optimizer="adamw",
        lr=3e-3,
        epochs=2,
        batch_size=3,
        weight_decay=0.1,
        clip=50.0,
    )
    texts, asked, rows = examples(*TEXTS), examples("the cat ran under the tree", "who saw the dog"), [4]
    scores = assay.attribute(made, texts, asked, "replay").array
    assert_relative(-scores[rows], differences(made, texts, asked, rows), 1e-5)


def test_a_frozen_head_is_differentiated_twice(exact_norm: None) -> None:
    """Its chunks have no second derivative, so the plain graph must take their place."""
    module = language_model("Llama", num_hidden_layers=1, attn_implementation="sdpa")
    module.get_submodule("lm_head").requires_grad_(False)
    made = Recipe(module, CausalLM(tokenizer(), 64), optimizer="sgd", lr=0.01, epochs=3, batch_size=3)
    texts, asked, rows = examples(*TEXTS), examples("the cat ran under the tree"), [1, 3]
    scores = assay.attribute(made, texts, asked, "replay").array
    assert_relative(-scores[rows], differences(made, texts, asked, rows), 1e-5)


def test_a_convolution_with_pooling_equals_finite_differences() -> None:
    def make() -> nn.Module:
        layers = [
            nn.Conv2d(1, 3, 3),
            nn.GroupNorm(1, 3),
            nn.GELU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(12, CLASSES),
        ]
        return nn.Sequential(*layers).double()

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(16, 1, 6, 6, generator=generator, dtype=torch.float64)
    y = torch.randint(0, CLASSES, (16,), generator=generator)
    made = Recipe(make, Classify(), optimizer="sgd", lr=0.1, momentum=0.5, epochs=2, batch_size=4)
    images, asked, rows = assay.read((x[:12], y[:12])), assay.read((x[12:], y[12:])), [2, 9]
    scores = assay.attribute(made, images, asked, "replay").array
    assert_relative(-scores[rows], differences(made, images, asked, rows, h=1e-5), 1e-5)


def test_the_gauss_newton_matrix_is_exact_where_the_module_is_linear() -> None:
    made = dataclasses.replace(recipe(**MOST), make_model=lambda: nn.Linear(FEATURES, CLASSES).double())
    found, expected = (
        assay.attribute(made, train(), queries(), Replay(products=p)).array for p in ("gauss-newton", "exact")
    )
    assert_relative(found, expected, 1e-6)


@pytest.mark.parametrize("count", [1, 3])
def test_products_with_the_gauss_newton_matrix_equal_the_dense_matrix(count: int) -> None:
    made, weights = recipe(**OPTIMIZERS["sgd"]), torch.rand(N, dtype=torch.float64)
    steps = made.steps(train(), weights)
    state, module, rows = steps.start(), network(), steps.order.rows(1)
    state = dataclasses.replace(state, step=1)
    x, y = data()
    w = weights[rows]

    def outputs(params: Tensor) -> Tensor:
        return torch.func.functional_call(module, steps.layout.split(params), (x[rows],))

    def of(z: Tensor) -> Tensor:
        return nn.functional.cross_entropy(z, y[rows], reduction="none")

    z = outputs(state.params)
    jacobian = torch.func.jacrev(outputs)(state.params)
    inner = torch.func.hessian(lambda z: (w * of(z)).sum() / steps.order.size)(z)
    matrix = torch.einsum("bcp,bcde,deq->pq", jacobian, inner, jacobian)
    each = torch.func.jacrev(lambda p: of(outputs(p)))(state.params) / steps.order.size
    mu, into = (
        torch.randn(count, len(state.params), dtype=torch.float64),
        torch.zeros(count, len(state.params)).double(),
    )
    with exact.twice_differentiable():
        products = gauss_newton.GaussNewton(steps)
        graph = products.look(state)
        found = products.pull(graph, mu, into)
    torch.testing.assert_close(graph.gradient, torch.autograd.functional.vjp(outputs, state.params, torch.func.grad(
        lambda z: (w * of(z)).sum() / steps.order.size)(z))[1])  # fmt: skip
    torch.testing.assert_close(into, mu @ matrix, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(found, mu @ each.T, rtol=1e-10, atol=1e-12)
    assert not torch.allclose(
        into, mu @ torch.func.hessian(lambda p: (w * of(outputs(p))).sum() / steps.order.size)(state.params)
    )


def test_the_gauss_newton_matrix_of_a_transformer(exact_norm: None) -> None:
    """Last layer alone trained: linear, so that the two agree, and the logits are cut out of what the model returns."""
    module = language_model("Llama", num_hidden_layers=1, attn_implementation="sdpa", tie_word_embeddings=False)
    module.requires_grad_(False).get_submodule("lm_head").requires_grad_(True)
    made = Recipe(module, CausalLM(tokenizer(), 64), optimizer="adamw", lr=0.01, epochs=2, batch_size=3)
    texts, asked = examples(*TEXTS), examples("the cat ran under the tree", "who saw the dog")
    found, expected = (assay.attribute(made, texts, asked, Replay(products=p)).array for p in ("gauss-newton", "exact"))
    assert_relative(found, expected, 1e-6)


def test_a_module_without_one_output_has_no_gauss_newton_matrix() -> None:
    made = Recipe(network, Custom(lambda module, x, y: (module(x) + module(x)).sum(1)), optimizer="sgd", lr=0.01)
    with pytest.raises(ModelError, match="Choose products='exact'"):
        assay.attribute(made, train(), queries(), Replay(products="gauss-newton"))


@pytest.mark.parametrize("clip", [None, 0.7])
@pytest.mark.parametrize("optimizer", [SGD(), SGD(0.9, 0.1), Adam(weight_decay=0.1), AdamW((0.8, 0.9), 1e-3, 0.1)])
def test_an_update_pulled_back_is_its_vector_jacobian_product(optimizer: Any, clip: float | None) -> None:
    changed = Update(optimizer, (0.1, 0.05, 0.2), clip)
    params, gradient = torch.randn(2, 9, dtype=torch.float64)
    moments = {name: torch.rand(9, dtype=torch.float64) for name in optimizer.remembers}
    names = ("params", *moments)
    cotangents = {name: torch.randn(3, 9, dtype=torch.float64) for name in names}

    def step(*inputs: Tensor) -> tuple[Tensor, ...]:
        after, kept = changed(inputs[0], dict(zip(moments, inputs[1:], strict=False)), inputs[-1], 2)
        return after, *kept.values()

    _, pull = torch.func.vjp(step, params, *moments.values(), gradient)
    expected = [pull(tuple(cotangents[name][q] for name in names)) for q in range(3)]
    mu = Linearised.of(changed, params, moments, gradient, 2).pull(cotangents)
    for q, rows in enumerate(expected):
        found = [*(cotangents[name][q] for name in names), mu[q]]
        torch.testing.assert_close(found, list(rows), rtol=1e-12, atol=1e-12)


# -- what must not matter ----------------------------------------------------------------------------------------------


def gradients_of(tape: Tape, made: Recipe) -> Tensor:
    return tape.end.gradients(made.encode(queries()), Loss("mean"))


def taped(made: Recipe, **options: Any) -> Tape:
    return Tape(made.steps(train()), 2**30, **options)


def test_many_queries_are_what_each_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    made = recipe(**MOST)
    tape = taped(made)
    gradients = gradients_of(tape, made)
    expected = torch.cat([differentiate(tape, gradient[None], 2**30) for gradient in gradients])
    torch.testing.assert_close(differentiate(tape, gradients, 2**30), expected, rtol=1e-10, atol=1e-14)
    monkeypatch.setattr(adjoint, "NUMBERS", {"cpu": 2_000})  # two or three queries at once
    torch.testing.assert_close(differentiate(tape, gradients, 2**30), expected, rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(differentiate(tape, gradients, 3_000), expected, rtol=1e-10, atol=1e-14)  # in groups


class Wrong(torch.autograd.Function):
    """The identity, whose form for a batch of queries is not that for one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        if BATCHES == "refused" and torch._C._functorch.is_batchedtensor(gradients[0]):
            raise RuntimeError("no batch, please")
        wrong = BATCHES == "wrong" and torch._C._functorch.is_batchedtensor(gradients[0])
        return gradients[0] * (2.0 if wrong else 1.0)


BATCHES = "right"


@pytest.mark.parametrize("batches", ["right", "refused", "wrong"])
def test_a_module_that_takes_no_batch_of_queries_goes_one_by_one(batches: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.BATCHES", "right")

    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network()

        def forward(self, x: Tensor) -> Tensor:
            return Wrong.apply(self.inner(x))

    plain, odd = recipe(), Recipe(Odd, Classify(), optimizer="sgd", lr=0.3, epochs=3, batch_size=6)
    expected = assay.attribute(plain, train(), queries(), "replay").array
    monkeypatch.setattr(f"{__name__}.BATCHES", batches)
    tape = taped(odd)
    backward = adjoint.Backward(tape.steps)
    carried = adjoint.Adjoint.of(tape.steps, gradients_of(tape, odd))
    with exact.twice_differentiable():
        for segment in tape.before(len(tape.steps)):
            for state in tape.walk(segment):
                backward(carried, state)
    assert backward.products.batched == (batches == "right")
    assert_relative(-carried.tau.T.numpy(), expected, 1e-6)


@pytest.mark.parametrize("options", [{"recompute": k} for k in (0, 1, 2, 3)] + [{"memory": 14_000.0}])
def test_snapshots_change_no_bit(options: dict[str, Any], tmp_path: Path) -> None:
    made = recipe(**MOST)
    tapes = [taped(made), Tape(made.steps(train()), **{"memory": 2.0**30, **options})]
    one, other = (differentiate(tape, gradients_of(tape, made), 2**30) for tape in tapes)
    assert torch.equal(one, other)
    assert tapes[0].arity == len(tapes[0].steps)
    assert tapes[1].arity < len(tapes[1].steps) or options == {"recompute": 0}
    scores = [assay.attribute(made, train(), queries(), Replay(directory=d)) for d in (None, str(tmp_path))]
    np.testing.assert_array_equal(scores[0].array, scores[1].array)


def test_no_more_states_are_held_than_memory_allows() -> None:
    made = recipe(optimizer="sgd", epochs=12)
    steps = made.steps(train())
    size = steps.start().params.nbytes
    for limit in (12, 20, 48):
        tape, held, most = Tape(made.steps(train()), limit * size), set[int](), 0
        forward = tape._forward

        def watched(state: Any, to: int, forward: Any = forward, held: set[int] = held) -> Any:
            held.add(to)
            return forward(state, to)

        tape._forward = watched  # type: ignore[method-assign]
        for segment in tape.before(len(steps)):
            for state in tape.walk(segment):
                most = max(most, len({*tape._kept, *(step for step in held if step <= state.step)}))
        assert most <= limit
    with pytest.raises(MethodError, match="Give more memory"):
        Tape(steps, 3 * size)


def test_a_batch_norm_is_refused_and_one_without_memory_is_not() -> None:
    def make(keeps: bool) -> nn.Module:
        layers = [
            nn.Linear(FEATURES, 6),
            nn.BatchNorm1d(6, track_running_stats=keeps),
            nn.Tanh(),
            nn.Linear(6, CLASSES),
        ]
        return nn.Sequential(*layers).double()

    made = Recipe(lambda: make(True), Classify(), optimizer="sgd", lr=0.1, batch_size=11)
    with pytest.raises(ModelError, match=r"buffer '1\.running_mean'"):
        assay.attribute(made, train(), queries(), "replay")
    made, rows, together = dataclasses.replace(made, make_model=lambda: make(False)), [3, 11], queries()
    scores = assay.value(made, train(), on=together, method="replay").array
    expected = differences(made, train(), together, rows).mean(1)  # the queries are normalised as one batch
    assert_relative(-scores[rows, None], expected[:, None], 1e-5)


class Killed(Exception):
    pass


@pytest.mark.parametrize("when", [1, 3, 6, 9, 12])
def test_a_killed_replay_goes_on_to_the_same_bits(when: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed at the `when`-th file that is written, of states or of the adjoint, before it has its name."""
    made, written, replacing = recipe(**MOST), 0, engine.replacing
    method = Replay(directory=str(tmp_path), recompute=2, removed=0.2, centres=2)
    expected = assay.attribute(made, train(), queries(), dataclasses.replace(method, directory=None)).array

    @contextmanager
    def failing(path: Path) -> Any:
        nonlocal written
        with replacing(path) as temporary:
            yield temporary
            written += 1
            if written == when:
                raise Killed

    for module in (engine, store):
        monkeypatch.setattr(module, "replacing", failing)
    with pytest.raises(Killed):
        assay.attribute(made, train(), queries(), method)
    np.testing.assert_array_equal(assay.attribute(made, train(), queries(), method).array, expected)
    before, files = written, len(list(tmp_path.rglob("*.safetensors")))
    np.testing.assert_array_equal(assay.attribute(made, train(), queries(), method).array, expected)
    assert (written, len(list(tmp_path.rglob("*.safetensors")))) == (before, files)  # nothing was left to do


def test_a_directory_of_another_run_is_refused(tmp_path: Path) -> None:
    method = Replay(directory=str(tmp_path), recompute=1)
    assay.attribute(recipe(), train(), queries(), method)
    with pytest.raises(MethodError, match="differs in: lr"):
        assay.attribute(recipe(lr=0.1), train(), queries(), method)


def test_a_damaged_adjoint_is_named(tmp_path: Path) -> None:
    method = Replay(directory=str(tmp_path), recompute=1)
    assay.attribute(recipe(), train(), queries(), method)
    (file,) = tmp_path.rglob("adjoint-*")
    file.write_bytes(b"no")
    with pytest.raises(InputError, match=r"adjoint-.*is damaged"):
        assay.attribute(recipe(), train(), queries(), method)


# -- what scores mean --------------------------------------------------------------------------------------------------


def test_scores_are_the_change_when_an_example_is_removed() -> None:
    x, y = data(40)
    many, asked, made = assay.read((x, y)), queries(), recipe(epochs=4, batch_size=10, lr=0.1)
    scores = assay.attribute(made, many, asked, "replay")
    whole = made.train(many).loss_of(asked)
    removed = np.zeros((40, QUERIES))
    for row in range(40):
        weights = torch.ones(40, dtype=torch.float64)
        weights[row] = 0
        removed[row] = (made.train(many, weights).loss_of(asked) - whole).numpy()
    for q in range(QUERIES):
        assert np.corrcoef(scores.array[:, q], removed[:, q])[0, 1] > 0.98
        slope = np.polyfit(scores.array[:, q], removed[:, q], 1)[0]
        assert 0.9 < slope < 1.1
    assert scores.unit == "nats of query loss per removed example"


class Watched(nn.Tanh):
    """Remembers what it put out, which its derivative saves, without holding it."""

    out: ClassVar[list[weakref.ref[Tensor]]] = []

    def forward(self, x: Tensor) -> Tensor:
        found = super().forward(x)
        self.out.append(weakref.ref(found))
        return found


@pytest.mark.parametrize("products", ["exact", "gauss-newton"])
def test_no_graph_outlives_its_step(products: str) -> None:
    module = nn.Sequential(nn.Linear(FEATURES, 6), Watched(), nn.Linear(6, CLASSES)).double()
    Watched.out.clear()
    assay.attribute(recipe(module=module), train(), queries(), Replay(products=products))
    assert len(Watched.out) > 20
    assert not [ref for ref in Watched.out if ref() is not None]


def test_linear_in_the_measurement() -> None:
    made = recipe(**MOST)
    tape = taped(made)
    gradients = gradients_of(tape, made)
    mixed = torch.tensor([[1.0, -2.0, 0.5, 0.0], [0.0, 0.0, 3.0, 1.0]], dtype=torch.float64)
    expected = mixed @ differentiate(tape, gradients, 2**30)
    torch.testing.assert_close(differentiate(tape, mixed @ gradients, 2**30), expected, rtol=1e-9, atol=1e-13)


def test_a_value_is_the_mean_score_by_one_adjoint(monkeypatch: pytest.MonkeyPatch) -> None:
    made, widths = recipe(**MOST), list[int]()
    expected = assay.attribute(made, train(), queries(), "replay").array.mean(1)
    init = adjoint.Backward.__call__
    monkeypatch.setattr(adjoint.Backward, "__call__", lambda self, a, s: (widths.append(len(a)), init(self, a, s))[1])
    values = assay.value(made, train(), on=queries(), method="replay")
    np.testing.assert_allclose(values.array, expected, rtol=1e-5, atol=1e-8)
    assert set(widths) == {1}


def test_a_margin_scores_what_an_example_adds() -> None:
    made, rows, h = recipe(), [2, 8], 1e-4
    scores = assay.attribute(made, train(), queries(), Replay(measure="margin"))
    moved = []
    for sign in (1, -1):
        for row in rows:
            weights = torch.ones(N, dtype=torch.float64)
            weights[row] += sign * h
            moved.append(made.train(train(), weights).loss_of(queries(), Margin("mean")))
    expected = torch.stack([(moved[k] - moved[k + 2]) / (2 * h) for k in range(2)]).numpy()
    assert_relative(scores.array[rows], expected, 1e-5)
    assert scores.unit == "query's margin per removed example"
    assert scores.provenance.notes == (
        "A score above zero means that training on the example raised the query's margin.",
    )


def test_any_measurement_is_replayed() -> None:
    """The log odds of a class is the margin of a query of that class; a function is what it computes."""
    made, rows = recipe(), [2, 8]

    def spread(logits: Tensor, target: Tensor) -> Tensor:
        return logits.var()

    x, _ = data(QUERIES, 1)
    ones = assay.read((x, torch.ones(QUERIES, dtype=torch.long)))
    margin = assay.attribute(made, train(), ones, Replay(measure="margin")).array
    np.testing.assert_allclose(
        assay.attribute(made, train(), queries(), Replay(measure="log-odds:1")).array, margin, rtol=1e-6
    )
    scores = assay.attribute(made, train(), queries(), Replay(measure=spread))
    moved = []
    for row in rows:
        for step in (1e-4, -1e-4):
            weights = torch.ones(N, dtype=torch.float64)
            weights[row] += step
            moved.append(made.train(train(), weights).model.module(x).var(1).detach())
    expected = torch.stack([moved[0] - moved[1], moved[2] - moved[3]]).numpy() / 2e-4
    assert_relative(scores.array[rows], expected, 1e-5)
    assert scores.provenance.parameters["measure"] == "function spread"


def test_centres_are_runs_at_their_weights() -> None:
    made = recipe()
    found = assay.attribute(made, train(), queries(), Replay(removed=0.5)).array
    weights, rows = torch.full((N,), 0.5, dtype=torch.float64), [0, 9]
    assert_relative(-found[rows], differences(made, train(), queries(), rows, weights), 1e-5)
    found = assay.attribute(made, train(), queries(), Replay(removed=0.5, centres=3)).array
    runs = Centre(0.5, 3).weights(N, made.seed)
    assert [int(w.sum()) for w in runs] == [N // 2] * 3
    expected = np.mean([differences(made, train(), queries(), rows, w) for w in runs], axis=0)
    assert_relative(-found[rows], expected, 1e-5)


def test_metasmoothness_tells_smooth_training_from_unstable() -> None:
    told = {}
    for lr in (0.1, 60.0):
        made = recipe(lr=lr, epochs=10)
        told[lr] = metasmoothness(made, made.encode(train()), torch.ones(N, dtype=torch.float64), 0.05)
    assert told[0.1] > 0.97
    assert told[60.0] < 0.8
    (note,) = assay.attribute(recipe(), train(), queries(), Replay(smoothness=0.05)).provenance.notes
    assert "Metasmoothness" in note


@pytest.mark.parametrize(
    "wrong",
    [
        {"removed": 1.0},
        {"removed": -0.1},
        {"centres": 0},
        {"centres": 2},
        {"memory": 0.0},
        {"recompute": -1},
        {"smoothness": -1.0},
    ],
)
def test_parameters_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(MethodError, match=f"cannot take {name}="):
        Replay(**wrong)


def test_a_model_is_refused_in_words() -> None:
    model = recipe().train(train()).model
    with pytest.raises(MethodError, match="does not say how it was trained"):
        assay.attribute(model, train(), queries(), "replay")


def test_a_module_without_second_derivative_is_refused_in_words() -> None:
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x.exp()

        @staticmethod
        @once_differentiable
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            return gradient * ctx.saved_tensors[0].exp()

    def loss(module: nn.Module, x: Tensor, y: Any) -> Tensor:
        return Once.apply(module(x)).sum(1)

    made = Recipe(network, Custom(loss), optimizer="sgd", lr=0.01, batch_size=6)
    with pytest.raises(ModelError, match="cannot be differentiated twice"):
        assay.attribute(made, train(), queries(), "replay")
