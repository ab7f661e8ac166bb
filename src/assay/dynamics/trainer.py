"""The recorder as a callback of the model library's `Trainer`; imported when it is asked for, as the library is large."""

from typing import Any

from transformers import TrainerCallback

from assay.dynamics.recorder import Recorder
from assay.models import Model


class Callback(TrainerCallback):
    """Counts the trainer's steps, looks where looks are due, and saves where the trainer saves."""

    def __init__(self, recorder: Recorder, model: Model | None) -> None:
        self.recorder, self.model = recorder, model
        self._due: dict[str, set[int]] = {}
        self._rate = float("nan")

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Find when looks are due; a run that goes on from a checkpoint goes on with the record there."""
        self._due = self.recorder.due(state.max_steps)
        if state.global_step:
            self.recorder.resume(state.global_step)

    def on_step_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Note the learning rate, which the scheduler changes before the step ends."""
        scheduler: Any = given.get("lr_scheduler")
        self._rate = float("nan") if scheduler is None else float(scheduler.get_last_lr()[0])

    def on_substep_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Of several batches that make one step, each is recorded at that step."""
        self.recorder.now = state.global_step

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """After the optimiser's step."""
        if self.model is not None:
            self.recorder.look(self.model, state.global_step, self._due, self._rate)
        self.recorder.now = state.global_step

    def on_save(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Beside the trainer's own checkpoint."""
        self.recorder.save()

    def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """All of it."""
        self.recorder.save()
