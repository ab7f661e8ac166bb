"""Tasks on text: causal language models, and sequence classifiers."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Literal, cast

import torch
from jaxtyping import Bool, Float, Int
from jinja2 import TemplateError
from torch import Tensor, nn

from assay.errors import DataError, MethodError, ModelError
from assay.examples import Example
from assay.tasks.base import Batch, Item, Observe, Task, aimed, check_class, check_classes, draw, precise
from assay.tasks.head import find_head, is_causal, measure_head
from assay.tasks.measurements import Loss, Measurement, Reduction
from assay.tasks.outcomes import Contrast, LogOdds, Measure, MeasureOutputs, Negated, negative
from assay.tasks.tokens import Encoded, Token

IGNORED = -100
"""Target of a position that is not predicted (prompt, padding), as in the model library."""

Long = Literal["cut", "refuse"]
OTHER = "contrast"
"""The optional field of a query with the completion that its own is compared with."""


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
        tensors: dict[str, Tensor] = {}
        for other in ("", f"{OTHER}_"):
            names = [other + name for name in ("input_ids", "labels")]
            if all(name in item.tensors for item in items for name in names):
                longest = max(len(item.tensors[names[0]]) for item in items)
                for name, fill in zip(names, (self.pad, IGNORED), strict=True):
                    tensors[name] = torch.stack([_pad(item.tensors[name], longest, fill) for item in items]).to(device)
                lengths = torch.tensor([len(item.tensors[names[0]]) for item in items], device=device)
                mask = torch.arange(longest, device=device) < lengths[:, None]
                tensors[f"{other}attention_mask"] = mask.long()
        return Batch(tuple(item.id for item in items), tensors)

    def positions(self, batch: Batch) -> Bool[Tensor, "batch time"]:
        """Those that hold a token, not padding."""
        return batch.tensors["attention_mask"].bool()

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
    link = "softmax"
    kinds = ("text", "completion", "messages")
    token_parts = ("loss-token", "position", "query-token", "sentence")

    def encode(self, example: Example) -> Item:
        """Tokens and labels [time]; a label is the token itself where it is predicted, else IGNORED. Of a query with a
        contrast, the same of the prompt with the other completion.
        """
        encoded, cut = self._encoded(example)
        tensors = self._labelled(encoded, example.id)
        if OTHER in example.data:
            other, other_cut = self._encoded(_other(example))
            found = self._labelled(other, f"{example.id} ({OTHER})")
            tensors |= {f"{OTHER}_{name}": tensor for name, tensor in found.items()}
            cut |= other_cut
        return Item(example.id, tensors, len(encoded.ids), cut)

    def tokens_of(self, example: Example, measurement: Measurement | None = None) -> tuple[Token, ...]:
        """In order, as they are left after cutting; of a contrast, those of the other completion behind them. Positions
        are characters of the text, of prompt and completion together, or of what the chat template writes.
        """
        encoded = [self._encoded(example)[0]]
        if isinstance(_inner(measurement), Contrast):
            encoded.append(self._encoded(_other(example))[0])
        return tuple(token for one in encoded for token in one.tokens(self.tokenizer))

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
        match measurement:
            case Negated(inner=Measure()):
                return -self.measure(module, batch, measurement.inner, observe)
            case MeasureOutputs():
                return measurement.of_outputs(module(**_inputs(module, batch)), batch)
            case Measure():
                return self._own(module, batch, measurement)
            case _:
                folds = [self._fold(module, *piece, observe) for piece in self._pieces(batch, measurement)]
                return torch.stack(folds).sum(0)

    def terms(self, module: nn.Module, batch: Batch, measurement: Measurement) -> Float[Tensor, "batch n"]:
        """What each token of `tokens_of` adds to the measurement; 0 for one that is not predicted."""
        if isinstance(_inner(measurement), Measure):
            raise MethodError(
                f"The measurement '{measurement.label}' is a function of all tokens together and no sum over them, so "
                "it has no parts by token of the query. Ask for other parts."
            )
        found: list[Tensor] = []
        for part, measured in self._pieces(batch, measurement):
            labels, predicted = part.tensors["labels"], _predicted(part)
            values = measured.of_logits(self.outputs(module, part), labels[:, 1:][predicted])
            values = values * self.shares(part, measured.reduction).to(values)
            each = torch.zeros(labels.shape, dtype=values.dtype, device=values.device)
            example, position = predicted.nonzero(as_tuple=True)
            found.append(each.index_put((example, position + 1), values))
        return torch.cat(found, 1)

    def _pieces(self, batch: Batch, measurement: Measurement) -> list[tuple[Batch, Measurement]]:
        """Batches and what is measured token by token of each, the measurement being the sum over all of them."""
        match measurement:
            case Negated():
                return [(part, negative(measured)) for part, measured in self._pieces(batch, measurement.inner)]
            case Contrast():
                loss = Loss(measurement.reduction)
                return [(batch, negative(loss)), (_other_batch(batch), loss)]
            case LogOdds():
                labels = _last_only(batch.tensors["labels"])
                chosen = aimed(measurement, labels, self._token)
                return [(batch.replace(labels=torch.where(labels == IGNORED, labels, chosen)), measurement)]
            case _:
                return [(batch, measurement)]

    def _token(self, token: str) -> int:
        """A token by its name in the vocabulary, or by a text that is one token."""
        vocabulary: dict[str, int] = self.tokenizer.get_vocab()
        if token in vocabulary:
            return vocabulary[token]
        ids: list[int] = self.tokenizer(token, add_special_tokens=False, verbose=False)["input_ids"]
        if len(ids) == 1 and ids[0] != self.tokenizer.unk_token_id:
            return ids[0]
        parts = ", ".join(repr(part) for part in self.tokenizer.convert_ids_to_tokens(ids))
        raise MethodError(
            f"The measurement log-odds:{token} names {token!r}, which is not one token but {parts or 'none'}. Give one "
            "of the model's tokens; most begin with their space, as in 'log-odds: Paris'."
        )

    def _own(self, module: nn.Module, batch: Batch, measurement: Measure) -> Float[Tensor, " batch"]:
        """A function of the logits and tokens of each example."""
        logits, targets, predicted = _logits(module, _inputs(module, batch)), batch.tensors["labels"], _predicted(batch)
        each = zip(logits, targets, predicted, strict=True)
        return torch.stack([measurement.of_example(precise(z[:-1][where]), y[1:][where]) for z, y, where in each])

    def _fold(
        self, module: nn.Module, batch: Batch, measurement: Measurement, observe: Observe | None
    ) -> Float[Tensor, " batch"]:
        """Sum or mean of a measurement that is taken token by token."""
        inputs = _inputs(module, batch)
        targets = batch.tensors["labels"][:, 1:]
        predicted = targets != IGNORED
        example, position = predicted.nonzero(as_tuple=True)
        target = measurement.aim(targets[predicted], example, batch.ids)
        scale = _scale(predicted, measurement, module)[example]
        head = find_head(module)
        if head is not None and (head.frozen or not torch.is_grad_enabled()):
            hidden = head.backbone(**inputs).last_hidden_state
            chosen = hidden[example, position]
            values = measure_head(head.linear, chosen, target, scale, example, measurement, batch.ids, observe)
        else:
            logits = _logits(module, inputs)[example, position]
            values = measurement.of_logits(precise(logits), target) * scale
        each = torch.zeros(targets.shape, dtype=values.dtype, device=values.device)
        return each.index_put((example, position), values).sum(1)  # unlike index_add the same bits on any device

    def outputs(self, module: nn.Module, batch: Batch) -> Float[Tensor, "n c"]:
        """Logits of the predicted tokens only, in order of examples and positions."""
        inputs, predicted = _inputs(module, batch), _predicted(batch)
        head = find_head(module)
        if head is None:
            return precise(_logits(module, inputs)[:, :-1][predicted])
        return precise(head.linear(head.backbone(**inputs).last_hidden_state[:, :-1][predicted]))

    def targets(self, batch: Batch) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
        """The predicted tokens."""
        predicted = _predicted(batch)
        return batch.tensors["labels"][:, 1:][predicted], predicted.nonzero(as_tuple=True)[0]

    def shares(self, batch: Batch, reduction: Reduction) -> Float[Tensor, " n"]:
        """1, or one over the example's predicted tokens."""
        predicted = _predicted(batch)
        count = predicted.sum(1, keepdim=True).double().expand(predicted.shape)[predicted]
        return torch.ones_like(count) if reduction == "sum" else 1.0 / count

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

    def _encoded(self, example: Example) -> tuple[Encoded, bool]:
        """The tokens, cut to the context, and whether any was lost."""
        encoded = self._tokens(example)
        if self._fit(encoded.ids, example.id):
            return encoded, False
        return encoded.keep(self._kept(encoded.counted)), True

    def _labelled(self, encoded: Encoded, example: str) -> dict[str, Tensor]:
        """`input_ids` and `labels`; one token at least must count."""
        labels = [token if count else IGNORED for token, count in zip(encoded.ids, encoded.counted, strict=True)]
        labels[:1] = [IGNORED] * len(labels[:1])
        if all(label == IGNORED for label in labels):
            raise DataError(
                f"Example {example} has no token to predict ({len(labels)} tokens in all). "
                "Give a longer text, or a completion that is not empty after tokenisation."
            )
        return {"input_ids": torch.tensor(encoded.ids), "labels": torch.tensor(labels)}

    def _tokens(self, example: Example) -> Encoded:
        """All tokens, and whether each counts. A token over the end of the prompt counts, and all behind it."""
        data = example.data
        if "messages" in data:
            return self._chat(example.id, data["messages"])
        prompt = data.get("prompt", "")
        text = prompt + data["completion"] if "completion" in data else data["text"]
        encoding = self.tokenizer(text, return_offsets_mapping=True, verbose=False)
        offsets = [(start, end) for start, end in encoding["offset_mapping"]]
        first = next((k for k, (_, end) in enumerate(offsets) if end > len(prompt)), len(offsets))
        counted = [k >= first or (not prompt and first < len(offsets)) for k in range(len(offsets))]
        return Encoded(text, list(encoding["input_ids"]), offsets, counted)

    def _chat(self, id: str, messages: Sequence[Mapping[str, str]]) -> Encoded:
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
        offsets = [(start, end) for start, end in encoding["offset_mapping"]]
        return Encoded(text, list(encoding["input_ids"]), offsets, [_inside(offset, spans) for offset in offsets])

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

    def _kept(self, counted: list[bool]) -> list[int]:
        """Keep the first token and, behind it, from the left until the first counted token is near the start."""
        first = counted.index(True) if True in counted else 0
        excess = min(len(counted) - self.max_length, max(first - 1, 0))
        return [0, *range(1 + excess, len(counted))][: self.max_length]


class SequenceClassification(_Text):
    """Texts with a label: the model maps a text to logits [batch, classes]; the loss is the cross-entropy in nats."""

    name = "sequence-classification"
    kinds = ("text",)
    token_parts = ("position",)
    link = "softmax"

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
        if isinstance(own := _inner(measurement), MeasureOutputs):
            value = own.of_outputs(self._output(module, batch), batch)
            return -value if isinstance(measurement, Negated) else value
        logits = self._logits(module, batch)
        check_classes(batch.tensors["labels"], logits.shape[1], batch.ids)
        target = aimed(measurement, batch.tensors["labels"], self._class)
        check_class(measurement, target, logits.shape[1])
        each = torch.arange(len(batch), device=logits.device)
        return measurement.of_logits(logits, measurement.aim(target, each, batch.ids))

    def tokens_of(self, example: Example, measurement: Measurement | None = None) -> tuple[Token, ...]:
        """The tokens of the text; none is predicted."""
        encoding = self.tokenizer(example.data["text"], return_offsets_mapping=True, verbose=False)
        offsets = [(start, end) for start, end in encoding["offset_mapping"]]
        encoded = Encoded(example.data["text"], list(encoding["input_ids"]), offsets, [False] * len(offsets))
        return encoded.keep(range(min(len(offsets), self.max_length))).tokens(self.tokenizer)

    def outputs(self, module: nn.Module, batch: Batch) -> Float[Tensor, "n c"]:
        """Logits."""
        return self._logits(module, batch)

    def targets(self, batch: Batch) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
        """One label an example."""
        return batch.tensors["labels"], torch.arange(len(batch), device=batch.tensors["labels"].device)

    def sample_labels(self, module: nn.Module, batch: Batch, generator: torch.Generator) -> Batch:
        """Label ~ softmax(logits)."""
        with torch.no_grad():
            return batch.replace(labels=draw(self._logits(module, batch), generator))

    def _logits(self, module: nn.Module, batch: Batch) -> Float[Tensor, "batch classes"]:
        return precise(self._output(module, batch).logits)

    def _output(self, module: nn.Module, batch: Batch) -> Any:
        try:
            return module(input_ids=batch.tensors["input_ids"], attention_mask=batch.tensors["attention_mask"])
        except ValueError as error:  # a decoder that has no padding token cannot find the last token of each text
            raise ModelError(f"The model refuses a batch of texts: {error} Set model.config.pad_token_id.") from error

    def _class(self, token: str) -> int:
        """A class by its name in the model's own list, or by its number."""
        if token in self.labels:
            return self.labels[token]
        if token.isdecimal():
            return int(token)
        known = f", or one of {', '.join(self.labels)}" if self.labels else ""
        raise MethodError(f"The measurement log-odds:{token} names no class; a number{known} was expected.")

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


def _inner(measurement: Measurement | None) -> Measurement | None:
    """What is measured, whatever its sign."""
    return measurement.inner if isinstance(measurement, Negated) else measurement


def _other(example: Example) -> Example:
    """The example with the completion that its own is compared with. Raises DataError if it has none."""
    if OTHER not in example.data:
        raise DataError(_NO_CONTRAST.format(example.id))
    return replace(example, data={"prompt": example.data["prompt"], "completion": example.data[OTHER]})


def _other_batch(batch: Batch) -> Batch:
    """The same of a batch."""
    if f"{OTHER}_labels" not in batch.tensors:
        raise DataError(_NO_CONTRAST.format(batch.ids[0] + (" or another" if len(batch) > 1 else "")))
    names = ("input_ids", "labels", "attention_mask")
    return batch.replace(**{name: batch.tensors[f"{OTHER}_{name}"] for name in names})


_NO_CONTRAST = (
    "The measurement 'contrast' compares two completions, and query {} has no field 'contrast'. Give prompt, completion "
    "and contrast (the other completion) in every query."
)


def _last_only(labels: Tensor) -> Tensor:
    """Labels [batch, time] with only the last predicted position of each example left."""
    position = torch.arange(labels.shape[1], device=labels.device).expand_as(labels)
    last = torch.where(labels == IGNORED, -1, position).amax(1, keepdim=True)
    return torch.where(position == last, labels, IGNORED)


def _inside(offset: tuple[int, int], spans: Sequence[tuple[int, int]]) -> bool:
    """Whether a token's characters end inside a counted span (an empty token, such as a special one, does not)."""
    start, end = offset
    return end > start and any(low < end <= high for low, high in spans)


def _predicted(batch: Batch) -> Bool[Tensor, "batch time"]:
    """Which positions predict a token that counts."""
    return batch.tensors["labels"][:, 1:] != IGNORED


def _scale(predicted: Tensor, measurement: Measurement, module: nn.Module) -> Float[Tensor, " batch"]:
    """What each predicted token of an example counts."""
    exact = torch.float64 if next(module.parameters()).dtype == torch.float64 else torch.float32
    count = predicted.sum(1).to(exact)
    return measurement.share(count)


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
