"""Progress of long work: a bar with an estimate on standard error, silent unless somebody asked for it."""

import time
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol, TypeVar, runtime_checkable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Item = TypeVar("Item")

_shown: ContextVar[bool] = ContextVar("assay_progress_shown", default=False)
console = Console(stderr=True)


@contextmanager
def shown(on: bool = True) -> Generator[None]:
    """Within this context long work shows its progress on standard error."""
    token = _shown.set(on)
    try:
        yield
    finally:
        _shown.reset(token)


def say(message: str) -> None:
    """A line on standard error, if progress is shown."""
    if _shown.get():
        console.print(message, highlight=False, markup=False)


@runtime_checkable
class Advance(Protocol):
    """Moves one task forward by so many steps."""

    def __call__(self, steps: float = 1, /) -> None: ...


@contextmanager
def task(label: str, total: float | None) -> Generator[Advance]:
    """A bar that the caller advances: `with task("indexing", 400) as advance: advance(8)`.

    Where standard error is no terminal it is a line now and then.
    """
    if not _shown.get():
        yield _nothing
    elif not console.is_terminal:
        yield _Lines(label, total)
    else:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console, transient=True) as bars:
            bar = bars.add_task(label, total=total)
            yield lambda steps=1: bars.advance(bar, steps)


def _nothing(steps: float = 1) -> None:
    """Nobody looks."""


class _Lines:
    """Says how far a task is, at most every `EVERY` seconds."""

    EVERY = 15.0

    def __init__(self, label: str, total: float | None) -> None:
        self._label, self._total, self._done = label, total, 0.0
        self._start = self._said = time.monotonic()

    def __call__(self, steps: float = 1) -> None:
        self._done += steps
        now = time.monotonic()
        if now - self._said < self.EVERY:
            return
        self._said = now
        if self._total:
            left = (now - self._start) / self._done * (self._total - self._done)
            say(f"{self._label}: {self._done:,.0f} of {self._total:,.0f}, about {left:,.0f} s left")
        else:
            say(f"{self._label}: {self._done:,.0f}")


def progress(items: Iterable[Item], label: str, total: float | None = None) -> Generator[Item]:
    """Iterate over `items`, one step each."""
    if total is None and hasattr(items, "__len__"):
        total = len(items)  # type: ignore[arg-type]
    with task(label, total) as advance:
        for item in items:
            yield item
            advance()
