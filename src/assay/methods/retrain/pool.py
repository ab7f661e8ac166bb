"""Workers: units of work in the order in which they were drawn, computed here and in other processes.

This process works too, and alone for as long as others would take to start, so that a short run never waits for them. Model
and data go to each once, as one file that all of them map into memory; then a unit is a few bytes. A unit that is
still missing when this process has nothing else to do is computed here a second time: its bits are the same.
"""

import os
import pickle
import shutil
import tempfile
import time
import warnings
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Bool, Float64

from assay import progress
from assay.errors import MethodError
from assay.methods.retrain.cache import Cache, key_of
from assay.methods.retrain.game import Evaluator, Game
from assay.methods.retrain.samplers.base import Unit

AHEAD, BACKLOG = 2, 4
"""Units given to each other process at a time; finished units, for each process, that may wait for an earlier one."""
ALONE = 2.0
"""Seconds of work before other processes are started: about what starting one takes."""
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

Outcome = tuple[Float64[np.ndarray, " m"], int]
"""Utilities of the coalitions that were evaluated, and how many fits failed."""


def evaluate(evaluator: Evaluator, game: Game, unit: Unit) -> Outcome:
    """All of a unit that its truncation does not leave out; depends on the unit alone."""
    evaluator.reset()
    failed, found = evaluator.failed, cast(list[float], [])
    with warnings.catch_warnings(), progress.shown(False):
        warnings.simplefilter("ignore")  # of solvers that did not converge: small sets are odd
        for coalition in unit.coalitions():
            found.append(evaluator(game.rows(coalition)))
            if unit.over(found):
                break
    return np.array(found, dtype=np.float64), evaluator.failed - failed


@dataclass
class Counts:
    """What a run cost: coalitions looked at, how many of them the cache knew, and fits that failed."""

    looked_at: int = 0
    known: int = 0
    failed: int = 0


class Runner:
    """Evaluates coalitions of a game, remembering all of them; use it as a context manager."""

    def __init__(self, game: Game, cache: Cache, processes: int = 1) -> None:
        self.game, self.cache, self.counts = game, cache, Counts()
        self._evaluator = game.utility.evaluator()
        self._others = max(0, (processes or os.cpu_count() or 1) - 1)
        self._pool: Any = None
        self._sent: list[Any] = []
        self._payload: Path | None = None

    def __enter__(self) -> "Runner":
        return self

    def __exit__(self, *error: object) -> None:
        if self._pool is not None:
            # What waits is given up; what runs may end, unless something went wrong: a pool that is killed with work in its
            # queue leaves an error in a thread of its own.
            for future in self._sent:
                future.cancel()
            self._pool.shutdown(wait=True, kill_workers=error[0] is not None)
        if self._payload is not None:
            shutil.rmtree(self._payload.parent, ignore_errors=True)
        self.cache.close()

    def utility(self, coalition: Bool[np.ndarray, " players"]) -> float:
        """Of one coalition."""
        key = key_of(self.game.rows(coalition))
        self.counts.looked_at += 1
        if key in self.cache:
            self.counts.known += 1
            return self.cache[key]
        with single_threaded():
            found, failed = evaluate(self._evaluator, self.game, _Single(coalition.copy()))
        self.counts.failed += failed
        return float(self.cache.settle([key], found)[0])

    def run(self, draws: Iterable[tuple[Unit, ...]]) -> Iterator[list[Float64[np.ndarray, " _"]]]:
        """Utilities of each draw's units, in the order of the draws; stop asking when it is enough."""
        sizes: deque[int] = deque()

        def flat() -> Iterator[Unit]:
            for units in draws:
                sizes.append(len(units))
                yield from units

        ordered = self._parallel(flat()) if self._others else self._alone(flat())
        with single_threaded():
            batch: list[Float64[np.ndarray, " _"]] = []
            for utilities in ordered:
                batch.append(utilities)
                if len(batch) == sizes[0]:
                    sizes.popleft()
                    yield batch
                    batch = []

    def _alone(self, units: Iterator[Unit]) -> Iterator[Float64[np.ndarray, " m"]]:
        for unit in units:
            yield self._settled(unit, self._replayed(unit) or evaluate(self._evaluator, self.game, unit))

    def _parallel(self, units: Iterator[Unit]) -> Iterator[Float64[np.ndarray, " m"]]:
        waiting: deque[_Task] = deque()
        ended, start = False, time.monotonic()
        while not ended or waiting:
            others = self._others if time.monotonic() - start >= ALONE else 0
            while not ended and others and sum(task.away for task in waiting) < AHEAD * others:
                ended = not self._take(units, waiting, away=True)
            if waiting and (ended or len(waiting) > BACKLOG * (self._others + 1)):
                waiting[0].outcome = waiting[0].outcome or self._returned(waiting[0]) or self._here(waiting[0].unit)
            elif not ended:
                ended = not self._take(units, waiting, away=False)
            while waiting and (outcome := waiting[0].outcome or self._returned(waiting[0])):
                yield self._settled(waiting.popleft().unit, outcome)

    def _take(self, units: Iterator[Unit], waiting: "deque[_Task]", away: bool) -> bool:
        """Begin the next unit, in another process or here; False if there is none."""
        unit = next(units, None)
        if unit is None:
            return False
        known = self._replayed(unit)
        if known is None and away:
            self._sent = [future for future in self._sent if not future.done()]
            self._sent.append(self._workers().submit(_work, unit))
            waiting.append(_Task(unit, None, self._sent[-1]))
        else:
            waiting.append(_Task(unit, known or self._here(unit), None))
        return True

    def _here(self, unit: Unit) -> Outcome:
        return evaluate(self._evaluator, self.game, unit)

    def _returned(self, task: "_Task") -> Outcome | None:
        """What another process found, if it is there; a process that died leaves its work to this one."""
        if task.future is None or not task.future.done():
            return None
        error = task.future.exception()
        if error is None:
            return task.future.result()
        if type(error).__name__ in ("TerminatedWorkerError", "BrokenProcessPool", "ShutdownExecutorError"):
            self._others = 0
            progress.say("A worker process died (out of memory?); going on in this one.")
            return self._here(task.unit)
        raise error

    def _replayed(self, unit: Unit) -> Outcome | None:
        """The unit out of the cache, if all of it is there."""
        found: list[float] = []
        for coalition in unit.coalitions():
            key = key_of(self.game.rows(coalition))
            if key not in self.cache:
                return None
            found.append(self.cache[key])
            if unit.over(found):
                break
        self.counts.known += len(found)
        return np.array(found), 0

    def _settled(self, unit: Unit, outcome: Outcome) -> Float64[np.ndarray, " m"]:
        """The utilities that hold: of two values of one set the first, so that it does not matter who computed it."""
        utilities, failed = outcome
        self.counts.looked_at += len(utilities)
        self.counts.failed += failed
        keys = [key_of(self.game.rows(mask)) for mask, _ in zip(unit.coalitions(), utilities, strict=False)]
        return self.cache.settle(keys, utilities)

    def _workers(self) -> Any:
        if self._pool is None:
            from joblib.externals.loky import ProcessPoolExecutor

            self._payload = _packed(self.game)
            self._pool = cast(Any, ProcessPoolExecutor)(
                max_workers=self._others, initializer=_start, initargs=(str(self._payload),),
                env=dict.fromkeys(THREADS, "1"),
            )  # fmt: skip
        return self._pool


@dataclass
class _Task:
    unit: Unit
    outcome: Outcome | None
    future: Any

    @property
    def away(self) -> bool:
        """Whether another process still has it."""
        return self.future is not None and not self.future.done()


@dataclass(frozen=True, eq=False)
class _Single(Unit):
    mask: Bool[np.ndarray, " players"]

    def coalitions(self) -> Iterator[Bool[np.ndarray, " players"]]:
        yield self.mask

    def __len__(self) -> int:
        return 1


@contextmanager
def single_threaded() -> Generator[None]:
    """One thread for numpy's, scikit-learn's and torch's kernels: small fits wait for more, and bits depend on it."""
    from threadpoolctl import threadpool_limits

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with cast(Any, threadpool_limits)(1):
            yield
    finally:
        torch.set_num_threads(threads)


# -- in the other process ----------------------------------------------------------------------------------------------

_mine: dict[str, Any] = {}


def _packed(game: Game) -> Path:
    """The game as a file: a pickle, and the arrays in it as they lie in memory. Read by our own workers only."""
    import cloudpickle

    buffers: list[pickle.PickleBuffer] = []
    try:
        body = cast(bytes, cast(Any, cloudpickle).dumps(game, protocol=5, buffer_callback=buffers.append))
    except (TypeError, AttributeError, pickle.PicklingError) as error:
        raise MethodError(f"The model cannot be sent to other processes ({error}); use one process.") from error
    path = Path(tempfile.mkdtemp(prefix="assay-workers-")) / "game"
    with path.open("wb") as file:
        raw = [buffer.raw() for buffer in buffers]
        head = np.array([len(raw), len(body), *(len(part) for part in raw)], dtype=np.int64)
        file.write(head.tobytes() + body)
        for part in raw:
            file.write(b"\0" * (-file.tell() % 64))
            file.write(part)
    return path


def _start(path: str) -> None:
    """Map the file, once for each process."""
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(1)
    content = np.memmap(path, dtype=np.uint8, mode="r")
    count, length = (int(k) for k in content[:16].view(np.int64))
    sizes = content[16 : 16 + 8 * count].view(np.int64).tolist()
    start = 16 + 8 * count
    body, place = content[start : start + length].tobytes(), start + length
    parts: list[Any] = []
    for size in sizes:
        place += -place % 64
        parts.append(memoryview(cast(Any, content[place : place + size])))
        place += size
    game: Game = pickle.loads(body, buffers=parts)
    _mine.update(threads=cast(Any, threadpool_limits)(1), game=game, evaluator=game.utility.evaluator())


def _work(unit: Unit) -> Outcome:
    return evaluate(_mine["evaluator"], _mine["game"], unit)
