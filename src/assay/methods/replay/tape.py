"""A recorded training run that can be walked backwards: snapshots, and everything between them computed again.

A stretch of steps is cut into `arity` parts; the states at their starts are held, the parts walked last to first, each
in the same way. With arity = T^(1/d) this takes d * arity states and computes every step d - 1 times again:

    d = 1   all states held            d = 2   a snapshot every sqrt(T) steps            d = log2 T   a binary tree

States are the same bits whichever way they are reached, so the choice costs time or memory and changes no result.
Source: Griewank 1992; as in Engstrom et al. 2025 (2503.13751), section 3.
"""

import math
import time
from collections.abc import Generator

import torch

from assay import progress
from assay.errors import MethodError, ModelError, NonFiniteError
from assay.methods.replay.end import End
from assay.training import State, Steps
from assay.training.store import Saved, Store

GIB = 2**30


class Tape:
    """One run, recorded.

    Args:
        steps: the run, at its start.
        memory: bytes of states that may be held at once; decides how often steps are computed again, unless that is
            given as `recompute`.
        store: where the snapshots of the uppermost level lie; None: in memory. A recording that was killed goes on.

    Raises:
        ModelError: the module changes its own buffers as it trains. NonFiniteError: training diverged.
        MethodError: the states fit no way.
    """

    def __init__(
        self,
        steps: Steps,
        memory: float,
        recompute: int | None = None,
        store: Store | None = None,
        label: str = "training",
    ) -> None:
        self.steps, self.store = steps, store
        self._start = steps.start()
        depth = _depth(len(steps), _bytes(self._start), memory, recompute)
        if store is not None:
            depth = max(depth, 2)
        self.arity = math.ceil(len(steps) ** (1 / depth))
        size = math.ceil(len(steps) / self.arity)
        self.segments = [(low, min(low + size, len(steps))) for low in range(0, len(steps), size)]
        self._kept: dict[int, State] = {0: self._start}
        began = time.perf_counter()
        self.last = self._record(label)
        self.seconds = time.perf_counter() - began

    @property
    def end(self) -> End:
        """The module at the end of the run."""
        return End(self.steps.module, self.last.params)

    def walk(self, segment: tuple[int, int]) -> Generator[State]:
        """The states before each step of a segment, last to first."""
        low, high = segment
        yield from self._walk(self._snapshot(low), high)

    def before(self, step: int) -> list[tuple[int, int]]:
        """The segments that end at this step or earlier, last first."""
        return [segment for segment in reversed(self.segments) if segment[1] <= step]

    def back_to(self, step: int) -> Generator[State]:
        """The states before each step, from the last step back to this one."""
        for segment in reversed(self.segments):
            for state in self.walk(segment):
                if state.step < step:
                    return
                yield state

    def state(self, step: int) -> State:
        """The state before a step, from the snapshot before it; that after the last step is `last`."""
        if step == len(self.steps):
            return self.last
        return self._forward(self._snapshot(max(low for low, _ in self.segments if low <= step)), step)

    def _record(self, label: str) -> State:
        marks = [high for _, high in self.segments]
        last = 0 if self.store is None else self.store.last(marks)
        state = self._snapshot(last)
        with progress.task(label, len(self.steps)) as advance:
            advance(last)
            for mark in marks:
                if mark <= last:
                    continue
                before, state = state.step, self._forward(state, mark)
                advance(mark - before)
                if self.store is not None:
                    self.store.write(Saved(state, [], 0.0))
                elif mark < marks[-1]:
                    self._kept[mark] = state
        if not bool(state.params.isfinite().all()):
            raise NonFiniteError(
                "The weights became NaN or infinite in training, through a gradient that is not finite. Lower the "
                "learning rate, or clip the gradient (clip=1.0)."
            )
        return state

    def _snapshot(self, step: int) -> State:
        if step in self._kept or self.store is None:
            return self._kept[step]
        return self.store.read(step, self.steps.device).state

    def _walk(self, state: State, high: int) -> Generator[State]:
        if high - state.step == 1:
            yield state
            return
        size = math.ceil((high - state.step) / self.arity)
        starts = [state]
        while starts[-1].step + size < high:
            starts.append(self._forward(starts[-1], starts[-1].step + size))
        while starts:
            start = starts.pop()
            yield from self._walk(start, min(start.step + size, high))

    def _forward(self, state: State, to: int) -> State:
        params, moments = state.params, state.moments
        for step in range(state.step, to):
            gradient, _ = self.steps.gradient(params, step)
            params, moments = self.steps.update(params, moments, gradient, step)
            if step == 0:
                self._check_buffers()
        return State(to, params, moments, self._start.buffers)

    def _check_buffers(self) -> None:
        """Replay differentiates through parameters and moments; what the module remembers by itself would be missed."""
        for name, buffer in self.steps.module.named_buffers():
            if not torch.equal(buffer, self._start.buffers[name]):
                raise ModelError(
                    f"The module changes its buffer '{name}' as it trains (as BatchNorm does its running statistics), and "
                    "replay cannot differentiate through that. Use a normalisation within the example (GroupNorm, "
                    "LayerNorm), or keep no statistics (track_running_stats=False)."
                )


def _bytes(state: State) -> int:
    return sum(tensor.nbytes for tensor in (state.params, *state.moments.values()))


def _depth(total: int, size: int, memory: float, recompute: int | None) -> int:
    """Levels of the tree: as given, or the fewest whose states fit."""
    if recompute is not None:
        return recompute + 1
    deepest = max(1, math.ceil(math.log2(total))) if total > 1 else 1
    held = [depth * math.ceil(total ** (1 / depth)) * size for depth in range(1, deepest + 1)]
    for depth, needed in enumerate(held, start=1):
        if needed <= memory:
            return depth
    raise MethodError(
        f"A state of this training run takes {size / GIB:.3g} GiB, and walking back over {total} steps at least "
        f"{min(held) / GIB:.3g} GiB; memory is {memory / GIB:.3g} GiB. Give more memory."
    )
