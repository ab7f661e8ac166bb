"""A recipe as a JSON file: how a model that lies in a directory is trained.

    {"optimizer": "adamw", "lr": 2e-5, "epochs": 3, "batch_size": 8, "schedule": "linear", "warmup": 0.1, "model": "base/"}

Every entry is an argument of `assay.Recipe`; what is not named has its default. `model`, relative to the file, is the directory from
which training starts.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, cast

from assay.errors import InputError, MethodError, nearest
from assay.models import Model
from assay.training.recipe import Recipe

SETTINGS = {entry.name: entry.default for entry in fields(Recipe) if entry.default is not MISSING}
"""What can be set, and its default, whose type it must have."""


@dataclass(frozen=True)
class RecipeFile:
    """Settings of a recipe, and the directory of the initial model if the file names one."""

    settings: Mapping[str, Any]
    model: Path | None = None

    def recipe(self, model: Model) -> Recipe:
        """The recipe that starts from this model. Raises MethodError for numbers out of range."""
        return Recipe(model.module, model.task, **self.settings)


def read_recipe(path: str | os.PathLike[str]) -> RecipeFile:
    """Raises InputError: no such file, not a JSON object, an unknown entry, one of another type or out of range."""
    path = Path(path)
    try:
        found = cast(object, json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"The recipe {path} cannot be read: {error}. A JSON object was expected.") from error
    if not isinstance(found, dict):
        raise InputError(
            f'The recipe {path} is a {type(found).__name__}; an object such as {{"lr": 2e-5, "epochs": 3}} was expected.'
        )
    given = cast(dict[str, Any], found)
    model = given.pop("model", None)
    if model is not None and not isinstance(model, str):
        raise InputError(f'The recipe {path} has "model": {model!r}; the path of a directory was expected.')
    settings = {name: _checked(path, name, value) for name, value in given.items()}
    return RecipeFile(settings, None if model is None else path.parent / Path(model).expanduser())


def _checked(path: Path, name: str, value: Any) -> Any:
    """The value as `Recipe` takes it."""
    if name not in SETTINGS:
        raise MethodError(f"The recipe {path} has an entry '{name}'. {nearest(name, (*SETTINGS, 'model'))}")
    default = SETTINGS[name]
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(default, tuple):
        pair = cast(list[Any], value)
        right = isinstance(value, list) and len(pair) == 2 and all(isinstance(v, int | float) for v in pair)
        value, expected = cast(Any, tuple(pair) if right else value), "a list of two numbers"
    elif isinstance(default, str):
        right, expected = isinstance(value, str), "a text"
    elif isinstance(default, int):
        right, expected = number and isinstance(value, int), "a whole number"
    elif default is None:
        right, expected = number or value is None, "a number or null"
    else:
        right, expected = number, "a number"
    if not right:
        raise MethodError(f'The recipe {path} has "{name}": {value!r}; {expected} was expected.')
    return value
