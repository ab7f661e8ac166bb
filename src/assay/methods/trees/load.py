"""From what the user has, a fitted estimator, a booster or a file in its library's own format, to an `Ensemble`."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from assay.errors import ModelError, require
from assay.methods.trees import parse_catboost, parse_lightgbm, parse_sklearn, parse_xgboost
from assay.methods.trees.ensemble import Ensemble

PARSERS: dict[str, Callable[[Any], Ensemble]] = {
    "xgboost": parse_xgboost.parse,
    "lightgbm": parse_lightgbm.parse,
    "catboost": parse_catboost.parse,
    "sklearn": parse_sklearn.parse,
}
SUFFIXES = (".json", ".ubj", ".txt", ".cbm")
EXPECTED = (
    "a fitted estimator or booster of XGBoost, LightGBM, CatBoost or scikit-learn, or a model file: XGBoost's .json or "
    ".ubj, LightGBM's .txt, CatBoost's .cbm or .json"
)


def load_ensemble(model: Any, method: str) -> Ensemble:
    """The ensemble in `model`. Raises ModelError for anything else, and for settings that are not supported."""
    if isinstance(model, Ensemble):
        return model
    if isinstance(model, str | os.PathLike):
        path = Path(cast("str | os.PathLike[str]", model))
        return replace(load_ensemble(_open(path, method), method), name=path.name, estimator=None)
    for kind in type(model).__mro__:
        parse = PARSERS.get(kind.__module__.split(".")[0])
        if parse is not None and kind.__module__ != "sklearn.base":
            return parse(model)
    raise ModelError(f"{method} takes {EXPECTED}; it was given {type(model).__name__}.")


def _open(path: Path, method: str) -> Any:
    """The model in a file. Raises ModelError."""
    if not path.is_file() or path.suffix.lower() not in SUFFIXES:
        what = "which is another kind of file" if path.is_file() else "and there is no such file"
        raise ModelError(f"{method} takes {EXPECTED}; it was given {str.__name__} '{path}', {what}.")
    library = _library(path)
    try:
        if library == "xgboost":
            return require("xgboost", "trees").Booster(model_file=str(path))
        if library == "lightgbm":
            return require("lightgbm", "trees").Booster(model_file=str(path))
        form = "json" if path.suffix.lower() == ".json" else "cbm"
        catboost = require("catboost", "trees")
        return catboost.CatBoost().load_model(str(path), format=form)
    except (ValueError, RuntimeError, OSError, KeyError) as error:
        raise ModelError(
            f"{path} cannot be read as a model of {library}: {str(error).splitlines()[0][:200]}"
        ) from error
    except Exception as error:
        if type(error).__module__.split(".")[0] not in ("xgboost", "lightgbm", "catboost", "_catboost"):
            raise
        raise ModelError(
            f"{path} cannot be read as a model of {library}: {str(error).splitlines()[0][:200]}"
        ) from error


def _library(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix in (".ubj", ".txt", ".cbm"):
        return {".ubj": "xgboost", ".txt": "lightgbm", ".cbm": "catboost"}[suffix]
    try:
        content = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ModelError(f"{path} is not valid JSON ({error}); expected a model of XGBoost or CatBoost.") from error
    known = cast("dict[str, Any]", content) if isinstance(content, dict) else {}
    if "learner" in known:
        return "xgboost"
    if "features_info" in known:
        return "catboost"
    raise ModelError(f"{path} is a JSON file, but no model of XGBoost or CatBoost; save the model with save_model.")
