"""Features as they are stored: float32, bfloat16, or int8 with one float32 scale a row.

    int8:      s = max_k |x_k| / 127,   a = round(x / s),   x ~ s a,      |x - s a| <= s / 2  (elementwise)
    bfloat16:  |x - x~| <= 2^-8 |x|
    float32:   exact

Each row is encoded on its own, so the result does not depend on how rows were batched.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from assay.errors import NonFiniteError
from assay.index.format import DTYPES, Dtype

_CHUNK = 1 << 22  # elements that are float64 at one time


def encode(
    features: Float[Tensor, "n K"], dtype: Dtype, ids: Sequence[str]
) -> tuple[Shaped[Tensor, "n K"], Float[Tensor, " n"] | None]:
    """Stored features and, for int8, the scale of each row. Raises NonFiniteError that names the example."""
    values = features.detach().to(device="cpu", dtype=torch.float32)
    largest = values.abs().amax(1) if values.shape[1] else values.new_zeros(len(values))
    refuse_nonfinite(largest, ids, "feature")
    if dtype != "int8":
        stored = values.to(DTYPES[dtype], copy=True)
        if dtype == "bfloat16":  # the largest float32 values round to infinity
            refuse_nonfinite(stored.abs().amax(1).float(), ids, "feature in bfloat16")
        return stored, None
    scale = largest / 127
    inverse = torch.where(scale > 0, 1 / scale, 0).nan_to_num(posinf=0)  # all-zero and subnormal rows store as 0
    scale = torch.where(inverse > 0, scale, 0)
    return (values * inverse[:, None]).round_().clamp_(-127, 127).to(torch.int8), scale


def decode(stored: Shaped[Tensor, "n K"], scale: Float[Tensor, " n"] | None) -> Float[Tensor, "n K"]:
    """A new float32 tensor."""
    values = stored.to(torch.float32, copy=True)
    return values if scale is None else values.mul_(scale[:, None])


def norms(stored: Shaped[Tensor, "n K"], scale: Float[Tensor, " n"] | None) -> Float[Tensor, " n"]:
    """Euclidean length of each decoded row, summed in float64 so that it does not depend on threads or batching."""
    rows = max(1, _CHUNK // max(1, stored.shape[1]))
    parts = [stored[at : at + rows] for at in range(0, len(stored), rows)]
    length = torch.cat([part.double().square_().sum(1).sqrt_() for part in parts])
    return (length if scale is None else length * scale.double()).float()


def refuse_nonfinite(values: Float[Tensor, " n"], ids: Sequence[str], what: str) -> None:
    """Raise NonFiniteError, naming the first example whose value is NaN or infinite."""
    bad = (~values.isfinite()).nonzero()
    if len(bad):
        name = ids[int(bad[0])]
        raise NonFiniteError(
            f"The {what} of example '{name}' is not finite ({len(bad)} of {len(values)} in this batch). "
            "Check that the model's loss on it is finite, or skip such examples."
        )
