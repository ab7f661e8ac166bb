"""Assay: which training data made a model behave as it does, what each example is worth, and how far to trust the answer."""

from assay import errors, evaluate, folds, methods, tasks
from assay.act.guard import guard
from assay.api import Opened, attribute, build, open, parts, value
from assay.dynamics import Record, Recorder
from assay.examples import Example, Examples, read
from assay.grain import Parts
from assay.inference import Server
from assay.models import Checkpoint, Model, load
from assay.runtime import Plan, plan
from assay.scores import Scores
from assay.training import EstimatorRecipe, Recipe, Run
from assay.values import Values

__version__ = "0.1.0"

__all__ = [
    "Checkpoint",
    "EstimatorRecipe",
    "Example",
    "Examples",
    "Model",
    "Opened",
    "Parts",
    "Plan",
    "Recipe",
    "Record",
    "Recorder",
    "Run",
    "Scores",
    "Server",
    "Values",
    "attribute",
    "build",
    "errors",
    "evaluate",
    "guard",
    "folds",
    "load",
    "methods",
    "open",
    "parts",
    "plan",
    "read",
    "tasks",
    "value",
]
