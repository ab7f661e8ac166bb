"""Tasks on text: causal language models, and sequence classifiers."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal, cast

import torch
from jaxtyping import Float
from jinja2 import TemplateError
from torch import Tensor, nn

from assay.errors import DataError, ModelError
from assay.examples import Example
from assay.tasks.base import Batch, Item, Observe, Task, check_classes, draw, precise
from assay.tasks.head import find_head, is_causal, measure_head
from assay.tasks.measurements import Measurement

IGNORED = -100
"""Target of a position that is not predicted (prompt, padding), as in the model library."""

Long = Literal["cut", "refuse"]


class _Text(Task):
    """What both text tasks share: a tokenizer, a context, padding on the right."""

    def __init__(self, tokenizer: Any, max_length: int, long: Long = "cut", pad: int | None = None) -> None:
        if max_length < 2:
            raise ModelError(f"max_length is {max_length}; at least 2 tokens were expected.")
        self.tokenizer, self.max_length, self.long = tokenizer, max_length, long
        pads: list[int | None] = [pad, tokenizer.pad_token_id, 0]
        self.pad = next(token for token in pads if token is not None)

    def identity(self) -> str:
        """Also the context and the tokenizer; not the padding and truncation of its last use."""
        rules = json.loads(self.tokenizer.backend_tokenizer.to_str()) | {"padding": None, "truncation": None}
        template = getattr(self.tokenizer, "chat_template", None)
        return json.dumps([self.name, self.max_length, template, rules], sort_keys=True)

    def collate(self, items: Sequence[Item], device: torch.device | str = "cpu") -> Batch:
        """Pad on the right to the longest item; `input_ids` [batch, time], `attention_mask`, `labels`."""
        longest = max(item.length for item in items)
        fill = {"input_ids": self.pad, "labels": IGNORED}
        tensors = {
            name: torch.stack([_pad(item.tensors[name], longest, fill[name]) for item in items]).to(device)
            for name in items[0].tensors
        }
        lengths = torch.tensor([item.length for item in items], device=device)
        tensors["attention_mask"] = (torch.arange(longest, device=device) < lengths[:, None]).long()
        return Batch(tuple(item.id for item in items), tensors)

    def features(self, module: nn.Module, batch: Batch) -> Float[Tensor, "batch hidden"]:
        """Mean of the last hidden states over the example's tokens (completion tokens, if it has a prompt)."""
        with torch.no_grad():
            output = module(
                input_ids=batch.tensors["input_ids"],
                attention_mask=batch.tensors["attention_mask"],
                output_hidden_states=True,
                **_no_cache(module),
            )
        hidden = output.hidden_states[-1].float()
        keep = batch.tensors["attention_mask"].bool()
        if batch.tensors["labels"].ndim == 2:
            keep = keep & (batch.tensors["labels"] != IGNORED)
        weight = keep.float()[..., None]
        return (hidden * weight).sum(1) / weight.sum(1)

    def _fit(self, ids: list[int], example: str) -> bool:
        """Whether the tokens fit the context; raises when long texts are refused."""
        if len(ids) <= self.max_length:
            return True
        if self.long == "refuse":
            raise DataError(
                f"Example {example} has {len(ids)} tokens; the context holds {self.max_length}. "
                "Shorten it, or allow cutting (long='cut')."
            )
        return False


class CausalLM(_Text):
    """Next-token prediction. The loss counts every token of `text` after the first; of `prompt` + `completion` and
    `messages` only the tokens of the completion, or of the assistant.

    A text longer than the context is cut on the right, a prompt on the left so that the completion stays;
    every cut is counted and reported. `long="refuse"` makes it an error.
    """

    name = "causal-lm"
    kinds = ("text", "completion", "messages")

    def encode(self, example: Example) -> Item:
        """Tokens and labels [time]; a label is the token itself where it is predicted, else IGNORED."""
        ids, counted = self._tokens(example)
        cut = not self._fit(ids, example.id)
        if cut:
            ids, counted = self._cut(ids, counted)
        labels = [token if count else IGNORED for token, count in zip(ids, counted, strict=True)]
        labels[:1] = [IGNORED] * len(labels[:1])
        if all(label == IGNORED for label in labels):
            raise DataError(
                f"Example {example.id} has no token to predict ({len(ids)} tokens in all). "
                "Give a longer text, or a completion that is not empty after tokenisation."
            )
        return Item(example.id, {"input_ids": torch.tensor(ids), "labels": torch.tensor(labels)}, len(ids), cut)

    def prepare(self, module: nn.Module) -> None:
        """Find the output head, and whether padding needs a mask."""
        find_head(module)
        is_causal(module)

    def measure(
        self, module: nn.Module, batch: Batch, measurement: Measurement, observe: Observe | None = None
    ) -> Float[Tensor, " batch"]:
        """Fold of the measurement over an example's predicted tokens.

        With a frozen output head (capturing, or no gradients at all) the logits are computed in chunks of
        tokens and never stored; otherwise by the plain graph.
        """
        inputs = _inputs(module, batch)
        targets = batch.tensors["labels"][:, 1:]
        predicted = targets != IGNORED
        example, position = predicted.nonzero(as_tuple=True)
        target = targets[predicted]
        scale = _scale(predicted, measurement, module)[example]
        head = find_head(module)
        if head is not None and (head.frozen or not torch.is_grad_enabled()):
            hidden = head.backbone(**inputs).last_hidden_state
            values = measure_head(head.linear, hidden[example, position], target, scale, example, measurement, observe)
        else:
            logits = _logits(module, inputs)[example, position]
            values = measurement.of_logits(precise(logits), target) * scale
        each = torch.zeros(targets.shape, dtype=values.dtype, device=values.device)
        return each.index_put((example, position), values).sum(1)  # unlike index_add the same bits on any device

    def sample_labels(self, module: nn.Module, batch: Batch, generator: torch.Generator) -> Batch:
        """Each predicted token drawn from the model's own distribution, given the true tokens before it."""
        inputs = _inputs(module, batch)
        labels = batch.tensors["labels"].clone()
        predicted = labels[:, 1:] != IGNORED
        head = find_head(module)
        with torch.no_grad():
            if head is None:
                drawn = draw(_logits(module, inputs)[:, :-1][predicted], generator)
            else:
                hidden: Tensor = head.backbone(**inputs).last_hidden_state[:, :-1][predicted]
                drawn = torch.cat([draw(head.linear(part), generator) for part in torch.split(hidden, head.chunk)])
        labels[:, 1:][predicted] = drawn
        return batch.replace(labels=labels)

    def _tokens(self, example: Example) -> tuple[list[int], list[bool]]:
        """Tokens, and whether each counts. A token over the end of the prompt counts, and all behind it."""
        data = example.data
        if "messages" in data:
            return self._chat(example.id, data["messages"])
        prompt = data.get("prompt", "")
        text = prompt + data["completion"] if "completion" in data else data["text"]
        encoding = self.tokenizer(text, return_offsets_mapping=True, verbose=False)
        ends: list[int] = [end for _, end in encoding["offset_mapping"]]
        first = next((k for k, end in enumerate(ends) if end > len(prompt)), len(ends))
        return list(encoding["input_ids"]), [k >= first or (not prompt and first < len(ends)) for k in range(len(ends))]

    def _chat(self, id: str, messages: Sequence[Mapping[str, str]]) -> tuple[list[int], list[bool]]:
        """The chat template's text; what the assistant says counts, up to the end of its turn."""
        text = self._render(id, messages, False)
        spans: list[tuple[int, int]] = []
        for turn, message in enumerate(messages):
            if message["role"] == "assistant":
                before = self._render(id, messages[:turn], True)
                through = self._render(id, messages[: turn + 1], False)
                if through.startswith(before) and text.startswith(through):
                    spans.append((len(before), len(through)))
                    continue
                # a template that writes a turn otherwise once others follow it: look for the words themselves
                start = text.find(message["content"].strip(), spans[-1][1] if spans else 0)
                if start < 0:
                    raise DataError(
                        f"Example {id}: the chat template does not show the assistant's message {turn + 1} as it is, "
                        "so its tokens cannot be found. Give prompt and completion instead."
                    )
                spans.append((start, start + len(message["content"].strip())))
        if not spans:
            raise DataError(f"Example {id} has no message by the assistant, so no token to predict; add one.")
        encoding = self.tokenizer(text, return_offsets_mapping=True, verbose=False, add_special_tokens=False)
        return list(encoding["input_ids"]), [_inside(offset, spans) for offset in encoding["offset_mapping"]]

    def _render(self, id: str, messages: Sequence[Mapping[str, str]], prompt: bool) -> str:
        if not messages:
            return ""
        if not getattr(self.tokenizer, "chat_template", None):
            raise ModelError(
                f"Example {id} holds messages and the model's tokenizer has no chat template. "
                "Give prompt and completion instead, or a tokenizer with a template."
            )
        try:
            return cast(
                str, self.tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=prompt)
            )
        except TemplateError as error:
            raise DataError(f"Example {id} does not fit the model's chat template: {error}") from error

    def _cut(self, ids: list[int], counted: list[bool]) -> tuple[list[int], list[bool]]:
        """Keep the first token and, behind it, from the left until the first counted token is near the start."""
        first = counted.index(True) if True in counted else 0
        excess = min(len(ids) - self.max_length, max(first - 1, 0))
        keep = [0, *range(1 + excess, len(ids))][: self.max_length]
        return [ids[k] for k in keep], [counted[k] for k in keep]


class SequenceClassification(_Text):
    """Texts with a label: the model maps a text to logits [batch, classes]; the loss is the cross-entropy in nats."""

    name = "sequence-classification"
    kinds = ("text",)

    def __init__(
        self,
        tokenizer: Any,
        max_length: int,
        labels: Mapping[str, int] | None = None,
        long: Long = "cut",
        pad: int | None = None,
    ) -> None:
        super().__init__(tokenizer, max_length, long, pad)
        self.labels = dict(labels or {})

    def encode(self, example: Example) -> Item:
        """Tokens [time] and an integer label; a label given by name is looked up in the model's own names."""
        ids = list(self.tokenizer(example.data["text"], verbose=False)["input_ids"])
        if not ids:
            raise DataError(f"Example {example.id} has no token after tokenisation; give a longer text.")
        cut = not self._fit(ids, example.id)
        tensors = {"input_ids": torch.tensor(ids[: self.max_length]), "labels": torch.tensor(self._label(example))}
        return Item(example.id, tensors, len(tensors["input_ids"]), cut)

    def measure(
        self, module: nn.Module, batch: Batch, measurement: Measurement, observe: Observe | None = None
    ) -> Float[Tensor, " batch"]:
        """One predicted label an example, so sum and mean are the same."""
        logits = self._logits(module, batch)
        check_classes(batch.tensors["labels"], logits.shape[1], batch.ids)
        return measurement.of_logits(logits, batch.tensors["labels"])

    def sample_labels(self, module: nn.Module, batch: Batch, generator: torch.Generator) -> Batch:
        """Label ~ softmax(logits)."""
        with torch.no_grad():
            return batch.replace(labels=draw(self._logits(module, batch), generator))

    def _logits(self, module: nn.Module, batch: Batch) -> Float[Tensor, "batch classes"]:
        try:
            output = module(input_ids=batch.tensors["input_ids"], attention_mask=batch.tensors["attention_mask"])
        except ValueError as error:  # a decoder that has no padding token cannot find the last token of each text
            raise ModelError(f"The model refuses a batch of texts: {error} Set model.config.pad_token_id.") from error
        return precise(output.logits)

    def _label(self, example: Example) -> int:
        label = example.label
        if isinstance(label, str) and label in self.labels:
            return self.labels[label]
        with suppress(TypeError, ValueError, OverflowError):
            number = float(cast(Any, label))
            if number == int(number):
                return int(number)
        known = f" or one of {', '.join(self.labels)}" if self.labels else ""
        raise DataError(f"Example {example.id} has label {label!r}; an integer class{known} was expected.")


def _pad(tensor: Tensor, length: int, value: int) -> Tensor:
    """Longer by `value` at the end; a number (a label) as it is."""
    return tensor if not tensor.ndim else torch.nn.functional.pad(tensor, (0, length - len(tensor)), value=value)


def _inside(offset: tuple[int, int], spans: Sequence[tuple[int, int]]) -> bool:
    """Whether a token's characters end inside a counted span (an empty token, such as a special one, does not)."""
    start, end = offset
    return end > start and any(low < end <= high for low, high in spans)


def _scale(predicted: Tensor, measurement: Measurement, module: nn.Module) -> Float[Tensor, " batch"]:
    """What each predicted token of an example counts: 1 for a sum, 1/tokens for a mean."""
    exact = torch.float64 if next(module.parameters()).dtype == torch.float64 else torch.float32
    count = predicted.sum(1).to(exact)
    return torch.ones_like(count) if measurement.reduction == "sum" else 1.0 / count


def _inputs(module: nn.Module, batch: Batch) -> dict[str, Any]:
    """What a causal language model is called with."""
    names = ("input_ids",) if is_causal(module) else ("input_ids", "attention_mask")
    return {name: batch.tensors[name] for name in names} | _no_cache(module)


def _logits(module: nn.Module, inputs: Mapping[str, Any]) -> Float[Tensor, "batch time tokens"]:
    logits: Tensor = module(**inputs).logits
    if logits.shape[:2] != inputs["input_ids"].shape:
        raise ModelError(
            f"The model gives logits for {logits.shape[1]} positions where {inputs['input_ids'].shape[1]} tokens were "
            "given; one for each token was expected. Models with a learned prompt in front are not supported."
        )
    return logits


def _no_cache(module: nn.Module) -> dict[str, bool]:
    """Causal models keep keys and values unless told not to."""
    return {"use_cache": False} if getattr(getattr(module, "config", None), "use_cache", False) else {}
