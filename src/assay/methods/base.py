"""What a method is: a frozen dataclass of hyper-parameters; fitted to training data, it scores queries."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import field, fields
from typing import Any, ClassVar, cast

from assay.errors import MethodError, nearest
from assay.examples import Examples
from assay.jsonable import jsonable
from assay.scores import Scores
from assay.values import Values


def option(default: Any, help: str, choices: Sequence[Any] | None = None) -> Any:
    """A hyper-parameter: a dataclass field with the text and the choices that the command line shows."""
    return field(default=default, metadata={"help": help, "choices": None if choices is None else tuple(choices)})


class Registered(ABC):
    """A frozen dataclass whose fields are made by `option`; the class variables describe it to people.

    `unit` is the unit of its scores, `paper` where its formula comes from.
    """

    name: ClassVar[str]
    family: ClassVar[str]
    unit: ClassVar[str]
    summary: ClassVar[str]
    paper: ClassVar[str]

    def __post_init__(self) -> None:
        for entry in fields(cast(Any, self)):
            value, choices = getattr(self, entry.name), entry.metadata.get("choices")
            if choices is not None and value not in choices:
                known = nearest(str(value), map(str, choices))
                raise MethodError(f"{self.name} cannot take {entry.name}={value!r}. {known}")
        self.check()

    def check(self) -> None:
        """Raise MethodError for hyper-parameters out of range; a method without such limits inherits this."""
        return

    def parameters(self) -> dict[str, Any]:
        """Every hyper-parameter as a JSON value, by name."""
        return {entry.name: jsonable(getattr(self, entry.name)) for entry in fields(cast(Any, self))}

    def expect(self, right: bool, parameter: str, expected: str) -> None:
        """Raise MethodError unless `right`: `self.expect(self.k1 >= 0, "k1", "a number of at least 0")`."""
        if not right:
            raise MethodError(f"{self.name} cannot take {parameter}={getattr(self, parameter)!r}; expected {expected}.")


class Method(Registered):
    """Attributes: gives a score to every pair of training example and query."""

    @abstractmethod
    def fit(self, model: Any, train: Examples) -> "Fitted":
        """Do what depends on the training data alone; `model` is None for methods that need none."""


class Fitted(ABC):
    """A method fitted to training data."""

    @abstractmethod
    def score(self, queries: Examples, top: int | None = None) -> Scores:
        """Scores of every training example for every query; with `top`, so many at both ends of each query.

        Raises MethodError for queries that the method cannot take.
        """

    def value(self, on: Examples) -> Values:
        """The mean over the queries `on` of each training example's scores."""
        scores = self.score(on)
        return Values.of(scores.array.mean(axis=1, dtype=float), scores.train, scores.provenance)


class ValueMethod(Registered):
    """Values: gives a number to every training example."""

    @abstractmethod
    def value(self, model: Any, train: Examples, on: Examples | None = None) -> Values:
        """What each training example is worth for the examples `on`, or in itself where the method needs none."""
