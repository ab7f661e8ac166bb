"""In-context probing against whole prompts by the model library alone, and against one gradient step of linear attention."""

import copy
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tests.support import examples, language_model, text_model, tokenizer
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers import models as kinds
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

import assay
from assay.errors import DataError, MethodError, NonFiniteError
from assay.inference import Local, Tokens
from assay.methods import ICP
from assay.models import Model
from assay.tasks import CausalLM

POOL = examples(
    "the cat sat on the mat", "a big red dog ran under the tree and saw the cat", "hello who are you", "the dog",
)  # fmt: skip
TASKS = examples(
    {"prompt": "the cat sat", "completion": " on the mat"},
    {"prompt": "who", "completion": " saw the big dog under the tree and ran"},
    {"prompt": "hello you are", "completion": " I"},
)
KINDS = ("Llama", "GPT2", "Mistral", "Gemma2", "Gemma3Text", "Qwen3", "Mixtral", "GPTNeoX")


def naive(model: Model, context: str, query: Any, reduction: str = "mean") -> float:
    """One prompt as one string of words, whole, and a loop over the answer's tokens."""
    encode = model.task.tokenizer  # type: ignore[attr-defined]
    front = encode(context)["input_ids"] if context else encode("")["input_ids"]
    middle = encode(query.data["prompt"], add_special_tokens=False)["input_ids"]
    end = encode(query.data["completion"], add_special_tokens=False)["input_ids"]
    ids = [*front, *middle, *end]
    with torch.no_grad():
        logp = model.module(input_ids=torch.tensor([ids]), use_cache=False).logits[0].double().log_softmax(-1)
    terms = [float(logp[t - 1, ids[t]]) for t in range(len(ids) - len(end), len(ids))]
    return sum(terms) / (len(terms) if reduction == "mean" else 1)


def expected(model: Model, template: str = "{example}\n\n", reduction: str = "mean") -> np.ndarray:
    alone = [naive(model, "", query, reduction) for query in TASKS]
    return np.array(
        [
            [
                naive(model, template.replace("{example}", one.text), q, reduction) - a
                for q, a in zip(TASKS, alone, strict=True)
            ]
            for one in POOL
        ]
    )


@pytest.mark.parametrize("kind", KINDS)
def test_kept_keys_and_values_give_the_whole_prompts_answer(kind: str) -> None:
    changes = {"sliding_window": 8} if kind == "Mistral" else {}
    model = text_model(kind, **changes)
    scores = assay.attribute(model, POOL, TASKS, "icp")
    assert not [note for note in scores.provenance.notes if "whole" in note]
    np.testing.assert_allclose(scores.array, expected(model), atol=1e-5)


def test_values_are_shares_and_mean_gains() -> None:
    model = text_model("Llama")
    gains = expected(model)
    assert 0 < (gains > 0).mean() < 1
    values = assay.value(model, POOL, TASKS, "icp")
    np.testing.assert_allclose(values.array, (gains > 0).mean(1))
    np.testing.assert_allclose(values.raw["gain"], gains.mean(1), atol=1e-6)  # eager attention's softmax is float32


def test_the_lead_in_and_the_sum() -> None:
    model, template = text_model("Llama"), "hello : {example} \n I am you\n"
    scores = assay.attribute(model, POOL, TASKS, ICP(template=template, query_loss="sum"))
    np.testing.assert_allclose(scores.array, expected(model, template, "sum"), atol=1e-5)
    for wrong in ("hello", "{example} {example}"):
        with pytest.raises(MethodError, match=r"expected a text with \{example\} in it once"):
            ICP(template=wrong)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_does_not_matter(side: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the tokenizer's own side, nor which queries share a batch."""
    model = text_model("Llama")
    model.task.tokenizer.padding_side = side  # type: ignore[attr-defined]
    together = assay.attribute(model, POOL, TASKS, "icp").array
    monkeypatch.setattr("assay.inference.local.EXAMPLES", 1)
    np.testing.assert_allclose(assay.attribute(model, POOL, TASKS, "icp").array, together, atol=1e-6)
    np.testing.assert_allclose(together, expected(model), atol=1e-5)


def test_plain_texts_count_every_token_but_the_first() -> None:
    model = text_model("GPT2")
    for begin in (True, False):
        task = CausalLM(tokenizer(begin), 64)
        found = assay.attribute(Model(model.module, task), POOL, examples("the cat ran"), "icp").array[:, 0]
        front = [1] if begin else []
        words = task.tokenizer("the cat ran", add_special_tokens=False)["input_ids"]
        skipped = 0 if begin else 1  # the first word has nothing before it, alone

        def loss(ids: list[int], words: list[int] = words, skipped: int = skipped) -> float:
            with torch.no_grad():
                logp = model.module(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
            return float(sum(logp[t - 1, ids[t]] for t in range(len(ids) - len(words) + skipped, len(ids))))

        for one, score in zip(POOL, found, strict=True):
            context = [*front, *task.tokenizer(one.text + "\n\n", add_special_tokens=False)["input_ids"]]
            difference = loss([*context, *words]) - loss([*front, *words])
            assert score == pytest.approx(difference / (3 - skipped), abs=1e-5)


def test_a_model_without_a_faithful_cache_is_asked_whole() -> None:
    """A cache that forgets, and a module that has none."""
    model = text_model("Llama")

    class Forgetful(nn.Module):
        def __init__(self, inner: nn.Module, cached: bool) -> None:
            super().__init__()
            self.inner, self.cached = inner, cached

        def forward(self, input_ids: Tensor, past_key_values: Any = None, use_cache: bool = False) -> Any:
            if use_cache and not self.cached:
                raise TypeError("no cache")
            return self.inner(input_ids=input_ids, use_cache=use_cache)

    for cached in (True, False):
        broken = Model(Forgetful(model.module, cached), model.task)
        scores = assay.attribute(broken, POOL, TASKS, "icp")
        assert any("every prompt was computed whole" in note for note in scores.provenance.notes)
        np.testing.assert_allclose(scores.array, expected(model), atol=1e-5)


def test_long_examples_are_cut_and_told_or_refused() -> None:
    module = language_model("Llama")
    model = Model(module, CausalLM(tokenizer(), 24))
    scores = assay.attribute(model, POOL, TASKS, "icp")
    (note,) = scores.provenance.notes
    assert note == "1 examples were longer than the 12 tokens that the longest query leaves and were cut."
    context = "a big red dog ran under the tree and saw the\n\n"  # 12 tokens with <s>, and the seam of 2
    assert scores.array[1, 0] == pytest.approx(naive(model, context, TASKS[0]) - naive(model, "", TASKS[0]), abs=1e-5)
    with pytest.raises(DataError, match="has 13 tokens; the context holds 12"):
        assay.attribute(Model(module, CausalLM(tokenizer(), 24, "refuse")), POOL, TASKS, "icp")
    with pytest.raises(DataError, match="leaves no room for an example"):
        assay.attribute(Model(module, CausalLM(tokenizer(), 14)), POOL, TASKS, "icp")


def test_what_cannot_be_probed_is_refused_in_words() -> None:
    model = text_model("Llama")
    with pytest.raises(DataError, match="holds no query"):
        assay.attribute(model, POOL, TASKS[:0], "icp")
    broken = copy.deepcopy(model.module)
    with torch.no_grad():
        broken.get_submodule("model.embed_tokens").weight[7] = torch.inf  # "on": of the first example only
    with pytest.raises(NonFiniteError, match=str(POOL.ids[0])):
        assay.attribute(Model(broken, model.task), POOL, TASKS[1:], "icp")


# -- linear attention --------------------------------------------------------------------------------------------------


class Sum:
    """What linear attention keeps of a prefix: the sum over its tokens of value times key, a vector a row."""

    def __init__(self, state: Tensor) -> None:
        self.state = state

    def batch_repeat_interleave(self, times: int) -> None:
        self.state = self.state.repeat_interleave(times, 0)


class LinearAttention(nn.Module):
    """Tokens are pairs (x_j, y_j), or questions (x_q, none), or the answer "up". At a position the output is

        f = w x_q + eta * sum over earlier pairs j of (x_q . x_j) (y_j - w x_j)

    (keys x_j as they are, values the residuals), and p(up) = 1 / (1 + exp(-f)).
    """

    def __init__(self, x: Tensor, y: Tensor, asks: Tensor, eta: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1, 1, x.shape[1], dtype=x.dtype))
        self.x, self.eta, self.asks = x, eta, asks
        self.y = y

    def forward(self, input_ids: Tensor, past_key_values: Any = None, use_cache: bool = False) -> Any:
        x = self.x[input_ids]
        value = torch.where(self.asks[input_ids], 0.0, self.y[input_ids] - x @ self.weight)
        state = (value[..., None] * x).cumsum(1)
        if past_key_values is not None:
            state = state + past_key_values.state[:, None]
        f = x @ self.weight + self.eta * (state * x).sum(-1)
        logits = torch.full((*input_ids.shape, len(self.x)), -torch.inf, dtype=f.dtype)
        logits[..., -1], logits[..., -2] = f, 0.0
        return SimpleNamespace(logits=logits, past_key_values=Sum(state[:, -1]) if use_cache else None)


def test_linear_attention_takes_one_gradient_step() -> None:
    """The change of f is eta x_q . x_i (y_i - w x_i), the change of w x_q by one step on half the squared error of pair i;
    to first order the change of log p(up) is the inner product of the two losses' gradients, eta times.
    """
    n, queries, width, eta = 40, 12, 5, 1e-3
    total = n + queries + 3
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(total, width, generator=generator, dtype=torch.float64)
    x[-3:] = 0.0  # what separates, "down" and "up"
    y = torch.randn(total, generator=generator, dtype=torch.float64)
    asks = torch.arange(total) >= n
    module = LinearAttention(x, y, asks, eta)
    words = [f"pair{k}" for k in range(n)] + [f"ask{k}" for k in range(queries)] + [".", "down", "up"]
    plain = Tokenizer(kinds.WordLevel({word: k for k, word in enumerate(words)}, unk_token="."))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    task = CausalLM(PreTrainedTokenizerFast(tokenizer_object=plain, unk_token="."), 64)
    pool = examples(*(f"pair{k} ." for k in range(n)))
    asked = examples(*({"prompt": f"ask{k}", "completion": " up"} for k in range(queries)))
    model = Model(module, task)
    gains, _ = ICP().fit(model, pool).gains(asked)

    w = module.weight.detach()
    f = x[n : n + queries] @ w
    step = eta * (y[:n] - x[:n] @ w)[:, None] * (x[:n] @ x[n : n + queries].T)
    exact = torch.nn.functional.logsigmoid(f + step) - torch.nn.functional.logsigmoid(f)
    np.testing.assert_allclose(gains, exact.numpy(), atol=1e-12)

    weight = module.weight
    losses = 0.5 * (y[:n] - x[:n] @ weight) ** 2
    rows = torch.stack([torch.autograd.grad(loss, weight, retain_graph=True)[0] for loss in losses])
    asking = -torch.nn.functional.logsigmoid(x[n : n + queries] @ weight)
    columns = torch.stack([torch.autograd.grad(loss, weight, retain_graph=True)[0] for loss in asking])
    assert np.corrcoef(gains.ravel(), (rows @ columns.T).numpy().ravel())[0, 1] > 1 - 1e-4
    local = Local(model).checked((0, total - 3), Tokens((n, total - 1), (False, True)))
    assert local.reuse
