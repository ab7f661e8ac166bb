"""The parts of LinFiK by token, for a student to learn from: forward-mode derivatives along the targets' mean gradient.

    value_i = < grad L_i, g > = sum_t < grad l_t(i), g > / T        g: mean gradient of the targets, T: predicted tokens of i

Cost: about two forward passes a row (`gradients/parts.py`), less than the value itself by its gradient.
"""

import numpy as np

from assay import progress
from assay.examples import Examples
from assay.gradients.blocks import lay_out, to_parameters
from assay.gradients.parts import along_terms
from assay.methods.gradient.base import mean_gradient
from assay.methods.gradient.linfik import LinFiK
from assay.methods.student.pieces import Told
from assay.models import Model

ALONG = ("text", "completion")
"""Kinds of examples whose tokens have their place in the text that a scorer reads; a chat template writes another."""


def by_token(model: Model, rows: Examples, on: Examples, method: LinFiK) -> list[Told] | None:
    """For each row; parts that are not finite count as 0. None for conversations.

    Raises MethodError if an operation of the model has no forward-mode derivative.
    """
    if rows.kind not in ALONG:
        return None
    shapes = {name: p.shape for name, p in model.parameters.items()}
    mean = to_parameters(lay_out(model).blocks, mean_gradient(model, on, method).features, shapes)
    direction, found = {name: part[0] for name, part in mean.items()}, list[Told]()
    with progress.task("parts by token", len(rows)) as advance:
        for example in rows:
            batch = model.task.collate([model.task.encode(example)], model.device)
            parts = along_terms(model, batch, method.train_measurement(), direction).numpy()
            ends = np.array([token.end for token in model.task.tokens_of(example)], dtype=np.int64)
            found.append(Told(ends, np.nan_to_num(parts, nan=0.0, posinf=0.0, neginf=0.0)))
            advance(1)
    return found
