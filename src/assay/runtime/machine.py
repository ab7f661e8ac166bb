"""How fast this machine is now: a fifth of a second of matrix products and of copying."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from assay.provenance import peak_memory

BUDGET = 0.1
"""Seconds for each of the two measurements."""


@dataclass(frozen=True)
class Machine:
    """`flops` a second in float32 matrix products, `bytes` a second moved by elementwise work, the memory in use."""

    flops: float
    bytes: float
    resident: int


def measure(device: torch.device) -> Machine:
    """Measure where the model is: products of the size of a layer over a batch, and sums over 64 MiB."""
    a, b = torch.randn(2048, 512, device=device), torch.randn(512, 512, device=device)
    x, y = torch.zeros(2**22, device=device), torch.ones(2**22, device=device)
    return Machine(
        flops=2 * 2048 * 512 * 512 / _seconds(lambda: a @ b, device),
        bytes=3 * 4 * 2**22 / _seconds(lambda: torch.add(x, y, out=x), device),
        resident=resident_memory(),
    )


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call, the mean of as many as fit the budget after a first one."""
    work()
    _wait(device)
    start, calls = time.perf_counter(), 0
    while calls < 2 or time.perf_counter() - start < BUDGET:
        work()
        _wait(device)
        calls += 1
    return (time.perf_counter() - start) / calls


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def resident_memory() -> int:
    """Memory that this process holds now, in bytes; where the system does not tell, its peak so far."""
    status = Path("/proc/self/statm")
    return int(status.read_text().split()[1]) * 4096 if status.exists() else peak_memory()
