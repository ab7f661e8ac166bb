"""One recorder for every kind of training loop.

    a loop of your own     recorder.step(ids, logits, labels)                 each batch, as it is trained on
                           with recorder.watch(module): module(**batch)       the same by a hook
                           recorder.evaluate(model)                           all examples, as the model is now
    assay.Recipe           recipe.train(train, recorder=recorder)
    Trainer                callbacks=[recorder.callback(model)]

The k-th observation of each example goes into row k, so that a loop may visit examples in any order and as often as it likes.
Memory: 24 bytes an example and observation, of which those that are complete and saved lie in the directory only; gradients
by the input need 8 bytes for each number of the inputs, however often they are taken. Cost: nothing but a softmax for
batches; a forward pass of all examples an evaluation; a forward and a backward pass (without weights) for gradients.
"""

import os
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float32, Int32, Int64
from torch import Tensor, nn

from assay import progress
from assay.dynamics.looks import Moments, evaluate, gradient_norms, input_gradients, labels_of
from assay.dynamics.record import NEVER, Folder, Kind, Record, no_labels, read_manifest
from assay.dynamics.statistics import COLUMNS, check_finite, statistics
from assay.errors import DataError, MethodError
from assay.examples import Examples
from assay.models import Model
from assay.training import After, Recipe, Steps
from assay.training.data import Encoded, evenly
from assay.training.optimizers import Flat
from assay.training.randomness import forked

Times = int | Sequence[int]
"""How often, evenly spread over the run with the last at its end; or after which steps."""


class Recorder:
    """Looks at a training run and keeps what it sees of each example; the run stays as it is, bit by bit.

    Args:
        train: the training examples; or their ids, for a recorder that only watches batches.
        evaluations: of a recipe's or trainer's run: how often, or after which steps, all examples are evaluated. 0: each batch
            is recorded as it is trained on, which costs nothing. None: neither, for a recorder of gradients alone.
        gradients: likewise, when the norm of each example's gradient is taken (`grand`, `self-influence`).
        inputs: likewise, when each example's gradient by its input is taken (`vog`).
        out: a directory for the record; one that is there is gone on with by `resume`, or where the run goes on from a
            checkpoint, and else replaced by the first `save`.

    Raises:
        MethodError: `out` holds another record, or a number below 0. DataError: no examples.
    """

    def __init__(
        self,
        train: Examples | Sequence[str],
        *,
        evaluations: Times | None = 0,
        gradients: Times = 0,
        inputs: Times = 0,
        out: str | os.PathLike[str] | None = None,
    ) -> None:
        self.examples = train if isinstance(train, Examples) else None
        self.ids = tuple(train.ids if isinstance(train, Examples) else train)
        if not self.ids:
            raise DataError("There are no examples to record; at least one was expected.")
        self.times: dict[str, Times] = {"evaluations": evaluations or 0, "gradients": gradients, "inputs": inputs}
        self.batches = evaluations is not None and not evaluations
        for name, times in self.times.items():
            if min([times] if isinstance(times, int) else times, default=0) < 0:
                raise MethodError(f"{name} is {times}; expected how often, 0 or more, or after which steps.")
        self.kind: Kind | None = "evaluations" if evaluations else None
        self.out = None if out is None else Path(out)
        self.now = 0
        self._place = {id: row for row, id in enumerate(self.ids)}
        if len(self._place) < len(self.ids):
            raise DataError("Two examples have the same id; a record needs ids that differ.")
        self._begin()
        if self.out is not None and (manifest := read_manifest(self.out)) is not None:
            Folder(self.out, self.ids, self.kind or manifest["kind"]).check(manifest)

    def __len__(self) -> int:
        return len(self.ids)

    # -- what a loop calls -----------------------------------------------------------------------------------------------

    def step(self, ids: Any, logits: Tensor, labels: Any, step: int | None = None) -> None:
        """Record a batch: the ids of its examples (or their positions), the logits [batch, classes] and labels.

        `step`: how many steps the run has done when this one is over; by default one more than at the call before.

        Raises MethodError for an id that is not among the examples, shapes that do not fit or labels that are no class;
        NonFiniteError that names the example.
        """
        self._set_kind("batches")
        rows, z, y = self._rows_of(ids), *_checked(logits, labels)
        if len(rows) != len(z):
            raise MethodError(f"{len(rows)} ids were given with logits of {len(z)} examples; one id each was expected.")
        self.now = self.now + 1 if step is None else step
        found = statistics(z, y)
        names = [self.ids[row] for row in cast(list[int], rows.tolist())]
        check_finite(found, names, f"at step {self.now}")
        self._observe(rows, found.float().cpu().numpy(), y.cpu().numpy())

    @contextmanager
    def watch(self, module: nn.Module, ids: str = "example") -> Generator[None]:
        """Within it every call of the module in training mode is a recorded batch: the keyword argument `ids` (positions in
        the training data; the module itself never sees it) and `labels`, and the logits that come out.

        For modules that are called as `module(**batch)` and return `.logits`, as the model library's classifiers are.
        """
        self._set_kind("batches")
        waiting: list[tuple[Any, Any]] = []

        def before(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            given = {name: value for name, value in kwargs.items() if name != ids}
            waiting.clear()
            if layer.training:
                if ids not in kwargs or "labels" not in kwargs:
                    raise MethodError(
                        f"A batch came without {ids!r} or 'labels' (it has {', '.join(kwargs) or 'nothing by name'}), so its "
                        f"examples are not known. Add a column {ids!r} with each example's position to the training data, "
                        "and keep it (remove_unused_columns=False)."
                    )
                waiting.append((kwargs[ids], kwargs["labels"]))
            return args, given

        def after(layer: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            for positions, labels in waiting:
                self.step(positions, getattr(output, "logits", output), labels)
            waiting.clear()

        handles = [
            module.register_forward_pre_hook(before, with_kwargs=True),
            module.register_forward_hook(after, with_kwargs=True),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def evaluate(self, model: Model, step: int | None = None) -> None:
        """Record an observation of every example by the model as it is now, in evaluation mode."""
        self._set_kind("evaluations")
        self._at(step)
        found = evaluate(model, self._examples(), f"after step {self.now}")
        self._observe(np.arange(len(self)), found.columns, found.labels)

    def gradient_norms(self, model: Model, rate: float = float("nan"), step: int | None = None) -> None:
        """Record the norm of every example's gradient; `rate` is the learning rate, which self-influence weighs with."""
        self._at(step)
        self._norms.append((self.now, rate, gradient_norms(model, self._examples())))

    def input_gradients(self, model: Model, step: int | None = None) -> None:
        """Take every example's gradient by its input into the running moments."""
        self._at(step)
        if self._inputs.count == 0:
            self._labels = labels_of(model, self._examples())
        self._inputs = self._inputs.add(*input_gradients(model, self._examples()))

    # -- what was recorded -----------------------------------------------------------------------------------------------

    @property
    def record(self) -> Record:
        """All that was recorded so far."""
        folder = self._folder()
        read = [folder.observation(name) for name in self._complete] if folder else []
        return self._state([*read, *self._open])

    def save(self) -> None:
        """Write the record to `out`, if there is one: where the run's checkpoints are written, and at the end."""
        folder = self._folder()
        if folder is None:
            return
        while self._open and bool((self._open[0][1] >= 0).all()):
            numbers, steps = self._open.pop(0)
            self._complete.append(folder.write_observation(len(self._complete), self.now, numbers, steps))
        folder.write(self._state(self._open), self._complete, after=self._resumed)
        self._resumed = True

    def resume(self, step: int) -> None:
        """Go on with the record in `out` as it was after `step` steps; what was recorded later is dropped.

        If the last state there is an earlier one, observations between are missing, which the record notes.
        """
        self._begin()
        manifest = None if self.out is None else read_manifest(self.out)
        states = [] if manifest is None else [one for one in manifest["states"] if one["step"] <= step]
        if manifest is not None and states:
            self._set_kind(manifest["kind"])
            self._resumed = True
            folder = cast(Folder, self._folder())
            state = folder.read(states[-1], whole=False)
            self._complete, self._labels, self._inputs = (
                list(states[-1]["observations"]),
                state.labels.copy(),
                state.inputs,
            )
            self._open = [
                (numbers.copy(), steps.copy()) for numbers, steps in zip(state.numbers, state.steps, strict=True)
            ]
            self._norms = list(zip(state.norm_steps, state.norm_rates, state.norms, strict=True))
            self._notes, self.now = list(state.notes), state.step
            self._seen = np.full(len(self), len(self._complete), np.int64)
            self._seen += sum(((steps >= 0).astype(np.int64) for _, steps in self._open), np.zeros(len(self), np.int64))
        if self.now < step:
            self._notes.append(f"Steps {self.now + 1} to {step} were not recorded.")
        self.now = step

    # -- assay.Recipe and the trainer ------------------------------------------------------------------------------------

    @contextmanager
    def watching(self, steps: Steps, done: int) -> Generator[After]:
        """What `Recipe.train(recorder=...)` calls."""
        if tuple(steps.data.ids) != self.ids:
            raise MethodError("The run trains on other examples than the recorder knows; give it those of the run.")
        if self.examples is None:
            self.examples = steps.data.examples
        if done:
            self.resume(done)
        due, model = self.due(len(steps)), Model(steps.module, steps.data.task)
        outputs: list[Any] = []

        def hook(module: nn.Module, args: Any, output: Any) -> None:
            outputs.append(output)

        handle = steps.module.register_forward_hook(hook) if self.batches else None

        def after(step: int, params: Flat) -> None:
            if self.batches:
                self._recipe_batch(steps, step, outputs)
            if any(step in times for times in due.values()):
                steps.install(params)
                self.look(model, step, due, steps.update.rates[step - 1])
            outputs.clear()  # a look's forward passes are no batches
            self.now = step

        try:
            yield after
            self.save()
        finally:
            if handle is not None:
                handle.remove()

    def due(self, total: int) -> dict[str, set[int]]:
        """After which steps of a run of `total` steps there is something to look at. Raises MethodError."""
        found: dict[str, set[int]] = {}
        for name, times in self.times.items():
            at = evenly(total, times) if isinstance(times, int) and times else [] if isinstance(times, int) else times
            if wrong := [step for step in at if not 1 <= step <= total]:
                raise MethodError(f"{name} names step {wrong[0]}, and the run has {total} steps; give 1 to {total}.")
            found[name] = set(at)
        return found

    def look(self, model: Model, step: int, due: dict[str, set[int]], rate: float) -> None:
        """All that is due after a step."""
        if step in due["evaluations"]:
            self.evaluate(model, step)
        if step in due["gradients"]:
            self.gradient_norms(model, rate, step)
        if step in due["inputs"]:
            self.input_gradients(model, step)

    def callback(self, model: Model | None = None) -> Any:
        """A `TrainerCallback` of the model library: looks where looks are due, saves where the trainer saves.

        `model`: the trainer's module with its task, for looks at all examples; None where only batches are recorded, by
        `with recorder.watch(module): trainer.train()`.
        """
        from assay.dynamics.trainer import Callback

        if model is None and any(self.times.values()):
            raise MethodError(
                "Evaluations and gradients need the model with its task: recorder.callback(assay.Model(...))."
            )
        return Callback(self, model)

    # -- inside ------------------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        self._complete: list[str] = []
        self._open: list[tuple[Float32[np.ndarray, "columns n"], Int32[np.ndarray, " n"]]] = []
        self._seen = np.zeros(len(self.ids), np.int64)
        self._labels = no_labels(len(self.ids))
        self._norms: list[tuple[int, float, Float32[np.ndarray, " n"]]] = []
        self._inputs, self._notes = Moments.none(), list[str]()
        self._resumed = False  # whether the states in the directory are this run's
        self.now = 0

    def _folder(self) -> Folder | None:
        return None if self.out is None else Folder(self.out, self.ids, self.kind or "batches")

    def _state(self, rows: list[tuple[Float32[np.ndarray, "columns n"], Int32[np.ndarray, " n"]]]) -> Record:
        n = len(self)
        numbers = np.stack([one for one, _ in rows]) if rows else np.empty((0, len(COLUMNS), n), np.float32)
        steps = np.stack([one for _, one in rows]) if rows else np.empty((0, n), np.int32)
        norms = np.stack([one for _, _, one in self._norms]) if self._norms else np.empty((0, n), np.float32)
        at, rates = [step for step, _, _ in self._norms], [rate for _, rate, _ in self._norms]
        kind, notes = self.kind or "batches", tuple(self._notes)
        return Record(
            self.ids, kind, self.now, numbers, steps, self._labels.copy(), norms, at, rates, self._inputs, notes
        )

    def _observe(
        self, rows: Int64[np.ndarray, " b"], numbers: Float32[np.ndarray, "columns b"], labels: Int64[np.ndarray, " b"]
    ) -> None:
        """Each example's next observation; one that stands twice in a batch has two."""
        while len(rows):
            _, first = np.unique(rows, return_index=True)
            some, here = rows[first], self._seen[rows[first]] - len(self._complete)
            while len(self._open) <= int(here.max()):
                blank = np.full((len(COLUMNS), len(self)), np.nan, np.float32)
                self._open.append((blank, np.full(len(self), NEVER, np.int32)))
            for k in np.unique(here).tolist():
                mine = here == k
                self._open[k][0][:, some[mine]] = numbers[:, first[mine]]
                self._open[k][1][some[mine]] = self.now
            self._seen[some] += 1
            self._labels[some] = labels[first]
            rows, numbers, labels = np.delete(rows, first), np.delete(numbers, first, 1), np.delete(labels, first)

    def _rows_of(self, ids: Any) -> Int64[np.ndarray, " b"]:
        """Positions of examples named by id or position."""
        given = cast(list[Any], ids.tolist() if hasattr(ids, "tolist") else list(ids))
        rows: list[int] = []
        for place, id in enumerate(given):
            row = self._place.get(id, -1) if isinstance(id, str) else id
            if not isinstance(row, int) or not 0 <= row < len(self):
                raise MethodError(
                    f"The id {id!r} at place {place} of the batch is none of the {len(self)} recorded examples; expected ids "
                    f"such as {self.ids[0]!r}, or positions from 0 to {len(self) - 1}."
                )
            rows.append(row)
        return np.array(rows, np.int64)

    def _set_kind(self, kind: Kind) -> None:
        if self.kind not in (None, kind):
            raise MethodError(
                f"This recorder holds {self.kind}, and was given {kind}: a batch is seen in training mode and before its step, "
                "an evaluation after it, so they do not compare. Use a recorder for each."
            )
        self.kind = kind

    def _at(self, step: int | None) -> None:
        self.now = self.now if step is None else step

    def _examples(self) -> Examples:
        if self.examples is None:
            raise MethodError(
                "This recorder knows ids only; give it the training examples to look at them: Recorder(train)."
            )
        return self.examples

    def _recipe_batch(self, steps: Steps, step: int, outputs: list[Any]) -> None:
        """The batch of the step that is over, whose logits the hook has seen."""
        seen, rows = [getattr(output, "logits", output) for output in outputs], steps.order.rows(step - 1)
        batch = steps.data.batch(rows, steps.device)
        target, example = steps.data.task.targets(batch)
        if len(seen) != 1 or not isinstance(seen[0], Tensor) or seen[0].ndim != 2 or len(target) != len(rows):
            raise MethodError(
                f"Batches are recorded of classifiers that give logits [batch, classes] in one call; {type(steps.module).__name__} "
                f"under the task '{steps.data.task.name}' does not. Evaluate instead: evaluations=10 (--evaluations 10)."
            )
        self.step(rows, seen[0], target[example.argsort()], step)


def _checked(logits: Any, labels: Any) -> tuple[Tensor, Tensor]:
    """Logits and labels of a batch. Raises MethodError."""
    if not isinstance(logits, Tensor) or logits.ndim != 2 or not logits.is_floating_point():
        shape = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        raise MethodError(f"The logits have {shape}; floating numbers [batch, classes] were expected.")
    y = torch.as_tensor(labels, device=logits.device).reshape(-1)
    if len(y) != len(logits) or y.is_floating_point():
        raise MethodError(
            f"{len(y)} labels ({y.dtype}) came with logits of {len(logits)} examples; one class each was expected."
        )
    if len(y) and not 0 <= int(y.min()) <= int(y.max()) < logits.shape[1]:
        raise MethodError(
            f"A label is {int(y.min()) if int(y.min()) < 0 else int(y.max())}; with logits of {logits.shape[1]} classes labels run "
            f"from 0 to {logits.shape[1] - 1}."
        )
    return logits, y.long()


def follow(recorder: Recorder, recipe: Recipe, data: Encoded, until: int, label: str) -> None:
    """Train by a recipe, recorded, and stop after `until` steps."""
    with forked(), progress.task(label, until) as advance:
        steps = recipe.steps(data)
        state = steps.start()
        params, moments = state.params, state.moments
        with recorder.watching(steps, 0) as after:
            for step in range(min(until, len(steps))):
                gradient, _ = steps.gradient(params, step)
                params, moments = steps.update(params, moments, gradient, step)
                after(step + 1, params)
                advance()
