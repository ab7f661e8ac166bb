"""Metasmoothness: does training answer a change of its weights with a change that is nearly linear?

With f(h) the parameters at the end of training at weights w + h v, and d_0 = f(h) - f(0), d_1 = f(2h) - f(h):

    S = sum over parameters of  sign(d_0) sign(d_1) |d_0|  /  sum of |d_0|          1: smooth;  near 0: a coin's toss

Here v lowers the weights of a random half of the examples, as a removal does. Source: Engstrom et al. 2025 (2503.13751),
definition 1. Cost: three training runs.
"""

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from assay.training import Encoded, Recipe

POOR = 0.9
STREAM = 0x500


def metasmoothness(recipe: Recipe, data: Encoded, weights: Float64[Tensor, " n"], step: float) -> float:
    """Between -1 and 1; `step` is h. 1 where training does not move at all."""
    half = np.random.default_rng((recipe.seed, STREAM)).random(len(data)) < 0.5
    direction = -torch.from_numpy(half).double()
    ends = [
        recipe.train(data, weights + k * step * direction, label="metasmoothness").states[-1].params.double()
        for k in range(3)
    ]
    first, second = ends[1] - ends[0], ends[2] - ends[1]
    size = first.abs()
    if not bool(size.sum() > 0):
        return 1.0
    return float((first.sign() * second.sign() * size).sum() / size.sum())
