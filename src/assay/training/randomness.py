"""Random numbers of a run: each stream follows from the recipe's seed and its purpose; the caller's is untouched."""

from collections.abc import Generator
from contextlib import contextmanager
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

ORDER, NOISE = 0, 1


def derived(seed: int, stream: int, position: int) -> int:
    """A seed of its own for one epoch's order (`ORDER`) or one step's dropout (`NOISE`)."""
    return int(np.random.SeedSequence((seed, stream, position)).generate_state(1, np.uint64)[0])


@contextmanager
def forked() -> Generator[None]:
    """Within this context torch's global random state may be set; afterwards it is what it was before."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(list(devices)):
        yield


def set_noise(seed: int, step: int) -> None:
    """Seed what dropout draws from in one step. Inside `forked()` only.

    Not by `torch.manual_seed`, which on a machine without a GPU keeps a stack trace of every call.
    """
    noise = derived(seed, NOISE, step)
    torch.default_generator.manual_seed(noise)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(noise)


@lru_cache(maxsize=4)
def permutation(n: int, seed: int, epoch: int) -> Int[Tensor, " n"]:
    """The order of `n` examples in one epoch; follows from its arguments alone. Not to be written to."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(derived(seed, ORDER, epoch)))
