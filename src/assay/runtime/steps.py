"""What a plan is: steps with their seconds, memory, disk, coverage."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Step:
    """A part of the work."""

    name: str
    seconds: float


@dataclass(frozen=True)
class Plan:
    """A prediction; `peak_memory` (of the whole process) and `disk` in bytes, `coverage` None without a model."""

    method: str
    seconds: float
    peak_memory: int
    disk: int
    coverage: float | None
    steps: tuple[Step, ...]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return asdict(self)

    def __str__(self) -> str:
        """A line for each step and figure."""
        steps = [f"{step.name:40s} {step.seconds:8.1f} s" for step in self.steps]
        covered = [] if self.coverage is None else [f"{'coverage':40s} {self.coverage:8.1%}"]
        figures = [
            f"{'together':40s} {self.seconds:8.1f} s",
            f"{'peak memory':40s} {self.peak_memory / 2**20:8.0f} MiB",
            f"{'disk':40s} {self.disk / 2**20:8.0f} MiB",
        ]
        return "\n".join([*steps, *figures, *covered, *self.notes])
