"""From near to far: a stable sort of many rows of distances, fast on the CPU.

A float32 of at least 0 orders like its bits, so a distance and a position make one 64-bit key, and one sort of keys is a
stable sort that already holds the positions.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from jaxtyping import Float32, Int64, UInt64
from torch import Tensor


def nearest_first(distance: Float32[Tensor, "q n"]) -> Int64[Tensor, "q n"]:
    """Positions by distance (float32, at least 0); of equal distances the first comes first."""
    if distance.device.type != "cpu":
        return torch.sort(distance, dim=1, stable=True).indices
    bits = np.ascontiguousarray(distance.numpy()).view(np.uint32)
    keys = bits.astype(np.uint64)
    keys <<= np.uint64(32)
    keys |= np.arange(keys.shape[1], dtype=np.uint64)
    parts = [part for part in np.array_split(keys, torch.get_num_threads()) if len(part)]
    if len(parts) == 1:
        keys.sort(axis=1)
    else:
        with ThreadPoolExecutor(len(parts)) as pool:  # numpy sorts without holding the interpreter
            list(pool.map(_sort, parts))
    keys &= np.uint64(0xFFFFFFFF)
    return torch.from_numpy(keys.view(np.int64))


def _sort(rows: UInt64[np.ndarray, "q n"]) -> None:
    rows.sort(axis=1)
