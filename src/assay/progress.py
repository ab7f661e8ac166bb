"""Progress of long work: a bar with an estimate on standard error, silent unless somebody asked for it."""

from collections.abc import Generator, Iterable
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

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


@contextmanager
def task(label: str, total: float | None) -> Generator["Advance"]:
    """A bar that the caller advances; `with task("indexing", 400) as advance: advance(8)`."""
    if not _shown.get():
        yield Advance(None, None)
        return
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
        TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bars:
        yield Advance(bars, bars.add_task(label, total=total))


class Advance:
    """Moves one bar forward; does nothing when progress is not shown."""

    def __init__(self, bars: Progress | None, bar: int | None) -> None:
        self._bars, self._bar = bars, bar

    def __call__(self, steps: float = 1) -> None:
        if self._bars is not None and self._bar is not None:
            self._bars.advance(self._bar, steps)  # type: ignore[arg-type]


def progress(items: Iterable[Item], label: str, total: float | None = None) -> Generator[Item]:
    """Iterate over `items`, one step each."""
    if total is None and hasattr(items, "__len__"):
        total = len(items)  # type: ignore[arg-type]
    with task(label, total) as advance:
        for item in items:
            yield item
            advance()
