"""Features as a library takes them: columns by name or by place, categories as pandas categories or strings."""

from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeVar, cast

import numpy as np
import pandas as pd

from assay.errors import DataError

pandas = cast("Any", pd)
T = TypeVar("T")


def by_name(X: Any, names: Sequence[str] | None, count: int, library: str) -> Any:
    """The model's features in its order; a DataFrame's columns by name where the model knows names.

    Raises DataError if one is missing, or if there are not `count` of them.
    """
    if hasattr(X, "columns"):
        present = [str(column) for column in X.columns]
        if names is not None and set(names) <= set(present):
            return X.set_axis(present, axis=1)[list(names)]
        if names is not None and not (_generic(names) and len(present) == count):
            missing = [name for name in names if name not in present]
            raise DataError(
                f"The {library} model was trained on the column '{missing[0]}', which the data do not have; they have: "
                f"{', '.join(present[:20])}."
            )
    found = X if hasattr(X, "columns") else np.asarray(X)
    if found.ndim != 2 or found.shape[1] != count:
        raise DataError(
            f"The {library} model takes {count} features, and the data have the shape {tuple(found.shape)}."
        )
    return found


def categorical(X: Any, chosen: Collection[int]) -> Any:
    """A DataFrame's columns of text, and those at these places, as pandas categories; an array as it is."""
    if not hasattr(X, "columns"):
        return X
    known = (pandas.CategoricalDtype,)
    columns = {
        name: _as_category(X[name])
        for place, name in enumerate(X.columns)
        if (place in chosen or not _numeric(X[name])) and not isinstance(X[name].dtype, known)
    }
    return X.assign(**columns) if columns else X


def strings(X: Any, chosen: Collection[int]) -> Any:
    """The columns at these places as strings, a missing value as "nan"; the result is a DataFrame if there are any."""
    if not chosen:
        return X
    frame = X.copy() if hasattr(X, "columns") else pandas.DataFrame(X)
    for place in chosen:
        name = frame.columns[place]
        frame[name] = [_string(value) for value in frame[name].astype(object)]
    return frame


def numbers(X: Any, library: str) -> Any:
    """A float array. Raises DataError for a column of text."""
    if hasattr(X, "columns"):
        for name in X.columns:
            if not _numeric(X[name]):
                raise DataError(f"The column '{name}' holds text, and the {library} model was trained on numbers.")
        return X.to_numpy(np.float64, na_value=np.nan)
    return np.asarray(X)


def told(library: str, action: Callable[[], T]) -> T:
    """The outcome; what a library says against the data as our error."""
    try:
        return action()
    except (ValueError, TypeError, KeyError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
        raise DataError(f"{library} cannot take these data: {reason}. Give the features it was trained on.") from error


def _as_category(column: Any) -> Any:
    """Missing values alone have no category; XGBoost wants a column to have one, used or not."""
    found = column.astype("category")
    return found if len(found.cat.categories) else pandas.Categorical([None] * len(column), categories=["none"])


def _generic(names: Sequence[str]) -> bool:
    """Names that a library made up for columns that had none."""
    return all(name in (str(k), f"Column_{k}", f"f{k}", f"x{k}") for k, name in enumerate(names))


def _numeric(column: Any) -> bool:
    kinds = pandas.api.types
    return bool(kinds.is_numeric_dtype(column.dtype) or kinds.is_bool_dtype(column.dtype))


def _string(value: Any) -> str:
    if value is None or value != value:
        return "nan"
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
