"""Measurements other than the loss: dense autograd, finite differences, a real step, and what they are made of."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.support import (
    VOCABULARY,
    assert_gradients,
    batch_of,
    classifier,
    examples,
    naive_losses,
    quadratic,
    shaken,
    text_model,
)
from torch import Tensor, nn

import assay
from assay.errors import DataError, MethodError, ModelError
from assay.gradients.functional import dense_gradients
from assay.methods import TRAK, GradCos, GradDot
from assay.models import Model
from assay.tasks import (
    Classify,
    Contrast,
    LogOdds,
    Loss,
    Margin,
    Measure,
    MeasureOutputs,
    Regress,
    measurement_of,
    negative,
)

TRAIN = examples("the cat sat on the mat", "a big red dog ran under the tree and saw the cat", "hello who are you")
QUERIES = assay.read(
    [
        {"prompt": "the big dog", "completion": " sat under", "contrast": " ran on the mat"},
        {"prompt": "who saw", "completion": " you and the cat .", "contrast": " me"},
    ]
)
CAT = VOCABULARY.index("cat")


def spread(logits: Tensor, target: Tensor) -> Tensor:
    """Something that is no sum over tokens."""
    return logits.gather(1, target[:, None]).square().mean() * logits.std()


def mean_hidden(outputs: Any, batch: Any) -> Tensor:
    return outputs.logits[:, 0].tanh().sum(1)


# -- what each is, from the model library's own logits ----------------------------------------------------------------------


def odds(logits: Tensor, token: int) -> Tensor:
    others = torch.cat([logits[:token], logits[token + 1 :]])
    return logits[token] - others.logsumexp(0)


def naive(module: nn.Module, model: Model, name: str, query: int) -> Tensor:
    """One query's measurement, alone and without padding."""
    batch = batch_of(model, QUERIES[query : query + 1])
    ids, labels = batch.tensors["input_ids"], batch.tensors["labels"][0]
    output = module(input_ids=ids)
    logits, where = output.logits[0], (labels != -100).nonzero().squeeze(1)
    match name:
        case "margin":
            return torch.stack([odds(logits[t - 1], int(labels[t])) for t in where]).mean()
        case "log-odds":
            return odds(logits[where[-1] - 1], int(labels[where[-1]]))
        case "log-odds:cat":
            return odds(logits[where[-1] - 1], CAT)
        case "contrast":
            rows = [{"prompt": q.data["prompt"], "completion": q.data["contrast"]} for q in QUERIES]
            other = batch_of(model, assay.read(rows[query : query + 1]))
            return naive_losses(module, other, "mean")[0] - naive_losses(module, batch, "mean")[0]
        case "spread":
            return spread(logits[where - 1], labels[where])
        case _:
            return mean_hidden(output, None)[0]


NAMED: dict[str, Any] = {
    name: name for name in ("margin", "log-odds", "log-odds:cat", "contrast")
} | {"spread": spread, "mean_hidden": MeasureOutputs(mean_hidden)}  # fmt: skip
each = pytest.mark.parametrize("name", list(NAMED))


@each
@pytest.mark.parametrize("kind", ["Llama", "GPT2"])
def test_gradients_of_texts(kind: str, name: str) -> None:
    """Captured gradients of both signs, against autograd through the task; and the values, against the loop."""
    model = text_model(kind, tie_word_embeddings=kind == "Llama")
    measurement, batch = measurement_of(NAMED[name]), batch_of(model, QUERIES)
    for signed in (measurement, negative(measurement)):
        assert_gradients(model, batch, signed, 1e-6)
    values = model.task.measure(model.module, batch, measurement)
    expected = torch.stack([naive(model.module, model, name, q) for q in range(len(QUERIES))])
    torch.testing.assert_close(values, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(model.task.measure(model.module, batch, negative(measurement)), -values)


@each
def test_scores_of_texts(name: str) -> None:
    """`< grad L_i, -grad f_q >`: above zero where a step on i raises f."""
    model = text_model("Llama")
    scores = assay.attribute(model, TRAIN, QUERIES, GradDot(measure=NAMED[name]))
    parameters = [p for p in model.module.parameters() if p.requires_grad]
    flat = lambda value: torch.cat([g.flatten() for g in torch.autograd.grad(value, parameters)])  # noqa: E731
    f = torch.stack([flat(naive(model.module, model, name, q)) for q in range(len(QUERIES))])
    batch = batch_of(model, TRAIN)
    g = torch.stack([flat(naive_losses(model.module, batch.select(k))[0]) for k in range(len(TRAIN))])
    np.testing.assert_allclose(scores.array, (-g @ f.T).numpy(), atol=1e-5 * np.abs(scores.array).max())
    assert "raised" in scores.provenance.notes[0]
    assert scores.unit != "arbitrary"
    losses = model.task.measure(model.module, batch_of(model, QUERIES), Loss("mean")).detach()
    np.testing.assert_allclose(np.array(scores.queries.columns["loss"]), losses, rtol=1e-6)


@each
def test_a_step_on_a_helpful_example_raises_it(name: str) -> None:
    model = text_model("GPT2")
    scores = assay.attribute(model, TRAIN, QUERIES, GradDot(measure=NAMED[name])).array
    batch, measurement = batch_of(model, QUERIES), measurement_of(NAMED[name])
    with torch.no_grad():
        before = model.task.measure(model.module, batch, measurement)
    for i in range(len(TRAIN)):
        g = dense_gradients(model, batch_of(model, TRAIN[i : i + 1]), Loss("sum"))
        with torch.no_grad():
            for key, p in model.parameters.items():
                p -= 1e-8 * g[key][0]
            rise = model.task.measure(model.module, batch, measurement) - before
            for key, p in model.parameters.items():
                p += 1e-8 * g[key][0]
        np.testing.assert_allclose(rise.numpy() / 1e-8, scores[i], rtol=0.02, atol=0.01 * np.abs(scores).max())


def test_a_contrast_is_the_difference_of_two_losses() -> None:
    model = text_model("GPT2")
    others = assay.read([{"prompt": q.data["prompt"], "completion": q.data["contrast"]} for q in QUERIES])
    for reduction in ("mean", "sum"):
        contrast = assay.attribute(model, TRAIN, QUERIES, GradDot(measure="contrast", query_loss=reduction)).array
        one, other = (assay.attribute(model, TRAIN, q, GradDot(query_loss=reduction)).array for q in (QUERIES, others))
        np.testing.assert_allclose(contrast, one - other, atol=1e-5 * np.abs(one).max())


def test_log_odds_by_finite_differences() -> None:
    """Along random directions."""
    model = text_model("GPT2")
    batch, measurement, h = batch_of(model, QUERIES), LogOdds(token="cat"), 1e-5
    gradients = dense_gradients(model, batch, measurement)
    v = {name: torch.randn_like(p) for name, p in model.parameters.items()}
    ends = []
    with torch.no_grad():
        for step in (h, -2 * h):
            for name, p in model.parameters.items():
                p += step * v[name]
            ends.append(model.task.measure(model.module, batch, measurement))
    slope = sum((gradients[name] * v[name]).flatten(1).sum(1) for name in v)
    torch.testing.assert_close((ends[0] - ends[1]) / (2 * h), slope, rtol=1e-6, atol=1e-6)


def test_query_tokens_of_a_contrast_are_those_of_both_completions() -> None:
    model, method = text_model("GPT2"), GradDot(measure="contrast")
    scores = assay.attribute(model, TRAIN, QUERIES, method).array
    (fold,) = assay.parts(model, TRAIN[:1], QUERIES[:1], method, by="query-token")
    assert "".join(fold.names) == "<s>the big dog sat under<s>the big dog ran on the mat"
    assert abs(fold.total - scores[0, 0]) < 1e-5 * np.abs(scores).max()
    plain = assay.parts(model, TRAIN[:1], QUERIES[:1], GradDot(), by="query-token").folds[0]
    np.testing.assert_allclose(fold.scores[:6], plain.scores, atol=1e-6 * np.abs(scores).max())
    assert np.abs(fold.scores[10:]).min() > 0


# -- other tasks -----------------------------------------------------------------------------------------------------------


def test_classes() -> None:
    net = shaken(nn.Linear(4, 3).double(), 1.0)
    x, y = torch.randn(6, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1, 2])
    model = Model(net, Classify())
    for choice, value in (
        ("log-odds:2", lambda z, y: odds(z, 2)),
        ("log-odds", lambda z, y: odds(z, int(y))),
        (lambda z, y: z[0] * z[1], lambda z, y: z[0] * z[1]),
        (MeasureOutputs(lambda z, batch: z.square().sum(1)), lambda z, y: z.square().sum()),
    ):
        found = assay.attribute(model, (x[:4], y[:4]), (x[4:], y[4:]), GradDot(measure=choice)).array
        check_dense(
            net,
            lambda k: nn.functional.cross_entropy(net(x[k]), y[k]),
            lambda q, value=value: value(net(x[q]), y[q]),
            found,
        )
    with pytest.raises(MethodError, match="names a class, and the model has 3"):
        assay.attribute(model, (x, y), (x, y), GradDot(measure="log-odds:3"))
    with pytest.raises(MethodError, match="names no class"):
        assay.attribute(model, (x, y), (x, y), GradDot(measure="log-odds:cat"))
    with pytest.raises(MethodError, match="this task reads none"):
        assay.attribute(model, (x, y), (x, y), GradDot(measure="contrast"))
    with pytest.raises(ModelError, match="one number, a tensor of no dimension"):
        assay.attribute(model, (x, y), (x, y), GradDot(measure=lambda z, y: z))
    with pytest.raises(ModelError, match=r"one number an example, \[batch\]"):
        assay.attribute(model, (x, y), (x, y), GradDot(measure=MeasureOutputs(lambda z, batch: z)))


def check_dense(
    net: nn.Module, loss: Callable[[int], Tensor], value: Callable[[int], Tensor], found: np.ndarray
) -> None:
    """Scores of examples 0 to 3 for queries 4 and 5."""
    flat = lambda v: torch.cat([g.flatten() for g in torch.autograd.grad(v, list(net.parameters()))])  # noqa: E731
    g, f = torch.stack([flat(loss(k)) for k in range(4)]), torch.stack([flat(value(q)) for q in (4, 5)])
    np.testing.assert_allclose(found, (-g @ f.T).numpy(), rtol=1e-5, atol=1e-6)


def test_numbers() -> None:
    net = shaken(nn.Linear(4, 1).double(), 1.0)
    x, y = torch.randn(6, 4, dtype=torch.float64), torch.randn(6, dtype=torch.float64)
    for choice, value in (
        ("margin", lambda q: net(x[q]).sum()),
        (Measure(lambda output, target: (output * target).sum() ** 3), lambda q: (net(x[q]) * y[q]).sum() ** 3),
        (MeasureOutputs(lambda output, batch: output[:, 0].exp()), lambda q: net(x[q])[0].exp()),
    ):
        found = assay.attribute(Model(net, Regress()), (x[:4], y[:4]), (x[4:], y[4:]), GradDot(measure=choice)).array
        check_dense(net, lambda k: 0.5 * (net(x[k]).squeeze() - y[k]).square(), value, found)
    with pytest.raises(MethodError, match="cannot measure 'log-odds"):
        assay.attribute(Model(net, Regress()), (x, y), (x, y), GradDot(measure="log-odds:1"))


def test_a_loss_of_ones_own_has_functions_of_outputs() -> None:
    net = shaken(nn.Linear(4, 2).double(), 1.0)
    task, x = quadratic(), torch.randn(6, 4, dtype=torch.float64)
    model, zeros = Model(net, task), torch.zeros(6)
    choice = MeasureOutputs(lambda output, batch: output.prod(1))
    found = assay.attribute(model, (x[:4], zeros[:4]), (x[4:], zeros[4:]), GradDot(measure=choice)).array
    check_dense(net, lambda k: task.loss(net, x[k : k + 1], None)[0], lambda q: net(x[q]).prod(), found)  # type: ignore[attr-defined]
    with pytest.raises(MethodError, match="knows its loss only"):
        assay.attribute(model, (x, zeros), (x, zeros), GradDot(measure="margin"))


def test_classifiers_of_texts() -> None:
    rows = examples({"text": "the big red dog", "label": 2}, {"text": "who saw you", "label": 0})
    model = classifier()
    for choice in (LogOdds(token="yes"), LogOdds(token="1"), LogOdds(), MeasureOutputs(lambda o, b: o.logits[:, 1])):
        assert_gradients(model, batch_of(model, rows), negative(choice))
    z = model.task.outputs(model.module, batch_of(model, rows)).detach()
    found = model.task.measure(model.module, batch_of(model, rows), LogOdds(token="yes"))
    torch.testing.assert_close(found, torch.stack([odds(row, 2) for row in z]))
    with pytest.raises(MethodError, match="names no class; a number, or one of no, yes"):
        assay.attribute(model, rows, rows, GradDot(measure="log-odds:maybe"))


# -- choosing, and what is told --------------------------------------------------------------------------------------------


def test_names() -> None:
    assert measurement_of("loss", "sum") == Loss("sum")
    assert measurement_of("margin", "mean") == Margin("mean")
    assert measurement_of("log-odds: Paris") == LogOdds("mean", " Paris")
    assert measurement_of("contrast", "sum") == Contrast("sum")
    assert negative(negative(Margin())) == Margin()
    assert measurement_of(spread).label == "function spread"
    for wrong, told in (
        ("los", "Did you mean 'loss'"), ("margin:3", "cannot be read"), ("log-odds:", "cannot be read")
    ):  # fmt: skip
        with pytest.raises(MethodError, match=told):
            measurement_of(wrong)  # type: ignore[arg-type]
    with pytest.raises(MethodError, match="Did you mean 'margin'"):
        GradCos(measure="margins")


def test_what_a_query_lacks_is_told() -> None:
    model = text_model("GPT2")
    with pytest.raises(DataError, match="query row:1 has no field 'contrast'"):
        assay.attribute(model, TRAIN, TRAIN[:1], GradDot(measure="contrast"))
    with pytest.raises(MethodError, match="'cat dog', which is not one token but 'cat', 'dog'"):
        assay.attribute(model, TRAIN, QUERIES, GradDot(measure="log-odds:cat dog"))


def test_provenance_and_units(tmp_path: Path) -> None:
    model = text_model("GPT2")
    found = assay.attribute(model, TRAIN, QUERIES, GradCos(measure="log-odds:cat"))
    assert found.unit == "arbitrary, of log odds of 'cat'"
    assert found.provenance.parameters["measure"] == "log-odds:cat"
    assert found.provenance.notes == (
        "A score above zero means that training on the example raised the log odds of 'cat'.",
    )
    own = assay.attribute(model, TRAIN, QUERIES, GradCos(measure=spread))
    assert own.provenance.parameters["measure"] == "function spread"
    own.save(tmp_path / "run")
    assert assay.Scores.load(tmp_path / "run").provenance == own.provenance
    usual = assay.attribute(model, TRAIN, QUERIES, GradCos())
    assert (usual.unit, usual.provenance.notes) == ("arbitrary", ())


def test_an_index_answers_for_any_measurement(tmp_path: Path) -> None:
    """Its features are of the training examples' loss, whatever is asked."""
    model = text_model("GPT2")
    method = GradDot(measure=spread, compression="factored:64")
    built = assay.build(model, TRAIN, tmp_path / "index", method=method)
    exact = assay.attribute(model, TRAIN, QUERIES, GradDot(measure=spread)).array
    np.testing.assert_allclose(built.score(QUERIES).array, exact, atol=1e-4 * np.abs(exact).max())
    opened = assay.open(tmp_path / "index", model)
    loss = assay.attribute(model, TRAIN, QUERIES, GradDot()).array
    np.testing.assert_allclose(opened.attribute(QUERIES).array, loss, atol=1e-4 * np.abs(loss).max())
    odds = assay.attribute(model, TRAIN, QUERIES, GradDot(measure="log-odds:cat")).array
    asked = opened.attribute(QUERIES, GradDot(measure="log-odds:cat")).array
    np.testing.assert_allclose(asked, odds, atol=1e-4 * np.abs(odds).max())


def test_trak_raises_what_it_measures() -> None:
    """Its training side is the margin, which a step raises: its own default, and the loss with the other sign."""
    x, y = torch.randn(30, 4, dtype=torch.float64), torch.randint(0, 2, (30,))
    model = Model(shaken(nn.Linear(4, 2).double(), 0.5), Classify())
    scores = {
        measure: assay.attribute(model, (x, y), (x[:5], y[:5]), TRAK(compression="none", damping=1e-3, measure=measure))
        for measure in ("margin", "loss", "log-odds")
    }
    margin, loss, odds = (found.array for found in scores.values())
    np.testing.assert_array_equal(margin, odds)
    # of two classes l = log(1 + exp(-f)), so that dl = -(1 - p) df
    z = model.task.outputs(model.module, batch_of(model, assay.read((x[:5], y[:5])))).detach()  # type: ignore[arg-type]
    miss = 1 - z.softmax(1).gather(1, y[:5, None]).squeeze(1).numpy()
    np.testing.assert_allclose(loss, margin * miss, atol=1e-4 * np.abs(margin).max())
    assert scores["margin"].unit == "arbitrary"
