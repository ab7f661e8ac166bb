"""The output layer of a language model, measured in chunks of tokens.

With logits `z = W h + b` over a large vocabulary, `z` and `dl/dz` of a whole batch do not fit in memory and cost more
traffic than arithmetic. When `W` is frozen both are needed once: a chunk of `z` gives the value and, in place, its
gradient, from which follows `dl/dh = W^T dl/dz`; the chunk is then overwritten by the next. The floor, one product
forward and one backward, is kept: nothing is computed twice.
"""

import weakref
from collections.abc import Collection, Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from assay.tasks.base import Observe, evaluating
from assay.tasks.measurements import Measurement

CHUNK_ELEMENTS = 2**25
"""Logits held at once (128 MiB of float32): large enough for full speed, small beside the model's activations."""


@dataclass(frozen=True)
class Head:
    """A language model taken apart: `linear(backbone(tokens).last_hidden_state)` are its logits."""

    backbone: nn.Module
    linear: nn.Linear

    @property
    def chunk(self) -> int:
        """Tokens whose logits are held at once."""
        return max(1, CHUNK_ELEMENTS // self.linear.weight.shape[0])

    @property
    def frozen(self) -> bool:
        """Whether the head's own parameters need no gradient from the graph."""
        return not any(p.requires_grad for p in self.linear.parameters())


_plain: ContextVar[bool] = ContextVar("assay_plain_graph", default=False)


@contextmanager
def plain_graph() -> Generator[None]:
    """Within this context no head is taken apart, so that the graph of a measurement can be differentiated twice."""
    token = _plain.set(True)
    try:
        yield
    finally:
        _plain.reset(token)


_found: "weakref.WeakKeyDictionary[nn.Module, tuple[Head, bool]]" = weakref.WeakKeyDictionary()


def find_head(module: nn.Module) -> Head | None:
    """The module's head, if applying it to the backbone's last hidden state gives the module's logits, bit for bit, on
    a probe; None for any other architecture (scaled or capped logits, prompts in front), and within `plain_graph`.
    Probed once for each head.
    """
    head = None if _plain.get() else _take_apart(module)
    if head is None:
        return None
    known = _found.get(module)
    if known is None or known[0] != head:
        known = _found[module] = (head, _probe(module, head))
    return head if known[1] else None


def _take_apart(module: nn.Module) -> Head | None:
    """Backbone and head by the model library's conventions, also inside a LoRA wrapper."""
    model: Any = getattr(module, "get_base_model", lambda: module)()
    linear: Any = getattr(model, "get_output_embeddings", lambda: None)()
    backbone = getattr(model, getattr(model, "base_model_prefix", "") or "", None)
    if type(linear) is not nn.Linear or not isinstance(backbone, nn.Module) or backbone is model:
        return None
    return Head(backbone, linear)


def _probe(module: nn.Module, head: Head) -> bool:
    tokens = torch.tensor([[1, 0, 1]], device=head.linear.weight.device)
    try:
        with torch.no_grad(), evaluating(module):
            hidden = head.backbone(input_ids=tokens, use_cache=False).last_hidden_state
            logits: Tensor = module(input_ids=tokens, use_cache=False).logits
            return torch.equal(head.linear(hidden).to(logits.dtype), logits)
    except (AttributeError, TypeError, ValueError, RuntimeError, IndexError):
        return False  # not a model of the usual shape: the plain graph serves it


_causal: "weakref.WeakKeyDictionary[nn.Module, bool]" = weakref.WeakKeyDictionary()


def is_causal(module: nn.Module) -> bool:
    """Whether a position's logits depend on no later token, by a probe. Padding behind a text then needs no mask, which
    is faster, and safe with sliding windows that at some padded position see masked positions only.
    """
    if module not in _causal:
        weight = next(module.parameters())
        tokens = torch.tensor([[1, 0, 1, 0], [1, 0, 1, 1]], device=weight.device)
        with torch.no_grad(), evaluating(module):
            logits: Tensor = cast(Any, module)(input_ids=tokens).logits[:, :3].float()
        _causal[module] = torch.allclose(
            logits[0], logits[1], rtol=1e-4, atol=1e-4 * float(logits.abs().max().nan_to_num())
        )
    return _causal[module]


REMEMBERED = 2**26
"""Numbers of gradients at hidden states that are remembered at most (256 MiB of float32)."""


class HeadMemory:
    """What the head gave for a measurement of an example: values, and gradients at the last hidden states.

    The same measurement of the same example under the same weights then needs no head: of a small model with a large
    vocabulary that is most of a pass.
    """

    def __init__(self, watched: Collection[nn.Module]) -> None:
        self.watched = frozenset(map(id, watched))
        self.room = REMEMBERED
        self.kept: dict[tuple[Measurement, str], tuple[Tensor, Tensor]] = {}

    def recall(self, measurement: Measurement, ids: Sequence[str]) -> tuple[Tensor, Tensor] | None:
        """Values [tokens] and gradients [tokens, width] of these examples, if all of them are known."""
        found = [self.kept[measurement, id] for id in ids if (measurement, id) in self.kept]
        if len(found) < len(ids):
            return None
        return torch.cat([values for values, _ in found]), torch.cat([slopes for _, slopes in found])

    def keep(
        self, measurement: Measurement, ids: Sequence[str], example: Tensor, values: Tensor, slope: Tensor
    ) -> None:
        """Remember them while there is room."""
        if slope.numel() <= self.room:
            self.room -= slope.numel()
            counts = cast(list[int], torch.bincount(example, minlength=len(ids)).tolist())
            each = zip(ids, torch.split(values, counts), torch.split(slope, counts), strict=True)
            for id, value, part in each:
                self.kept[measurement, id] = value, part


_memory: ContextVar[HeadMemory | None] = ContextVar("assay_head_memory", default=None)


@contextmanager
def heads_remembered(watched: Collection[nn.Module]) -> Generator[None]:
    """For several passes over one set of examples with the same weights. A head among the modules `watched`, whose own
    gradient somebody looks at, runs each time.
    """
    token = _memory.set(HeadMemory(watched))
    try:
        yield
    finally:
        _memory.reset(token)


def measure_head(
    linear: nn.Linear,
    hidden: Float[Tensor, "tokens width"],
    target: Shaped[Tensor, " tokens"],
    scale: Float[Tensor, " tokens"],
    example: Int[Tensor, " tokens"],
    measurement: Measurement,
    ids: Sequence[str],
    observe: Observe | None = None,
) -> Float[Tensor, " tokens"]:
    """`scale` times the measurement at each token, differentiable by `hidden`; `example` is its place among `ids`.

    `observe` is shown each chunk's (module, inputs, gradients at the logits, example of each token).
    """
    memory = _memory.get()
    if memory is None or id(linear) in memory.watched or not (torch.is_grad_enabled() and hidden.requires_grad):
        return cast(Tensor, _ChunkedHead.apply(hidden, linear, target, scale, example, measurement, observe))
    known = memory.recall(measurement, ids)
    if known is None:
        values = cast(Tensor, _ChunkedHead.apply(hidden, linear, target, scale, example, measurement, None))
        memory.keep(measurement, ids, example, values.detach(), cast(Any, values.grad_fn).slope)
        return values
    return cast(Tensor, _Known.apply(hidden, *known))


class _ChunkedHead(torch.autograd.Function):
    """Forward computes values and d/dhidden together, chunk by chunk; backward only scales."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        linear: nn.Linear,
        target: Tensor,
        scale: Tensor,
        example: Tensor,
        measurement: Measurement,
        observe: Observe | None,
    ) -> Tensor:
        weight, bias = linear.weight, linear.bias
        exact = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        wanted = ctx.needs_input_grad[0] or observe is not None
        values = torch.empty(len(hidden), dtype=exact, device=hidden.device)
        slope = torch.empty_like(hidden) if wanted else None
        size = max(1, CHUNK_ELEMENTS // weight.shape[0])
        for start in range(0, len(hidden), size):
            part = slice(start, start + size)
            logits = torch.nn.functional.linear(hidden[part], weight, bias).to(exact)
            if slope is None:
                values[part] = measurement.of_logits(logits, target[part]) * scale[part]
                continue
            value, gradient = measurement.with_gradient(logits, target[part])
            values[part] = value * scale[part]
            if measurement.reduction == "mean":
                gradient.mul_(scale[part, None])
            gradient = gradient.to(weight.dtype)
            torch.mm(gradient, weight, out=slope[part])
            if observe is not None:
                observe(linear, hidden[part], gradient, example[part])
        ctx.slope = slope
        return values

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return (_scaled(ctx.slope, gradients[0]), None, None, None, None, None, None)


class _Known(torch.autograd.Function):
    """Values whose gradient by `hidden` is known."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, values: Tensor, slope: Tensor) -> Tensor:
        ctx.slope = slope
        return values.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return _scaled(ctx.slope, gradients[0]), None, None


def _scaled(slope: Float[Tensor, "tokens width"], by: Float[Tensor, " tokens"]) -> Float[Tensor, "tokens width"]:
    return slope * by[:, None].to(slope.dtype)
