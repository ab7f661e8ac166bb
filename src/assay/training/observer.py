"""What may look at a run while it runs, and must change nothing of it."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol, runtime_checkable

from assay.training.optimizers import Flat
from assay.training.steps import Steps

After = Callable[[int, Flat], None]
"""Called after each step with the number of steps done and the parameters then."""


@runtime_checkable
class Observer(Protocol):
    """Such as `assay.Recorder`."""

    def watching(self, steps: Steps, done: int) -> AbstractContextManager[After]:
        """Look at a run that goes on after `done` steps; hooks come off at the end."""
        ...

    def save(self) -> None:
        """Keep what was seen up to here: a checkpoint is about to be written."""
        ...
