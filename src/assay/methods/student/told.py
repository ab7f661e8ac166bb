"""The parts of LinFiK by token, for a student to learn from: forward-mode derivatives along what LinFiK multiplies gradients with.

    value_i = r_i < grad L_i, V > = sum_t r_i < grad l_t(i), V > / T        V: P (g - beta m), of the targets' mean gradient g

T: predicted tokens of i; r_i: one over the gradient's length, or 1 for a plain step (`linfik`). Cost: about two forward passes a row
(`gradients/parts.py`), and where lengths count a pass for them.
"""

from typing import cast

import numpy as np
import torch
from jaxtyping import Float64

from assay import progress
from assay.compress.against import Against
from assay.examples import Examples
from assay.gradients.blocks import lay_out, to_parameters
from assay.gradients.features import OnNonfinite, feature_tiles, layout_for
from assay.gradients.parts import along_terms
from assay.index.build import PROBE
from assay.methods.gradient.base import inverse, mean_gradient
from assay.methods.gradient.linfik import LinFiK
from assay.methods.gradient.live import Live
from assay.methods.student.pieces import Told
from assay.models import Model

ALONG = ("text", "completion")
"""Kinds of examples whose tokens have their place in the text that a scorer reads; a chat template writes another."""


def by_token(fitted: Live, rows: Examples, on: Examples) -> list[Told] | None:
    """For each row, given LinFiK fitted to the pool; parts that are not finite count as 0. None for conversations.

    Raises MethodError if an operation of the model has no forward-mode derivative.
    """
    if rows.kind not in ALONG:
        return None
    model, method = fitted.model, cast(LinFiK, fitted.method)
    shapes = {name: p.shape for name, p in model.parameters.items()}
    turned = fitted.turned(mean_gradient(model, on, method).features, 0)
    direction = {name: part[0] for name, part in to_parameters(lay_out(model).blocks, turned, shapes).items()}
    scales, found = _scales(model, rows, method), list[Told]()
    with progress.task("parts by token", len(rows)) as advance:
        for example, scale in zip(rows, scales, strict=True):
            batch = model.task.collate([model.task.encode(example)], model.device)
            parts = scale * along_terms(model, batch, method.train_measurement(), direction).numpy()
            ends = np.array([token.end for token in model.task.tokens_of(example)], dtype=np.int64)
            found.append(Told(ends, np.nan_to_num(parts, nan=0.0, posinf=0.0, neginf=0.0)))
            advance(1)
    return found


def _scales(model: Model, rows: Examples, method: LinFiK) -> Float64[np.ndarray, " n"]:
    """`r_i` of each row."""
    if method.rows() == "none":
        return np.ones(len(rows))
    layout = layout_for(model, rows, method.train_measurement(), PROBE)
    lengths = Against(psi=torch.empty(0, sum(block.size for block in layout.blocks)), squares=True)
    given = (model, rows, lengths, method.train_measurement(), layout)
    tiles = feature_tiles(*given, on_nonfinite=cast(OnNonfinite, method.on_nonfinite), label="lengths")
    return inverse(torch.cat([tile.features[:, 0] for tile in tiles]).double().sqrt()).numpy()
