"""Speech: sequences of feature frames with a transcript, under the connectionist temporal classification loss.

    L = -log sum over paths that spell the transcript  product over frames t of  p(path_t | frames)

a path being one symbol or the blank a frame; repetitions are merged and blanks dropped (Graves et al. 2006).
"""

from collections.abc import Iterable, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from assay.errors import DataError, MethodError, ModelError
from assay.examples import Example
from assay.tasks.base import Batch, Item, Observe, Task
from assay.tasks.measurements import Loss, Measurement
from assay.tasks.outcomes import Negated

BLANK = 0


class CTC(Task):
    """Transcripts of frames: x [time, features], y a text over `symbols`, or numbers 1 ... len(symbols).

    The module maps (x [batch, time, features], frames [batch]) to logits [batch, ceil(time / stride), 1 + symbols], with
    the blank first; `frames` are the examples' true lengths, behind which x is zero. The loss is in nats, a sum over an
    utterance. The input of the module called `head` (by default the last linear layer) is the encoder's representation.
    """

    name = "ctc"
    kinds = ("arrays",)

    def __init__(self, symbols: Sequence[str], stride: int = 1, head: str | None = None) -> None:
        if stride < 1 or not symbols or len(set(symbols)) < len(symbols):
            raise MethodError("A CTC task takes different symbols and a stride of at least 1.")
        self.symbols, self.stride, self.head = tuple(symbols), stride, head

    def identity(self) -> str:
        """Symbols and stride."""
        return f"{self.name} {self.symbols} {self.stride}"

    def encode(self, example: Example) -> Item:
        """Frames as floats, the transcript as numbers of symbols."""
        x = torch.as_tensor(example.data["x"]).detach()
        if x.ndim != 2 or not x.is_floating_point():
            raise DataError(f"Example {example.id} has x of shape {tuple(x.shape)}; expected frames [time, features].")
        labels = self._labels(example)
        needed = len(labels) + sum(a == b for a, b in pairwise(labels))
        if needed > self.lengths(len(x)):
            raise DataError(
                f"Example {example.id} has {len(x)} frames, too few for its transcript of {len(labels)} symbols; "
                "use more frames a second, a smaller stride, or leave it out."
            )
        return Item(example.id, {"x": x, "y": torch.tensor(labels, dtype=torch.long)}, len(x))

    def lengths(self, frames: Any) -> Any:
        """Positions of the output for so many frames."""
        return (frames + self.stride - 1) // self.stride

    def collate(self, items: Sequence[Item], device: torch.device | str = "cpu") -> Batch:
        """Frames and transcripts padded with zeros behind."""
        pad = nn.utils.rnn.pad_sequence
        tensors = {name: pad([item.tensors[name] for item in items], batch_first=True) for name in ("x", "y")}
        tensors["frames"] = torch.tensor([item.length for item in items])
        tensors["labels"] = torch.tensor([len(item.tensors["y"]) for item in items])
        return Batch(tuple(item.id for item in items), {name: tensor.to(device) for name, tensor in tensors.items()})

    def measure(
        self, module: nn.Module, batch: Batch, measurement: Measurement, observe: Observe | None = None
    ) -> Float[Tensor, " batch"]:
        """The loss; other measurements raise `MethodError`."""
        if isinstance(measurement, Negated):
            return -self.measure(module, batch, measurement.inner)
        if not isinstance(measurement, Loss):
            raise MethodError(f"The task 'ctc' knows its loss only, and was asked for '{measurement.label}'.")
        scores = self.log_probabilities(module, batch).transpose(0, 1)
        tensors = batch.tensors
        positions = self.lengths(tensors["frames"])
        loss = F.ctc_loss(scores, tensors["y"], positions, tensors["labels"], blank=BLANK, reduction="none")
        return loss / tensors["labels"].clamp(min=1) if measurement.reduction == "mean" else loss

    def log_probabilities(self, module: nn.Module, batch: Batch) -> Float[Tensor, "batch time c"]:
        """Of the blank and the symbols at each position of the output."""
        x, frames = batch.tensors["x"], batch.tensors["frames"]
        parameter = next(module.parameters(), x)
        logits = cast(object, module(x.to(parameter.dtype), frames))
        wanted = (len(batch), self.lengths(x.shape[1]), 1 + len(self.symbols))
        if not isinstance(logits, Tensor) or tuple(logits.shape) != wanted:
            found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ModelError(
                f"The module returned {found}; logits [batch, time, 1 + symbols] = {wanted} were expected."
            )
        return logits.log_softmax(2)

    def frames(
        self, module: nn.Module, batch: Batch
    ) -> tuple[Float[Tensor, "batch time hidden"], Float[Tensor, "batch time c"]]:
        """The encoder's representation of each position, and the log probabilities, without gradients."""
        seen: list[Tensor] = []
        with torch.no_grad(), _looking(self._head(module), seen):
            scores = self.log_probabilities(module, batch)
        if len(seen) != 1 or seen[0].shape[:2] != scores.shape[:2]:
            raise ModelError(
                "The head was not called once with [batch, time, hidden]; name the layer behind the encoder: CTC(head=...)."
            )
        return seen[0], scores

    def features(self, module: nn.Module, batch: Batch) -> Float[Tensor, "batch hidden"]:
        """Mean over an utterance's positions of the encoder's representation."""
        hidden, _ = self.frames(module, batch)
        positions = self.lengths(batch.tensors["frames"])
        inside = torch.arange(hidden.shape[1], device=hidden.device)[None, :] < positions[:, None]
        return ((hidden * inside[:, :, None]).sum(1) / positions[:, None]).float()

    def decode(self, path: Iterable[int]) -> str:
        """The text of a path: repetitions merged, blanks dropped."""
        path = list(path)
        kept = [s for s, before in zip(path, [BLANK, *path], strict=False) if s not in (BLANK, before)]
        return "".join(self.symbols[s - 1] for s in kept)

    def transcribe(self, module: nn.Module, batch: Batch) -> list[str]:
        """The text of each utterance's most probable path, frame by frame."""
        with torch.no_grad():
            best: Int[Tensor, "batch time"] = self.log_probabilities(module, batch).argmax(2)
        positions = self.lengths(batch.tensors["frames"]).tolist()
        paths = cast("list[list[int]]", best.tolist())
        return [self.decode(path[:length]) for path, length in zip(paths, positions, strict=True)]

    def _labels(self, example: Example) -> list[int]:
        y = example.data.get("y")
        if isinstance(y, str):
            unknown = sorted(set(y) - set(self.symbols))
            if unknown:
                raise DataError(
                    f"Example {example.id} has {unknown[0]!r} in its transcript, which is none of the symbols."
                )
            labels = [self.symbols.index(symbol) + 1 for symbol in y]
        else:
            labels = cast("list[int]", torch.as_tensor([] if y is None else y).reshape(-1).long().tolist())
        if not labels or min(labels) < 1 or max(labels) > len(self.symbols):
            raise DataError(
                f"Example {example.id} has no transcript, or numbers that are no symbols; expected a text, or numbers "
                f"from 1 to {len(self.symbols)}."
            )
        return labels

    def _head(self, module: nn.Module) -> nn.Module:
        if self.head is not None:
            return module.get_submodule(self.head)
        layers = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
        if not layers:
            raise ModelError("The module has no linear layer; name the layer behind the encoder: CTC(head=...).")
        return layers[-1]


@contextmanager
def _looking(layer: nn.Module, seen: list[Tensor]) -> Any:
    """Within this context what goes into the layer is kept."""
    hook = layer.register_forward_pre_hook(lambda _, given: seen.append(cast(Tensor, given[0]).detach()))
    try:
        yield
    finally:
        hook.remove()
