"""Where a result comes from: method and parameters, what it was computed on, what it cost, which packages."""

import resource
import sys
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import cache
from importlib import metadata
from typing import Any

from assay.jsonable import jsonable

SIGN = "higher = more helpful"
PACKAGES = (
    "assay",
    "torch",
    "numpy",
    "transformers",
    "peft",
    "datasets",
    "scikit-learn",
    "scipy",
    "bm25s",
    "pandas",
    "pyarrow",
    "safetensors",
    "lightgbm",
    "xgboost",
    "catboost",
    "ray",
)


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Everything a result knows about how it was made; with the same data, enough to make it again.

    `unit` is "nats per removed example" where the method estimates it, "arbitrary" otherwise. `coverage` is the
    share of the model's parameters that took part (None: the method uses no parameters). `seconds` is wall-clock
    time, `peak_memory` the process's peak resident memory in bytes. `inputs` names what was read (model, train,
    queries) as the user named it; `origin` how to read and load them again (the command line notes it).
    """

    method: str
    parameters: Mapping[str, Any]
    unit: str
    sign: str = SIGN
    inputs: Mapping[str, str] = field(default_factory=dict[str, str])
    model_fingerprint: str | None = None
    train_fingerprint: str | None = None
    query_fingerprint: str | None = None
    coverage: float | None = None
    seconds: float = 0.0
    peak_memory: int = 0
    versions: Mapping[str, str] = field(default_factory=lambda: dict(package_versions()))
    notes: tuple[str, ...] = ()
    origin: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        object.__setattr__(self, "parameters", jsonable(self.parameters))

    def entries(self) -> dict[str, Any]:
        """All fields as JSON values."""
        return {entry.name: jsonable(getattr(self, entry.name)) for entry in fields(self)}


@cache
def package_versions() -> Mapping[str, str]:
    """Versions of Python and of those of our packages that are installed."""
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


@dataclass
class Cost:
    """Filled by `measured` when its block ends."""

    seconds: float = 0.0
    peak_memory: int = 0


@contextmanager
def measured(earlier: float = 0.0) -> Generator[Cost]:
    """Yield a `Cost` that is filled when the block ends; `earlier` seconds are added to its own."""
    cost, start = Cost(), time.perf_counter()
    try:
        yield cost
    finally:
        cost.seconds = earlier + time.perf_counter() - start
        cost.peak_memory = peak_memory()


def peak_memory() -> int:
    """Peak resident memory of this process so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux KiB
