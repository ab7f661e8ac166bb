"""Tiny models, a tiny tokenizer and examples that several tests share."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor, nn

import assay
from assay.compress import Identity
from assay.examples import Examples
from assay.gradients.blocks import Layout, lay_out
from assay.gradients.capture import capturing
from assay.gradients.functional import dense_gradients
from assay.models import Model
from assay.tasks import Batch, CausalLM, Custom, Loss, Measurement, SequenceClassification, Task
from assay.tasks.language import IGNORED

WORDS = "a the cat dog sat ran on under mat tree and saw big red hello who are you I am user assistant system : ."
LOSS = Loss()
SPECIAL = ["<pad>", "<s>", "</s>", "<unk>"]
VOCABULARY = SPECIAL + WORDS.split() + ["\n"]

CHAT = (
    "{% for m in messages %}{{ m['role'] }} : {{ m['content'] }} </s>\n{% endfor %}"
    "{% if add_generation_prompt %}assistant : {% endif %}"
)


def tokenizer(begin: bool = True, chat: str | None = None, end: bool = False) -> Any:
    """One token a word; `begin` puts <s> in front, `end` puts </s> behind."""
    words = Tokenizer(models.WordLevel({word: k for k, word in enumerate(VOCABULARY)}, unk_token="<unk>"))
    spaces = pre_tokenizers.Split(" ", "removed")
    words.pre_tokenizer = pre_tokenizers.Sequence([spaces, pre_tokenizers.Split("\n", "isolated")])
    if begin or end:
        template = f"{'<s> ' if begin else ''}$A{' </s>' if end else ''}"
        tokens = [(token, VOCABULARY.index(token)) for token in ("<s>", "</s>")]
        words.post_processor = processors.TemplateProcessing(single=template, special_tokens=tokens)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        chat_template=chat,
    )  # fmt: skip


def examples(*rows: Mapping[str, Any] | str) -> Examples:
    """Examples of dictionaries, or of texts."""
    return assay.read([{"text": row} if isinstance(row, str) else dict(row) for row in rows])


TEXTS = (
    "the cat sat on the mat",
    "a big red dog ran under the tree and saw the cat",
    "hello who are you",
    "I am a dog .",
)

SIZES: dict[str, Any] = {
    "vocab_size": len(VOCABULARY), "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2, "attn_implementation": "eager",
}  # fmt: skip


def config(kind: str, **changes: Any) -> Any:
    """A tiny configuration of one of the model library's architectures."""
    sizes = SIZES | changes
    if kind == "GPT2":
        names = {"hidden_size": "n_embd", "num_hidden_layers": "n_layer", "num_attention_heads": "n_head"}
        names |= {"max_position_embeddings": "n_positions", "intermediate_size": "n_inner"}
        sizes = {names.get(key, key): value for key, value in sizes.items() if key != "num_key_value_heads"}
    if kind in ("Gemma2", "Gemma3Text", "Qwen3"):
        sizes |= {"head_dim": 4}
    if kind in ("Gemma2", "Gemma3Text"):
        sizes |= {"query_pre_attn_scalar": 4, "sliding_window": 8}
    if kind == "Mixtral":
        sizes |= {"num_local_experts": 3, "num_experts_per_tok": 2, "experts_implementation": "eager"}
    return getattr(transformers, f"{kind}Config")(**sizes)


def language_model(kind: str, seed: int = 0, dtype: torch.dtype = torch.float64, **changes: Any) -> nn.Module:
    """A tiny causal language model with weights large enough for gradients to matter, norms and biases included."""
    torch.manual_seed(seed)
    module = transformers.AutoModelForCausalLM.from_config(config(kind, **changes))
    return shaken(module.to(dtype)).eval()


def shaken(module: nn.Module, by: float = 0.2) -> nn.Module:
    """The module with noise on all parameters, so that none is zero or one by initialisation."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter += by * noise.to(parameter.dtype)
    return module


def text_model(kind: str, **changes: Any) -> Model:
    """A tiny language model with its task."""
    return Model(language_model(kind, **changes), CausalLM(tokenizer(), 64))


def classifier(dtype: torch.dtype = torch.float64, kind: str = "Bert") -> Model:
    """A tiny sequence classifier with three classes."""
    torch.manual_seed(0)
    module = transformers.AutoModelForSequenceClassification.from_config(config(kind, num_labels=3))
    return Model(shaken(module.to(dtype)).eval(), SequenceClassification(tokenizer(end=True), 64, {"no": 0, "yes": 2}))


def saved(kind: str, folder: Path, **changes: Any) -> Path:
    """A directory as users have them: config, weights, tokenizer."""
    language_model(kind, dtype=changes.pop("dtype", torch.float32), **changes).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def batch_of(model: Model, rows: Examples) -> Batch:
    """All examples in one batch."""
    return model.task.collate([model.task.encode(row) for row in rows], model.device)


def naive_losses(module: nn.Module, batch: Batch, reduction: str = "sum") -> Tensor:
    """The model library's own logits, and a loop over tokens."""
    tensors = batch.tensors
    logits = module(input_ids=tensors["input_ids"], attention_mask=tensors["attention_mask"]).logits
    losses: list[Tensor] = []
    for row, labels in zip(logits, tensors["labels"], strict=True):
        terms = [-row[t - 1].log_softmax(0)[labels[t]] for t in range(1, len(labels)) if labels[t] != IGNORED]
        losses.append(torch.stack(terms).sum() / (len(terms) if reduction == "mean" else 1))
    return torch.stack(losses)


def quadratic(seed: int = 5) -> Task:
    """A task whose loss is a fixed random quadratic of everything that the module returns."""

    def loss(module: nn.Module, x: Tensor, y: Tensor | None) -> Tensor:
        output = module(x)
        weight = torch.randn(output.shape[1:], generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        return (output * weight.to(output)).flatten(1).sum(1) + 0.5 * output.square().flatten(1).sum(1)

    return Custom(loss)


def array_model(module: nn.Module, **options: Any) -> Model:
    """Any module in float64 under a quadratic loss."""
    return Model(shaken(module.double()).eval(), quadratic(), **options)


def arrays(x: Tensor) -> Examples:
    """Examples of the rows of x."""
    return assay.read((x, torch.zeros(len(x))))


def captured(
    model: Model, batch: Batch, measurement: Measurement = LOSS, layout: Layout | None = None
) -> tuple[dict[str, Tensor], Tensor]:
    """Gradients as captured, uncompressed, [batch, rows * cols] by block, and the measurement."""
    layout = layout or lay_out(model)
    with capturing(model, Identity(), layout) as capture:
        features, values = capture(batch, measurement)
    names, parts = [b.name for b in layout.blocks], features.split([b.size for b in layout.blocks], 1)
    return dict(zip(names, parts, strict=True)), values


def true(model: Model, batch: Batch, measurement: Measurement = LOSS) -> dict[str, Tensor]:
    """The same by automatic differentiation of each example alone."""
    model.module.eval()
    gradients = dense_gradients(model, batch, measurement)
    return {block.name: block.assemble(gradients).flatten(1) for block in lay_out(model).blocks}


def assert_gradients(
    model: Model, batch: Batch, measurement: Measurement = LOSS, tolerance: float = 1e-9, layout: Layout | None = None
) -> None:
    """Every block's captured gradient is the true one, relative to the largest entry of any block."""
    found, _ = captured(model, batch, measurement, layout)
    expected = true(model, batch, measurement)
    scale = max(float(g.abs().max()) for g in expected.values())
    assert found.keys() == expected.keys()
    assert scale > 1e-3
    for name, gradient in expected.items():
        assert float((found[name] - gradient).abs().max()) <= tolerance * scale, name
