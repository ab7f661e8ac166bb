"""From near to far: a stable sort of many rows of distances, fast on the CPU; and blocks of rows on all cores.

A float32 of at least 0 orders like its bits. So many rows are one array of whole numbers, the row in the high bits, and PyTorch
sorts those by radix, in a few linear passes, where it compares floats one with another.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from assay.methods.retrain.pool import single_threaded

Item = TypeVar("Item")
Found = TypeVar("Found")

CHUNK = 2**17
"""Distances sorted together: more leave the cache, and below 2^15 PyTorch compares."""


def nearest_first(distance: Float32[Tensor, "q n"]) -> Int64[Tensor, "q n"]:
    """Positions by distance (float32, at least 0); of equal distances the first comes first."""
    if distance.device.type != "cpu":
        return torch.sort(distance, dim=1, stable=True).indices
    rows = max(1, CHUNK // max(1, distance.shape[1]))
    if len(distance) <= rows:
        return _by_radix(distance)
    return torch.cat([_by_radix(part) for part in torch.split(distance, rows)])


def _by_radix(distance: Float32[Tensor, "q n"]) -> Int64[Tensor, "q n"]:
    q, n = distance.shape
    bits = distance.contiguous().view(torch.int32)
    if not bits.numel():
        return torch.zeros(q, n, dtype=torch.int64)
    least = int(bits.min())
    span = int(bits.max()) - least + 1
    kind = torch.int32 if span * q < 2**31 else torch.int64
    key = bits.to(kind) + (torch.arange(q) * span - least).to(kind)[:, None]
    order = torch.sort(key.flatten(), stable=True).indices.view(q, n)
    return order.sub_(torch.arange(0, q * n, n)[:, None])


def on_all_cores(work: Callable[[Item], Found], items: Iterable[Item], device: torch.device) -> Iterator[Found]:
    """`work` of each item, in their order; on the CPU in as many threads as PyTorch has, each with kernels of one thread.

    A few items are under way at a time. What an item gives does not depend on the number of threads.
    """
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1:
        yield from map(work, items)
        return
    waiting: deque[Future[Found]] = deque()
    rest = iter(items)
    with single_threaded(), ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            waiting.extend(pool.submit(work, item) for item in islice(rest, 2 * threads))
            while waiting:
                found = waiting.popleft().result()
                waiting.extend(pool.submit(work, item) for item in islice(rest, 1))
                yield found
        finally:
            for future in waiting:
                future.cancel()
