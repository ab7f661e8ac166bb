"""Values as JSON knows them: what a result keeps of its parameters and evidence."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, cast

import numpy as np

from assay.errors import InputError


def jsonable(value: Any) -> Any:
    """`value` in terms of JSON: numpy's as Python's, dataclasses as objects, NaN and infinity as null.

    Raises InputError for anything else.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, np.generic | np.ndarray):
        return jsonable(cast(Any, value).tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): jsonable(entry) for key, entry in cast(Mapping[Any, Any], value).items()}
    if isinstance(value, list | tuple):
        return [jsonable(entry) for entry in cast(Sequence[Any], value)]
    if hasattr(value, "__dataclass_fields__"):
        return {"type": type(value).__name__, **{f.name: jsonable(getattr(value, f.name)) for f in fields(value)}}
    if isinstance(value, os.PathLike):
        return os.fspath(cast(os.PathLike[str], value))
    raise InputError(
        f"A {type(value).__name__} cannot be kept with a result; give numbers, texts, lists or dictionaries."
    )
