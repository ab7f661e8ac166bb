"""A scorer on disk: `scorer.json`, sealed, and `weights.safetensors`. No training text, nothing that is executed.

What it gives away: weights by bucket of hashed n-grams that two rows or more of the sample share, and sums over rows. Somebody who
guesses an n-gram can see whether the sample's rows had it in common. docs/scorer-format.md specifies it.
"""

import os
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
from safetensors import SafetensorError
from safetensors import numpy as safetensors

from assay.errors import InputError
from assay.methods.student import ngrams, pieces
from assay.methods.student.ngrams import SHAPE, WIDTH
from assay.methods.student.pieces import WordLine
from assay.methods.student.scorer import Line, Scorer
from assay.methods.student.sealed import Kind

WEIGHTS = "weights.safetensors"
KIND = Kind("a scorer", "scorer.json", WEIGHTS, "assay-scorer", 2)
SPECIFICATION = f"{ngrams.SPECIFICATION} {pieces.SPECIFICATION}"
TENSORS: dict[str, tuple[Any, int]] = {
    "words": (np.float32, pieces.WIDTH),
    "value.grams": (np.float32, WIDTH), "value.shape": (np.float32, SHAPE), "log_square.grams": (np.float32, WIDTH),
    "log_square.shape": (np.float32, SHAPE), "shape.center": (np.float64, SHAPE), "shape.scale": (np.float64, SHAPE),
    "seen": (np.uint8, WIDTH // 8),
}  # fmt: skip
"""Type and length of each; `seen` holds a bit a bucket, the first in the highest bit."""
NUMBERS = ("smallest", "largest", "error", "half", "threshold", "shift", "longest")


def save_scorer(scorer: Scorer, directory: str | os.PathLike[str]) -> str:
    """Write it, whole or not at all, and give its checksum; an earlier scorer there is replaced.

    Raises InputError for a directory that holds something else, StorageError.
    """
    tensors = {
        "words": scorer.words.weights,
        "value.grams": scorer.value.grams, "value.shape": scorer.value.numbers,
        "log_square.grams": scorer.log_square.grams, "log_square.shape": scorer.log_square.numbers,
        "shape.center": scorer.center, "shape.scale": scorer.scale, "seen": np.packbits(scorer.seen),
    }  # fmt: skip
    numbers = {name: getattr(scorer, name) for name in NUMBERS}
    means = {"words": scorer.words.mean, "value": scorer.value.mean, "log_square": scorer.log_square.mean}
    content = {"features": SPECIFICATION, "numbers": numbers, "means": means, "about": scorer.about}
    KIND.write(directory, content, {WEIGHTS: partial(_write, tensors)})
    return str(KIND.read(directory)["checksum"])


def load_scorer(directory: str | os.PathLike[str]) -> tuple[Scorer, str]:
    """A scorer that predicts the same bits as the one that was saved, and its checksum.

    Raises InputError for what is no scorer, of another version, damaged or changed.
    """
    content = KIND.read(directory)
    if content.get("features") != SPECIFICATION:
        raise InputError(
            f"The scorer '{directory}' reads texts by '{content.get('features')}'; this version of Assay knows "
            f"'{SPECIFICATION}'. Use the version that wrote it."
        )
    path = KIND.file(directory, content, WEIGHTS)
    try:
        found: dict[str, np.ndarray] = cast(Any, safetensors).load_file(path)
        for name, (kind, length) in TENSORS.items():
            if found[name].dtype != kind or found[name].shape != (length,) or not np.isfinite(found[name]).all():
                raise KIND.damaged(path, f"{name} is not {length} finite numbers of type {np.dtype(kind)}")
        numbers = {name: content["numbers"][name] for name in NUMBERS}
        means = {name: float(content["means"][name]) for name in ("words", "value", "log_square")}
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise KIND.damaged(path, str(error)) from error
    scorer = Scorer(
        WordLine(means["words"], found["words"]),
        Line(means["value"], found["value.grams"], found["value.shape"]),
        Line(means["log_square"], found["log_square.grams"], found["log_square.shape"]),
        found["shape.center"],
        found["shape.scale"],
        np.unpackbits(found["seen"]).astype(bool),
        **numbers,
        about=content.get("about", {}),
    )
    return scorer, str(content["checksum"])


def _write(tensors: dict[str, np.ndarray], path: Path) -> None:
    cast(Any, safetensors).save_file({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, path)
