"""Load a run of either kind."""

import os

from assay.errors import InputError
from assay.run_directory import open_run
from assay.scores import Scores
from assay.values import Values


def load_run(directory: str | os.PathLike[str]) -> Scores | Values:
    """The `Scores` or `Values` saved in `directory`; raises InputError as their `load` does."""
    run = open_run(directory)
    if run.kind == Scores.kind:
        return Scores.from_run(run)
    if run.kind == Values.kind:
        return Values.from_run(run)
    raise InputError(f"{directory} holds a run of kind {run.kind!r}; expected 'scores' or 'values'. Update Assay.")
