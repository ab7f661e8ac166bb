"""Which tokens count, what they measure, and what does not fit."""

import math
from typing import Any

import pytest
import torch
from tests.support import CHAT, TEXTS, VOCABULARY, batch_of, classifier, examples, naive_losses, text_model, tokenizer
from torch import nn

from assay.errors import DataError, ModelError
from assay.examples import Example, Examples
from assay.tasks import CausalLM, Item, Loss, Margin, Miss, SequenceClassification, head
from assay.tasks.language import IGNORED

CHATML = (
    "{% for m in messages %}{% if m['role'] == 'assistant' and not loop.last %}{{ m['role'] }} : {{ m['content'] }} .\n"
    "{% elif m['role'] == 'assistant' %}{{ m['role'] }} : hello {{ m['content'] }} .\n"
    "{% else %}{{ m['role'] }} : {{ m['content'] }} </s>\n{% endif %}{% endfor %}"
)
"""A template that writes the last answer otherwise than those before it, as reasoning models' do."""


def words(item: Item) -> str:
    return " ".join(VOCABULARY[k] for k in item.tensors["input_ids"].tolist())


def counted(item: Item) -> str:
    """The words whose prediction is measured."""
    return " ".join(VOCABULARY[k] for k in item.tensors["labels"].tolist() if k != IGNORED)


def only(rows: Examples) -> Any:
    (row,) = rows
    return row


def encode(row: Any, max_length: int = 64, long: Any = "cut", **options: Any) -> Item:
    return CausalLM(tokenizer(**options), max_length, long).encode(only(examples(row)))


# -- which tokens count ----------------------------------------------------------------------------------------------


def test_a_text_counts_whole() -> None:
    assert counted(encode("the cat sat")) == "the cat sat"
    assert counted(encode("the cat sat", begin=False)) == "cat sat"  # nothing predicts the first token
    assert counted(encode("the cat sat", end=True)) == "the cat sat </s>"


def test_a_prompt_does_not_count() -> None:
    item = encode({"prompt": "the cat ", "completion": "sat on the mat"})
    assert words(item) == "<s> the cat sat on the mat"
    assert counted(item) == "sat on the mat"
    assert counted(encode({"prompt": "the cat ", "completion": "sat"}, end=True)) == "sat </s>"


def test_a_token_over_the_end_of_the_prompt_counts() -> None:
    assert counted(encode({"prompt": "the ca", "completion": "t sat"})) == "cat sat"


def test_of_a_conversation_the_assistant_counts() -> None:
    turns = [("system", "I am a cat"), ("user", "who are you"), ("assistant", "a dog"), ("user", "hello"),
             ("assistant", "the big tree")]  # fmt: skip
    item = encode({"messages": [{"role": r, "content": c} for r, c in turns]}, chat=CHAT)
    assert counted(item) == "a dog </s> \n the big tree </s> \n"
    assert words(item).startswith("system : I am a cat </s>")  # the template's own tokens, and no second <s>


def test_a_template_that_rewrites_earlier_turns() -> None:
    turns = [("user", "who are you"), ("assistant", "a dog"), ("user", "a dog"), ("assistant", "a dog")]
    item = encode({"messages": [{"role": r, "content": c} for r, c in turns]}, chat=CHATML)
    labels = item.tensors["labels"]
    assert words(item).count("a dog") == 3
    assert (labels != IGNORED).sum() >= 4
    assert counted(item).startswith("a dog ")
    place = words(item).split().index("user", 2)  # the user's second message, with the same words
    assert (labels[place : place + 4] == IGNORED).all()


@pytest.mark.parametrize(
    ("row", "options", "error", "message"),
    [
        ({"messages": [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "a"}]}, {}, ModelError,
         r"no chat template.*prompt and completion"),
        ({"messages": [{"role": "user", "content": "hello"}]}, {"chat": CHAT}, DataError,
         "no message by the assistant"),
        ({"messages": [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "a"}]},
         {"chat": "{{ raise_exception('roles must alternate') }}"}, DataError, "roles must alternate"),
        ({"messages": [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "a cat"}]},
         {"chat": "{{ messages|length }} hello"}, DataError, "does not show the assistant's message 2"),
        ("cat", {"begin": False}, DataError, "no token to predict"),
    ],
)  # fmt: skip
def test_what_cannot_be_measured(row: Any, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        encode(row, **options)
    assert "row:1" in str(caught.value) or "list" in str(caught.value)


def test_a_completion_that_leaves_no_token() -> None:
    row = Example("e1", {"prompt": "the cat", "completion": " "})
    with pytest.raises(DataError, match=r"Example e1 has no token to predict .* not empty after tokenisation"):
        CausalLM(tokenizer(), 64).encode(row)


# -- too long --------------------------------------------------------------------------------------------------------


def test_a_long_text_loses_its_end() -> None:
    item = encode("the cat sat on the mat", max_length=4)
    assert item.cut
    assert words(item) == "<s> the cat sat"
    assert item.length == 4
    assert not encode("the cat sat", max_length=4).cut


def test_a_long_prompt_is_cut_so_that_the_completion_stays() -> None:
    row = {"prompt": "the big red cat sat on the ", "completion": "mat and ran"}
    item = encode(row, max_length=6)
    assert words(item) == "<s> on the mat and ran"
    assert counted(item) == "mat and ran"
    assert words(encode(row, max_length=4)) == "<s> mat and ran"
    short = encode(row, max_length=3)  # then the completion's end goes too
    assert words(short) == "<s> mat and"
    assert counted(short) == "mat and"


def test_long_texts_can_be_refused() -> None:
    with pytest.raises(DataError, match=r"row:1 has 7 tokens; the context holds 4"):
        encode("the cat sat on the mat", max_length=4, long="refuse")
    with pytest.raises(ModelError, match="max_length is 1"):
        CausalLM(tokenizer(), 1)


# -- what is measured ------------------------------------------------------------------------------------------------


class Counting(nn.Module):
    """Logits by hand: after token a, token b has logit (a * b) mod 5."""

    def forward(self, input_ids: torch.Tensor, **_: Any) -> Any:
        table = torch.outer(torch.arange(30.0), torch.arange(30.0)) % 5
        from types import SimpleNamespace

        return SimpleNamespace(logits=table[input_ids] + 0 * self.weight)

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))


def test_by_hand() -> None:
    """`the cat` given `<s>`: tokens 1, 5, 6; loss = log sum_b exp(ab mod 5) - (a * target mod 5), for a = 1, 5."""
    task = CausalLM(tokenizer(), 8)
    batch = task.collate([task.encode(only(examples("the cat")))])
    first = math.log(6 * sum(math.exp(k) for k in range(5))) - 0  # 1 * 5 mod 5
    second = math.log(30) - 0  # all logits are 0 after token 5
    for reduction, expected in (("sum", first + second), ("mean", (first + second) / 2)):
        measured = task.measure(Counting(), batch, Loss(reduction))  # pyright: ignore
        torch.testing.assert_close(measured, torch.tensor([expected]))
    row = {"prompt": "the ", "completion": "cat"}
    batch = task.collate([task.encode(only(examples(row)))])
    torch.testing.assert_close(task.measure(Counting(), batch, Loss()), torch.tensor([second]))


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_against_a_loop_over_tokens(reduction: Any) -> None:
    model = text_model("Llama")
    rows = examples({"prompt": "the cat ", "completion": "sat on"}, {"prompt": "a ", "completion": "big red dog ran"})
    batch = batch_of(model, rows)
    expected = naive_losses(model.module, batch, reduction)
    torch.testing.assert_close(model.task.measure(model.module, batch, Loss(reduction)), expected)
    with torch.no_grad():
        torch.testing.assert_close(model.task.measure(model.module, batch, Loss(reduction)), expected)


def test_a_model_that_gives_other_positions_is_refused() -> None:
    class Prompted(Counting):
        def forward(self, input_ids: torch.Tensor, **_: Any) -> Any:
            return super().forward(torch.cat([input_ids[:, :1], input_ids], 1))

    task = CausalLM(tokenizer(), 8)
    batch = task.collate([task.encode(only(examples("the cat")))])
    with pytest.raises(ModelError, match="4 positions where 3"):
        task.measure(Prompted(), batch, Loss())


def test_a_mask_is_left_out_only_where_padding_cannot_be_seen() -> None:
    import transformers

    assert head.is_causal(text_model("Llama").module)
    assert head.is_causal(text_model("GPTNeoX").module)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, is_decoder=True
    )
    decoder: Any = transformers.BertLMHeadModel(config).eval()
    assert head.is_causal(decoder)
    config.is_decoder = False
    both_ways: Any = transformers.BertForMaskedLM(config).eval()
    assert not head.is_causal(both_ways)


# -- labels from the model -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1, 1000])
def test_sampled_labels_follow_the_model(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """4000 draws: every token's frequency within 5 standard errors; only predicted positions change."""
    monkeypatch.setattr(head, "CHUNK_ELEMENTS", chunk * 30)
    model = text_model("Llama")
    batch = batch_of(
        model, examples({"prompt": "the ", "completion": "cat sat"}, {"prompt": "", "completion": "a dog"})
    )
    draws = 4000 if chunk > 1 else 200
    many = type(batch)(batch.ids * draws, {k: v.repeat(draws, 1) for k, v in batch.tensors.items()})
    labels = model.task.sample_labels(model.module, many, torch.Generator().manual_seed(0)).tensors["labels"]
    given = many.tensors["labels"]
    assert torch.equal(labels == IGNORED, given == IGNORED)
    with torch.no_grad():
        logits = model.module(**{k: batch.tensors[k] for k in ("input_ids", "attention_mask")}).logits
    for b, t in ((0, 2), (0, 3), (1, 1)):
        p = logits[b, t - 1].softmax(0)
        frequency = torch.bincount(labels.reshape(draws, 2, -1)[:, b, t], minlength=30) / draws
        assert ((frequency - p).abs() < 5 * (p * (1 - p) / draws).sqrt() + 1e-9).all()


def test_sampled_labels_repeat_with_the_seed() -> None:
    model = text_model("Llama")
    batch = batch_of(model, examples(*TEXTS))
    one, same, other = (
        model.task.sample_labels(model.module, batch, torch.Generator().manual_seed(s)).tensors["labels"]
        for s in (1, 1, 2)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_features_are_means_over_what_counts() -> None:
    model = text_model("Llama")
    rows = examples({"prompt": "the cat ", "completion": "sat on"}, {"prompt": "a ", "completion": "dog"})
    found = model.task.features(model.module, batch_of(model, rows))
    for k in range(2):
        batch = batch_of(model, rows[k : k + 1])
        hidden = model.module(input_ids=batch.tensors["input_ids"], output_hidden_states=True).hidden_states[-1]
        expected = hidden[0][batch.tensors["labels"][0] != IGNORED].mean(0).float()
        torch.testing.assert_close(found[k], expected)


# -- sequence classification -----------------------------------------------------------------------------------------


def labelled(*labels: Any) -> Examples:
    return examples(*({"text": text, "label": label} for text, label in zip(TEXTS, labels, strict=False)))


def test_labels_by_number_and_by_name() -> None:
    model = classifier()
    batch = batch_of(model, labelled("yes", "no", 1, "1"))
    assert batch.tensors["labels"].tolist() == [2, 0, 1, 1]
    logits = model.module(**{k: batch.tensors[k] for k in ("input_ids", "attention_mask")}).logits
    expected = -logits.log_softmax(1)[range(4), [2, 0, 1, 1]]
    torch.testing.assert_close(model.task.measure(model.module, batch, Loss()), expected)
    torch.testing.assert_close(model.task.measure(model.module, batch, Loss("mean")), expected)


@pytest.mark.parametrize("label", ["maybe", None, 1.5])
def test_labels_that_name_no_class(label: Any) -> None:
    with pytest.raises(DataError, match=r"row:1 has label .* an integer class or one of no, yes"):
        classifier().task.encode(only(labelled(label)))


@pytest.mark.parametrize("label", [3, -1])
def test_labels_out_of_range(label: int) -> None:
    model = classifier()
    with pytest.raises(
        DataError, match=rf"row:2 has label {label}; the model has 3 classes, so labels run from 0 to 2"
    ):
        model.task.measure(model.module, batch_of(model, labelled(0, label)), Loss())


def test_a_text_that_leaves_no_token() -> None:
    task = SequenceClassification(tokenizer(begin=False), 8)
    with pytest.raises(DataError, match="no token after tokenisation"):
        task.encode(Example("e1", {"text": "  "}, None, 1))


def test_a_decoder_classifies_by_its_last_token_and_pads_with_the_models_own_token() -> None:
    model = classifier(kind="Llama")
    rows = labelled(0, 1, 2, 0)
    task = SequenceClassification(tokenizer(), 64, pad=0)
    together = task.measure(model.module, task.collate([task.encode(row) for row in rows]), Loss())
    for k, row in enumerate(rows):
        torch.testing.assert_close(task.measure(model.module, task.collate([task.encode(row)]), Loss())[0], together[k])
    model.module.config.pad_token_id = None  # pyright: ignore
    with pytest.raises(ModelError, match="pad_token_id"):
        task.measure(model.module, task.collate([task.encode(row) for row in rows]), Loss())


def test_sampled_classes_follow_the_model() -> None:
    model = classifier()
    batch = batch_of(model, labelled(0))
    many = type(batch)(batch.ids * 3000, {k: v.expand(3000, *v.shape[1:]) for k, v in batch.tensors.items()})
    drawn = model.task.sample_labels(model.module, many, torch.Generator().manual_seed(0)).tensors["labels"]
    with torch.no_grad():
        p = model.module(**{k: batch.tensors[k] for k in ("input_ids", "attention_mask")}).logits[0].softmax(0)
    frequency = torch.bincount(drawn, minlength=3) / 3000
    assert ((frequency - p).abs() < 5 * (p * (1 - p) / 3000).sqrt()).all()


def test_margin_and_miss_of_a_language_model() -> None:
    """One predicted token: `l = log(1 + exp(-f))` and `m = 1 - exp(-l)`."""
    model = text_model("Llama")
    batch = batch_of(model, examples({"prompt": "the cat ", "completion": "sat"}))
    with torch.no_grad():
        loss, margin, miss = (model.task.measure(model.module, batch, m) for m in (Loss(), Margin(), Miss()))
    torch.testing.assert_close(loss, torch.log1p(torch.exp(-margin)))
    torch.testing.assert_close(miss, 1 - torch.exp(-loss))
