"""What `logra` and `trackstar` share: second moments of stored features block by block, lengths under their inverse."""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from assay.compress import Compression
from assay.curvature.blockwise import BlockDiagonal, BlockMoment, distinct, second_moments
from assay.gradients.blocks import lay_out
from assay.index import fitted
from assay.index.reader import StoredIndex
from assay.models import Model
from assay.progress import task


def slots_of(index: StoredIndex, model: Model, compression: Compression, stage: int) -> tuple[slice, ...]:
    """Where each block's numbers lie in a feature; a count-sketch has one place for all."""
    chosen = fitted.kept(index.path, compression.at(stage), stage)
    sketch = chosen.bind(lay_out(model).blocks, torch.device("cpu"), torch.float32)
    return distinct(sketch.slots)


def moments_of(index: StoredIndex, stage: int, slots: tuple[slice, ...]) -> tuple[BlockMoment, ...]:
    """The mean of `phi phi^T` of each block, by one pass over the index."""
    return second_moments(_features(index, stage, "second moments"), slots, index.rows)


def lengths(index: StoredIndex, stage: int, inverse: BlockDiagonal) -> Float[Tensor, " n"]:
    """`sqrt(phi^T (R + lam I)^-1 phi)` of each row, by one pass; nothing is materialised."""
    return torch.cat([inverse.quadratic(phi) for phi in _features(index, stage, "lengths")]).sqrt()


def _features(index: StoredIndex, stage: int, label: str) -> Iterator[Float[Tensor, "n k"]]:
    with task(label, index.rows) as advance:
        for tile in index.tiles(stage):
            yield tile.features
            advance(len(tile.features))
