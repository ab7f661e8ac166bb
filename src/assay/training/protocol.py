"""What retraining methods see: something that trains on weighted examples, and its loss on queries."""

from typing import Any, Protocol, cast, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from assay.errors import MethodError
from assay.models import Model
from assay.training.estimator import EstimatorRecipe
from assay.training.recipe import Recipe
from assay.training.run import Run


@runtime_checkable
class Trained(Protocol):
    """What came out of training."""

    def loss_of(self, queries: Any) -> Float[Tensor, " n"]:
        """Loss of each query."""
        ...


@runtime_checkable
class Trainable(Protocol):
    """A recipe of any kind."""

    def encode(self, examples: Any) -> Any:
        """Examples made ready once, which `train` and `loss_of` take in their place."""
        ...

    def train(self, train: Any, weights: Any = None) -> Trained:
        """Train from the start; a weight an example, 0 to leave it out. Same input, same bits."""
        ...


def as_recipe(given: Any) -> Recipe | EstimatorRecipe:
    """A recipe as it is; an estimator as its own recipe. Raises MethodError for anything else."""
    if isinstance(given, Recipe | EstimatorRecipe):
        return given
    if isinstance(given, type):
        name = cast(Any, given).__name__
        raise MethodError(f"{name} is a class; give an instance of it, {name}(...).")
    if isinstance(given, Model):
        raise MethodError(
            f"{given} is a trained model, which does not say how it was trained; this method retrains. "
            "Give assay.Recipe(make_model, task, ...), or an estimator of scikit-learn."
        )
    if all(hasattr(given, name) for name in ("fit", "predict", "get_params")):
        return EstimatorRecipe(given)
    raise MethodError(
        f"Cannot train a {type(given).__name__}; expected an assay.Recipe, or an estimator with fit, predict and "
        "get_params. For a torch module: assay.Recipe(make_model, task, ...)."
    )


def model_of(given: Any) -> Any:
    """The model of a `Run`; anything else as it is."""
    return given.model if isinstance(given, Run) else given
