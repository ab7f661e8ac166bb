"""Features of many examples: encoded in windows, packed by length, captured, checked, given back in order.

A window is a fixed range of rows, so that which examples share a batch depends on the rows only and a build that
was killed and resumed has the same bits as one that was not.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from assay import progress
from assay.errors import NonFiniteError
from assay.examples import Examples
from assay.gradients.blocks import Layout
from assay.gradients.capture import Capture, capturing
from assay.gradients.sketch import Compression
from assay.gradients.verify import verified_layout
from assay.models import Model
from assay.tasks import Item, Measurement, Miss
from assay.tasks.base import evaluating

OnNonfinite = Literal["raise", "skip"]

POSITIONS = 2048
"""Positions (tokens, with padding) in a batch: enough for full speed of the matrix products, and small activations."""
EXAMPLES = 256
"""Examples in a batch at most."""
PROBED = 32
"""Examples looked at to find two that a layout can be verified on."""
NUMBERS = 2**26
"""Numbers held at once in a window's features (256 MiB of float32), and in a batch's largest formed gradient."""


@dataclass(frozen=True)
class Tile:
    """Features of consecutive examples, `start` being the row of the first.

    `statistics`, [n] each: `value` (the measurement), `cut` (1 where the example was cut), `skipped` (1 where it was
    not finite), and `miss` if asked for.
    """

    start: int
    ids: tuple[str, ...]
    features: Float[Tensor, "n width"]
    statistics: dict[str, Float[Tensor, " n"]]


def notes(cut: int, skipped: Sequence[str]) -> tuple[str, ...]:
    """What the user must be told of a pass over examples, one sentence each."""
    texts: list[str] = []
    if cut:
        were = (
            "example was longer than the context and was"
            if cut == 1
            else "examples were longer than the context and were"
        )
        texts.append(f"{cut} {were} cut.")
    if skipped:
        some = ", ".join(skipped[:5]) + (", ..." if len(skipped) > 5 else "")
        texts.append(f"{len(skipped)} examples had a loss or gradient that is not finite and score 0: {some}.")
    return tuple(texts)


def coverage_note(model: Model) -> tuple[str, ...]:
    """A warning that names the modules left out, if less than 99% of the trainable parameters take part."""
    left = {
        name.rpartition(".")[0] or name
        for name, p in model.module.named_parameters()
        if p.requires_grad and name not in model.parameters
    }
    share = sum(p.numel() for p in model.parameters.values()) / model.size
    if share >= 0.99:
        return ()
    some = ", ".join(sorted(left)[:5]) + (", ..." if len(left) > 5 else "")
    return (f"Only {share:.1%} of the trainable parameters took part; left out: {some}.",)


def window_rows(width: int, limit: int = 1024) -> int:
    """Rows of a window whose features fit the memory set aside for them."""
    return max(1, min(limit, NUMBERS // width))


def layout_for(model: Model, examples: Examples, measurement: Measurement, probe: Compression) -> Layout:
    """The layout of the model, verified by means of a small compression `probe` on two examples that differ and have a
    finite measurement: of the first few, those of about 64 positions, which see every layer and cost little.
    """
    task = model.task
    chosen: list[Item] = []
    items = [task.encode(examples[k]) for k in range(min(PROBED, len(examples)))]
    with evaluating(model.module), torch.no_grad():
        for item in sorted(items, key=lambda item: abs(item.length - 64)):
            value = task.measure(model.module, task.collate([item], model.device), measurement)
            if bool(value.isfinite().all()) and not any(_equal(item, other) for other in chosen):
                chosen.append(item)
            if len(chosen) == 2:
                break
    chosen = chosen or [task.encode(examples[0])]
    return verified_layout(model, task.collate(chosen, model.device), measurement, probe)


def feature_tiles(
    model: Model,
    examples: Examples,
    compression: Compression,
    measurement: Measurement,
    layout: Layout,
    *,
    start: int = 0,
    window: int | None = None,
    on_nonfinite: OnNonfinite = "raise",
    miss: bool = False,
    label: str = "gradients",
) -> Iterator[Tile]:
    """Features of the examples from row `start` (a multiple of `window`) on, one tile a window.

    Raises `NonFiniteError` that names the example, unless `on_nonfinite="skip"`: then its features are zero.
    """
    with capturing(model, compression, layout) as capture, progress.task(label, len(examples) - start) as advance:
        size = window or window_rows(capture.width)
        most = min(EXAMPLES, max(1, NUMBERS // _formed(layout, capture, compression)))
        for first in range(start, len(examples), size):
            items = [model.task.encode(examples[i]) for i in range(first, min(first + size, len(examples)))]
            features = torch.empty(len(items), capture.width, dtype=torch.float32)
            statistics = {name: torch.zeros(len(items)) for name in ("value", "cut", "skipped", *(["miss"] * miss))}
            statistics["cut"] = torch.tensor([float(item.cut) for item in items])
            for members in pack([item.length for item in items], POSITIONS, most):
                batch = model.task.collate([items[k] for k in members], model.device)
                phi, value = capture(batch, measurement)
                phi = phi.float()  # before the check: what float64 holds may be infinite here
                bad = not_finite(batch.ids, phi, value, on_nonfinite)
                if bool(bad.any()):
                    phi, value = phi.masked_fill(bad[:, None], 0), value.masked_fill(bad, 0)
                statistics["skipped"][members] = bad.float().cpu()
                statistics["value"][members] = value.float().cpu()
                features[members] = phi.cpu()
                if miss:
                    with torch.no_grad():
                        missed = model.task.measure(model.module, batch, Miss("mean"))
                    statistics["miss"][members] = missed.masked_fill(bad, 0).float().cpu()
                advance(len(members))
            yield Tile(first, tuple(item.id for item in items), features, statistics)


def pack(lengths: Sequence[int], positions: int, most: int) -> list[list[int]]:
    """Indices grouped so that a group, padded to its longest, has at most `positions`; longest first."""
    order = sorted(range(len(lengths)), key=lambda k: -lengths[k])
    groups: list[list[int]] = []
    for k in order:
        group = groups[-1] if groups else []
        if group and len(group) < most and (len(group) + 1) * lengths[group[0]] <= positions:
            group.append(k)
        else:
            groups.append([k])
    return groups


def _equal(one: Item, other: Item) -> bool:
    same = zip(one.tensors.values(), other.tensors.values(), strict=True)
    return one.length == other.length and all(torch.equal(a, b) for a, b in same)


def _formed(layout: Layout, capture: Capture, compression: Compression) -> int:
    """Numbers formed for one example at once: its features, or the largest block where sides stay uncompressed."""
    largest = max(block.size for block in layout.blocks)
    return max(capture.width, largest if compression.forms_gradients else 1)


def not_finite(
    ids: Sequence[str], features: Tensor, values: Tensor, on_nonfinite: OnNonfinite
) -> Bool[Tensor, " batch"]:
    """Which examples have a measurement or gradient that is NaN or infinite; raises for the first unless skipped."""
    bad = ~(values.isfinite() & features.sum(1).isfinite())  # a sum is finite only if every term is
    if on_nonfinite == "raise" and bool(bad.any()):
        k = int(bad.nonzero()[0])
        what = "loss" if not bool(values[k].isfinite()) else "gradient"
        raise NonFiniteError(
            f"Example {ids[k]} has a {what} that is NaN or infinite (loss {float(values[k])}). Look at the example, "
            "use a wider dtype, or pass on_nonfinite='skip' to leave such examples out and have them listed."
        )
    return bad
