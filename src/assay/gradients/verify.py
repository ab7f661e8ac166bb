"""A check that costs two examples: do the rules give the gradient that automatic differentiation gives?

A module may use a weight in a way that no hook sees (called functionally, or scaled by its parent), or mix examples.
Rather than trust the layer types, captured gradients of a batch are compared with the true ones of each example
alone, block by block, both sketched to a few numbers; blocks that disagree are taken example by example from then on.
"""

import math

import torch
from torch import Tensor, nn

from assay.gradients.blocks import Layout, lay_out
from assay.gradients.capture import capturing
from assay.gradients.functional import each_gradient, requiring_gradients
from assay.gradients.sketch import Compression, Sketch
from assay.models import Model
from assay.tasks import Batch, Measurement

TOLERANCE = {torch.float64: 1e-3, torch.float32: 1e-2, torch.bfloat16: 0.2, torch.float16: 0.1}
"""Relative error of a block's sketched gradient above which its rule is not believed, by the model's dtype."""


def verified_layout(model: Model, batch: Batch, measurement: Measurement, probe: Compression) -> Layout:
    """The layout in which every rule was seen to be right on `batch` (two different examples are enough).

    A module that did not run for these examples is remembered as unseen; should it run later, its blocks are taken
    example by example in that batch. `probe`: a compression to a few numbers a block, with a slot for each block.
    """
    without: list[nn.Module] = []
    while True:
        layout = lay_out(model, without)
        if not layout.sites:
            return layout
        wrong, seen = _compare(model, layout, batch, measurement, probe)
        if not wrong:
            return lay_out(model, without, {site.module for site in layout.sites} - seen)
        without.extend(wrong)


def _compare(
    model: Model, layout: Layout, batch: Batch, measurement: Measurement, probe: Compression
) -> tuple[list[nn.Module], set[nn.Module]]:
    """Modules whose blocks disagree with automatic differentiation or that mix examples; and those that ran."""
    with capturing(model, probe, layout) as capture:
        captured, _ = capture(batch, measurement)
        true = _true(model, layout, capture.sketch, batch, measurement).to(captured)
        sites, misfits, seen = layout.sites, capture.misfits, capture.seen
    finite = true.isfinite().all(1)
    error, size = _norms((captured - true)[finite], capture.sketch), _norms(true[finite], capture.sketch)
    tolerance = TOLERANCE.get(next(iter(model.parameters.values())).dtype, 0.1)
    floor = 1e-3 * math.hypot(*size)  # below it a block is noise
    wrong = {k for k, e in enumerate(error) if not e <= tolerance * max(size[k], floor)}
    return [s.module for s in sites if s.module in misfits or wrong & set(s.blocks.values())], seen


def _norms(features: Tensor, sketch: Sketch) -> list[float]:
    """Euclidean norm of every block's numbers over all examples."""
    return [features[:, slot].flatten().dot(features[:, slot].flatten()).item() ** 0.5 for slot in sketch.slots]


def _true(model: Model, layout: Layout, sketch: Sketch, batch: Batch, measurement: Measurement) -> Tensor:
    """Sketched gradients of each example, [batch, width], holding one example's gradient at a time."""
    rows: list[Tensor] = []
    exact = torch.float64 if next(iter(model.parameters.values())).dtype == torch.float64 else torch.float32
    with requiring_gradients(model.module, model.parameters.values()):
        for gradients in each_gradient(model, batch, measurement, list(model.parameters)):
            row = torch.zeros(1, sketch.width, dtype=exact, device=model.device)
            for k, block in enumerate(layout.blocks):
                row[:, sketch.slots[k]] = sketch.whole(k, block.assemble(gradients).to(exact))
            rows.append(row)
    return torch.cat(rows)
