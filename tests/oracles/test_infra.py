"""Infra against a transcription with dense matrices, against its own columns, and against retraining; its tokens add up."""

from typing import Any

import numpy as np
import pytest
import torch
from jaxtyping import Float64
from tests.support import batch_of, examples, language_model, naive_losses, text_model, tokenizer
from torch import Tensor

import assay
from assay.errors import MethodError
from assay.examples import Examples
from assay.methods import EKFAC, Infra
from assay.methods.gradient.infra import Traced
from assay.models import Model
from assay.tasks import CausalLM

TRAIN = examples(
    *(
        {"prompt": f"the {a}", "completion": f" {b} {c} . I saw you .", "source": "math" if a == "cat" else "code"}
        for a in ("cat", "big dog")
        for b in ("sat on", "saw", "ran under")
        for c in ("the mat", "you")
    )
)
SOLVED = examples(
    {"prompt": "the dog sat", "completion": " under the tree .", "source": "math"},
    {"prompt": "a cat", "completion": " saw the red mat", "source": "code"},
    {"prompt": "hello", "completion": " who are you", "source": "math"},
)
MLPS = "*mlp*"


def model(**changes: Any) -> Model:
    return text_model("Llama", tie_word_embeddings=True, num_hidden_layers=2, **changes)


def fitted(given: Model | None = None, **options: Any) -> Traced:
    found = Infra(fisher="empirical", **options).fit(given or model(), TRAIN)
    assert isinstance(found, Traced)
    return found


def test_scores_are_those_of_ekfac_on_the_mlps() -> None:
    plain = model()
    mlps = Model(plain.module, plain.task, modules=MLPS)
    expected = assay.attribute(mlps, TRAIN, SOLVED, EKFAC(fisher="empirical")).array
    np.testing.assert_array_equal(fitted(plain).score(SOLVED).array, expected)


def test_only_the_mlps_take_part() -> None:
    """The influence does not know of any other gradient: a transcription with the weights of the MLPs alone."""
    plain = model()
    names = [name for name, _ in plain.module.named_parameters() if ".mlp." in name]
    assert len(names) == 6
    found = fitted(plain)
    own, asked = gradients(plain, TRAIN, "sum", names), gradients(plain, SOLVED, "mean", names)
    operator: Any = found.states[0].operator
    damping = found.states[0].damping
    turned = operator.solve(flat(found, asked), damping)
    expected = (flat(found, own) @ turned.T / len(TRAIN)).numpy()
    np.testing.assert_allclose(found.score(SOLVED).array, expected, atol=1e-5 * np.abs(expected).max())
    assert found.score(SOLVED).coverage == pytest.approx(
        sum(plain.module.get_parameter(name).numel() for name in names) / plain.size
    )


def gradients(given: Model, rows: Examples, reduction: str, names: list[str]) -> list[dict[str, Tensor]]:
    losses = naive_losses(given.module, batch_of(given, rows), reduction)
    parameters = [given.module.get_parameter(name) for name in names]
    each = [torch.autograd.grad(loss, parameters, retain_graph=True) for loss in losses]
    return [dict(zip(names, found, strict=True)) for found in each]


def flat(found: Traced, each: list[dict[str, Tensor]]) -> Float64[Tensor, "n k"]:
    """In the order of the blocks."""
    blocks = found.states[0].operator.blocks
    return torch.stack([torch.cat([one[block.parameters[0]].flatten() for block in blocks]) for one in each]).double()


def test_a_value_is_the_influence_on_the_mean() -> None:
    """One vector for all problems, or for each source, gives the mean of the problems' own columns."""
    found = fitted()
    columns, values = found.score(SOLVED).array.astype(np.float64), found.value(SOLVED)
    np.testing.assert_allclose(values.array, columns.mean(1), atol=1e-5 * np.abs(columns).max())
    np.testing.assert_allclose(values.raw["math"], columns[:, [0, 2]].mean(1), atol=1e-5 * np.abs(columns).max())
    np.testing.assert_allclose(values.raw["code"], columns[:, 1], atol=1e-5 * np.abs(columns).max())
    assert values.unit == "nats of query loss per removed example"


def test_tokens_add_up_to_values() -> None:
    found = fitted()
    values = found.value(SOLVED)
    parts = found.tokens(found.directions(SOLVED)[0], np.arange(len(TRAIN)))
    for fold in parts:
        row = TRAIN.ids.index(fold.train_id)
        expected = values.raw[fold.query_id][row]
        assert fold.total == pytest.approx(expected, abs=1e-4 * float(np.abs(values.raw[fold.query_id]).max()))
        assert not np.any(
            fold.scores[: 1 + len(TRAIN[row].data["prompt"].split())]
        )  # <s> and the prompt are not predicted


def test_a_small_step_on_an_example_raises_what_it_is_said_to_raise() -> None:
    """With a curvature that damping drowns, the value is the change of f by a step on the example's MLPs, up to a factor."""
    plain = model()
    values = fitted(plain, damping=1e6).value(SOLVED).array * 1e6 * len(TRAIN)
    before = likelihood(plain)
    for row in (0, 5, 9):
        module = language_model("Llama", tie_word_embeddings=True, num_hidden_layers=2)
        loss = naive_losses(module, batch_of(Model(module, plain.task), TRAIN.select([row])))[0]
        names = [name for name, _ in module.named_parameters() if ".mlp." in name]
        slopes = torch.autograd.grad(loss, [module.get_parameter(name) for name in names])
        with torch.no_grad():
            for name, slope in zip(names, slopes, strict=True):
                module.get_parameter(name).sub_(1e-6 * slope)
        found = (likelihood(Model(module, plain.task)) - before) / 1e-6
        assert found == pytest.approx(values[row], rel=2e-2, abs=1e-3 * float(np.abs(values).max()))


def likelihood(given: Model) -> float:
    """Mean over problems of the mean log-likelihood of their tokens."""
    with torch.no_grad():
        return -float(naive_losses(given.module, batch_of(given, SOLVED), "mean").mean())


def test_the_users_own_modules_stay() -> None:
    plain = model()
    chosen = Model(plain.module, plain.task, modules="*self_attn*")
    assert fitted(chosen).model.patterns == ("*self_attn*",)
    assert fitted(plain, mlp="*down_proj*").model.patterns == ("*down_proj*",)


def test_bad_input() -> None:
    with pytest.raises(MethodError, match="no solved problems"):
        fitted().value(SOLVED.select([]))
    with pytest.raises(MethodError, match=r"matches '\*ffn\*'.*--mlp PATTERN"):
        fitted(mlp="*ffn*")
    bare = Model(language_model("Llama", num_hidden_layers=1), CausalLM(tokenizer(), 64), modules="*attn*")
    assert fitted(bare).score(SOLVED).array.shape == (12, 3)
