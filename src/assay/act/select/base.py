"""What a selector is, and what becomes of its choice: a table with every example, kept or not, and why."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np
import pandas as pd
from jaxtyping import Int64

from assay.errors import InputError, MethodError
from assay.examples import Examples
from assay.methods.base import Registered
from assay.results import Result
from assay.scores import Scores
from assay.values import Values


@dataclass(frozen=True, eq=False)
class Choice:
    """What a selector chose: `kept`, positions in the data, ascending; `why`, a sentence for every example, and further
    numbers of every example by name.
    """

    kept: Int64[np.ndarray, " k"]
    why: list[str]
    columns: dict[str, np.ndarray]
    notes: tuple[str, ...] = ()


class Selector(Registered):
    """A frozen dataclass of hyper-parameters, as a method is one; `takes` is the kind of result that it reads."""

    family: ClassVar[str] = "select"
    unit: ClassVar[str] = "examples"
    takes: ClassVar[type[Result]] = Values

    @abstractmethod
    def choose(self, result: Any, train: Examples | None, count: int) -> Choice:
        """`count` of the training examples. Raises MethodError for a result that it cannot take."""


def select(
    result: Scores | Values, selector: Selector, budget: float | int | str, train: Examples | None = None
) -> pd.DataFrame:
    """Every training example with `row` (its position), `train_id`, `kept`, the selector's numbers, and `why`, kept ones first.

    `budget`: a share of the examples (0.15, "15%"), or a whole number of them. `train`: the training data, where labels are needed.
    The frame's `attrs["notes"]` tells more.

    Raises MethodError for a result of the wrong kind, InputError for a budget out of range or other data.
    """
    if not isinstance(result, selector.takes):
        raise MethodError(
            f"The selector '{selector.name}' takes {selector.takes.__name__.lower()}, and was given {type(result).__name__.lower()} by "
            f"'{result.method}'. Make {selector.takes.__name__.lower()} first (assay "
            f"{'value' if selector.takes is Values else 'attribute'})."
        )
    n = result.train.total
    if train is not None and list(train.ids) != list(result.train.ids):
        raise InputError("The training data have other ids than the run; give the data that the run is of.")
    choice = selector.choose(result, train, budget_of(budget, n))
    kept = np.zeros(n, dtype=bool)
    kept[choice.kept] = True
    frame = pd.DataFrame({"row": np.arange(n), "train_id": list(result.train.ids), "kept": kept, **choice.columns})
    frame["why"] = choice.why
    frame = cast(pd.DataFrame, cast(Any, frame).sort_values("kept", ascending=False, kind="stable")).reset_index(
        drop=True
    )
    frame.attrs["notes"] = list(choice.notes)
    return frame


def share_of(given: float | str, name: str, least: float = 0.0) -> float:
    """`0.15` or `"15%"`, above `least` (0 itself is allowed where `least` is below) and at most 1. Raises InputError."""
    text = str(given).strip()
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = float("nan")
    if not least < share <= 1:
        raise InputError(f"{name} is {given!r}; a share such as 15% or 0.15 was expected.")
    return share


def budget_of(given: float | int | str, n: int) -> int:
    """How many of n examples: a share, or a whole number of 1 and more written without a point. Raises InputError."""
    text = str(given).strip()
    if text.isdecimal() and int(text) >= 1:
        if int(text) > n:
            raise InputError(
                f"The budget is {int(text):,} examples, and there are {n:,}. Give at most that many, or a share."
            )
        return int(text)
    count = round(share_of(given, "The budget") * n)
    if count < 1:
        raise InputError(f"A budget of {given} of {n:,} examples is none; give more.")
    return count
