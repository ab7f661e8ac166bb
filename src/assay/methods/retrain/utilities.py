"""Utilities of models: a scikit-learn estimator under a scoring, or a recipe under the validation loss."""

import warnings
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, cast

import numpy as np
import torch

from assay.errors import DataError, MethodError
from assay.examples import Examples, Matrix
from assay.methods.retrain.features import encoded
from assay.methods.retrain.game import Evaluator, Rows, Utility, checked
from assay.methods.retrain.identity import digest
from assay.methods.retrain.models import estimator_of
from assay.methods.retrain.refit import TOLERANCE, differs, refit_for
from assay.methods.retrain.refit.base import Data, taken
from assay.methods.retrain.scoring import Scorer, Scoring
from assay.models import Model
from assay.training import Recipe, as_recipe


def utility_of(model: Any, train: Examples, on: Examples | None, scoring: str | Scorer | Scoring, seed: int) -> Utility:
    """The utility of training rows for the rows `on`, by what the user gave as the model.

    Raises MethodError for something that cannot be trained, or without `on`; DataError for data that do not fit.
    """
    if isinstance(model, Utility):
        return model
    if isinstance(model, str) and train.kind in ("arrays", "table"):
        return _named_utility(model, train, on, scoring, seed)
    if isinstance(model, Model) or model is None:
        what = "None" if model is None else f"a trained model ({model})"
        raise MethodError(
            f"This method trains again on parts of the data, and was given {what}. Give an estimator of scikit-learn "
            "(--model logistic), or assay.Recipe(make_model, task, ...)."
        )
    recipe = as_recipe(model)
    on = _goal(on)
    if isinstance(recipe, Recipe):
        if scoring not in ("auto", "neg_loss"):
            raise MethodError(
                f"The utility of a recipe is its negated mean loss (scoring 'neg_loss'), not {scoring!r}."
            )
        return RecipeUtility(replace(recipe, seed=recipe.seed + seed), recipe.encode(train), recipe.encode(on))
    return estimator_utility(seeded(recipe.estimator, recipe.seed + seed), train.matrix(), on.matrix(), scoring)


def _goal(on: Examples | None) -> Examples:
    if on is None:
        raise MethodError("The value of data depends on a goal: give on= (--on), the examples to be predicted well.")
    return on


def _named_utility(
    name: str, train: Examples, on: Examples | None, scoring: str | Scorer | Scoring, seed: int
) -> "EstimatorUtility":
    """An estimator by name reads encoded rows; the encoding is fitted once, to all training rows (not their labels)."""
    rows, goal = train.matrix(), _goal(on).matrix()
    estimator = estimator_of(name, rows.y)
    X, Xv = encoded(rows.X, goal.X)
    return estimator_utility(seeded(estimator, seed), Matrix(X, rows.y, rows.weight), Matrix(Xv, goal.y), scoring)


def estimator_utility(
    estimator: Any, train: Any, on: Any, scoring: str | Scorer | Scoring = "auto"
) -> "EstimatorUtility":
    """Of two matrices with X and y each. Raises MethodError, DataError."""
    from sklearn import base
    from sklearn.utils import validation

    kinds: Any = base
    for name, part in (("training", train), ("validation", on)):
        if part.y is None:
            raise DataError(
                f"The {name} examples have no target; give y beside X, or name the label (label=, --label)."
            )
    classifier = bool(kinds.is_classifier(estimator))
    if not classifier and not kinds.is_regressor(estimator):
        raise MethodError(f"{type(estimator).__name__} is neither classifier nor regressor; give one that is.")
    if type(estimator).__module__.startswith("sklearn.model_selection"):
        inner = getattr(estimator, "estimator", estimator)
        raise MethodError(
            f"{type(estimator).__name__} searches for parameters, anew for every subset; give the estimator with "
            f"parameters chosen, {type(inner).__name__}(...)."
        )
    y, yv = _targets(train.y, classifier), _targets(on.y, classifier)
    named = hasattr(estimator, "steps") or hasattr(estimator, "transformers")
    X, Xv = (_plain(part.X, named) for part in (train, on))
    if train.weight is not None and not cast(Any, validation).has_fit_parameter(estimator, "sample_weight"):
        raise MethodError(
            f"{type(estimator).__name__} takes no sample_weight; leave the weights out, or choose another."
        )
    data = Data(X, y, Xv, yv, np.unique(y) if classifier else None, train.weight)
    return EstimatorUtility(estimator, data, Scoring.of(scoring, classifier))


def seeded(estimator: Any, seed: int) -> Any:
    """An unfitted copy in which every random_state that is None is the seed."""
    from sklearn import base

    twin = cast(Any, base).clone(estimator)
    names = [
        name
        for name, value in twin.get_params(deep=True).items()
        if value is None and name.rpartition("__")[2] == "random_state"
    ]
    return twin.set_params(**dict.fromkeys(names, seed))


@dataclass(frozen=True, eq=False)
class EstimatorUtility(Utility):
    """The score of an estimator fitted to a set of rows. `warm`: refits may start from the last fit, where exact."""

    estimator: Any
    data: Data = field(repr=False)
    scoring: Scoring
    warm: bool = True

    @property
    def n(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Training rows."""
        return self.data.n

    def fingerprint(self) -> str:
        """Of estimator, data, scoring and the version of scikit-learn."""
        import sklearn

        data, scorer = self.data, self.scoring.scorer
        return digest(
            "estimator", self.estimator, data.X, data.y, data.Xv, data.yv, self.scoring.name,
            scorer if hasattr(scorer, "__code__") else None, data.weight,
            bool(self._refit), sklearn.__version__,
        )  # fmt: skip

    @cached_property
    def _refit(self) -> Any:
        """The kind of refit that gives what the estimator gives, seen to do so; else None."""
        kind = refit_for(self.estimator, self.data) if self.warm and self.scoring.direct is not None else None
        if kind is None or not _has_two(self.data):
            return None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = differs(kind(self.estimator, self.data), _precise(self.estimator), self.data)
        return kind if found <= TOLERANCE else None

    @property
    def notes(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Scoring, and how it is fitted."""
        how = "each fit starts from the last one (checked against scikit-learn)" if self._refit else "each fit is new"
        return (f"utility: {self.scoring.name} of {type(self.estimator).__name__} on {len(self.data.yv)} rows; {how}.",)

    def evaluator(self) -> Evaluator:
        """Fits with a copy of the estimator."""
        refit = None if self._refit is None else self._refit(self.estimator, self.data)
        return _Estimated(seeded(self.estimator, 0), self.data, self.scoring, refit)


class _Estimated(Evaluator):
    def __init__(self, estimator: Any, data: Data, scoring: Scoring, refit: Any) -> None:
        self._estimator, self._data, self._scoring, self._refit = estimator, data, scoring, refit
        self._again = not getattr(estimator, "warm_start", False)

    def reset(self) -> None:
        if self._refit is not None:
            self._refit.reset()

    def __call__(self, rows: Rows) -> float:
        if self._data.classes is not None:
            counts = np.bincount(self._data.codes[rows], minlength=len(self._data.classes)).astype(np.int64)
            if np.count_nonzero(counts) < 2:
                return self._prior(rows, counts)
            return self._fitted(rows, counts)
        return self._fitted(rows, None) if rows.any() else self._prior(rows, None)

    def _fitted(self, rows: Rows, counts: Any) -> float:
        data, scoring = self._data, self._scoring
        target = data.yv if data.classes is None else data.codes_v
        if self._refit is not None:
            return checked(cast(Any, scoring.direct)(self._refit.outputs(rows), target), rows)
        estimator = self._estimator if self._again else seeded(self._estimator, 0)
        chosen = np.flatnonzero(rows)
        try:
            weights = {} if data.weight is None else {"sample_weight": data.weight[chosen]}
            fitted = estimator.fit(taken(data.X, chosen), data.y[chosen], **weights)
            if scoring.scorer is not None:
                return checked(float(scoring.scorer(fitted, data.Xv, data.yv)), rows)
            if data.classes is None:
                return checked(cast(Any, scoring.direct)(data.predicted(fitted), target), rows)
            outputs = data.chosen(fitted) if scoring.predicts else data.probabilities(fitted)
            return checked(cast(Any, scoring.direct)(outputs, target), rows)
        except ValueError:
            if rows.all():  # then it is no matter of small sets
                raise
            self.failed += 1
            return self._prior(rows, counts)

    def _prior(self, rows: Rows, counts: Any) -> float:
        """The score of class frequencies; of a regression, of the mean target (of all rows, if the set is empty)."""
        data, scoring = self._data, self._scoring
        if scoring.scorer is None and data.classes is not None:
            return checked(scoring.of_prior(counts, data.codes_v), rows)
        if data.classes is None:
            mean = (data.y[rows] if rows.any() else data.y).astype(np.float64).mean(0)
            if scoring.scorer is None:
                return checked(cast(Any, scoring.direct)(np.broadcast_to(mean, data.yv.shape), data.yv), rows)
        return checked(float(cast(Scorer, scoring.scorer)(self._constant(rows, counts), data.Xv, data.yv)), rows)

    def _constant(self, rows: Rows, counts: Any) -> Any:
        """An estimator for scikit-learn's scorers that predicts the prior."""
        from sklearn import dummy

        kinds, data = cast(Any, dummy), self._data
        if data.classes is None:
            y = data.y[rows] if rows.any() else data.y
            return kinds.DummyRegressor().fit(np.zeros((len(y), 1)), y)
        blank = np.zeros((len(data.classes), 1))
        return kinds.DummyClassifier(strategy="prior").fit(blank, data.classes, sample_weight=counts + 1.0)


@dataclass(frozen=True, eq=False)
class RecipeUtility(Utility):
    """The negated mean loss of the validation examples after training on a set of examples.

    Examples that are left out have weight 0, so that batches stay as they were; the empty set is the initialisation.
    """

    recipe: Recipe
    train: Any = field(repr=False)
    on: Any = field(repr=False)

    @property
    def n(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Training examples."""
        return len(self.train)

    def fingerprint(self) -> str:
        """Of the recipe with the initial weights, and of the data."""
        recipe = self.recipe
        settings = {
            entry.name: getattr(recipe, entry.name)
            for entry in fields(recipe)
            if entry.name not in ("make_model", "task", "checkpoints")
        }
        initial = Model(recipe.initial(), recipe.task).fingerprint()
        return digest(
            "recipe", settings, initial, self.train.examples.fingerprint(), self.on.examples.fingerprint(),
            torch.__version__,
        )  # fmt: skip

    @property
    def notes(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """What is measured."""
        return (f"utility: negated mean loss of {len(self.on)} examples, nats; each subset is trained from the start.",)

    def evaluator(self) -> Evaluator:
        """Trains."""
        return _Trained(self.recipe, self.train, self.on)


class _Trained(Evaluator):
    def __init__(self, recipe: Recipe, train: Any, on: Any) -> None:
        self._recipe, self._train, self._on = recipe, train, on

    def __call__(self, rows: Rows) -> float:
        run = self._recipe.train(self._train, rows.astype(np.float64))
        return checked(-float(run.loss_of(self._on).double().mean()), rows)


def _has_two(data: Data) -> bool:
    return data.classes is None or len(data.classes) > 1


def _precise(estimator: Any) -> Any:
    """A copy that stops later, so that a comparison does not measure its own tolerance."""
    twin = seeded(estimator, 0)
    names = twin.get_params(deep=False)
    tight = {name: value for name, value in (("tol", 1e-9), ("max_iter", 10_000)) if name in names}
    return twin.set_params(**tight)


def _targets(y: Any, classifier: bool) -> Any:
    """Labels of one type; numbers of a regression."""
    array = np.asarray(y)
    if not classifier:
        if array.dtype.kind not in "biuf":
            raise DataError("A regression takes numbers as targets, and was given texts; give a classifier.")
        return array
    return array.astype(str) if array.dtype.kind == "O" else array


def _plain(X: Any, named: bool) -> Any:
    """Rows of arrays as vectors. A DataFrame stays one where it has categories, or a pipeline may name its columns."""
    if hasattr(X, "iloc"):
        numbers = all(kind.kind in "biuf" for kind in X.dtypes)
        return X if named or not numbers else X.to_numpy(dtype=np.float64)
    return np.ascontiguousarray(X).reshape(len(X), -1)
