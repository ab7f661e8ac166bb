"""Training dynamics: what a model thinks of each training example along the run, recorded while it trains.

A `Recorder` looks at a run (a loop of your own, `assay.Recipe`, the model library's trainer) and makes a `Record`, from
which the methods in `methods/dynamics/` take their values. It changes nothing of the run.
"""

from assay.dynamics.record import Record
from assay.dynamics.recorder import Recorder

__all__ = ["Record", "Recorder"]
