"""Training by recipe: deterministic, with a weight per example, repeatable and differentiable.

A `Recipe` trains a module and gives a `Run`; an `EstimatorRecipe` fits a scikit-learn estimator. Methods that
retrain see both as `Trainable`.
"""

from assay.training.data import Encoded
from assay.training.estimator import EstimatorRecipe, FittedEstimator
from assay.training.observer import After, Observer
from assay.training.optimizers import SGD, Adam, AdamW, Optimizer, Update
from assay.training.protocol import Trainable, Trained, as_recipe, model_of
from assay.training.recipe import Recipe
from assay.training.run import Run
from assay.training.state import Layout, State
from assay.training.steps import Steps

__all__ = [
    "Recipe",
    "Run",
    "EstimatorRecipe",
    "FittedEstimator",
    "Trainable",
    "Trained",
    "as_recipe",
    "model_of",
    "Encoded",
    "Layout",
    "State",
    "Steps",
    "Observer",
    "After",
    "Optimizer",
    "Update",
    "SGD",
    "Adam",
    "AdamW",
]
