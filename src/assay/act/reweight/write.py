"""Sampling weights on disk: JSON lines, one a training example, `{"id": ..., "weight": ...}`, in the order of the data."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from assay.errors import DataError, InputError
from assay.run_directory import replacing


def write_weights(ids: Sequence[str], weights: Float64[np.ndarray, " n"], out: str | Path) -> Path:
    """The file is whole or not there. Raises InputError if it exists; StorageError."""
    out = Path(out)
    if out.exists():
        raise InputError(f"'{out}' exists; nothing is overwritten. Give another name, or remove it.")
    with replacing(out) as temporary, temporary.open("w", encoding="utf-8") as file:
        for name, weight in zip(ids, weights.tolist(), strict=True):
            file.write(json.dumps({"id": name, "weight": weight}) + "\n")
    return out


def read_weights(path: str | Path, ids: Sequence[str]) -> Float64[np.ndarray, " n"]:
    """What `write_weights` wrote, for these examples. Raises DataError: another file, or of other examples."""
    try:
        with Path(path).open(encoding="utf-8") as file:
            lines = [json.loads(line) for line in file if line.strip()]
        found = {str(line["id"]): float(line["weight"]) for line in lines}
        return np.array([found[name] for name in ids], dtype=np.float64)
    except OSError as error:
        raise DataError(f"The weights at '{path}' cannot be read: {error.strerror}.") from error
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(
            f"'{path}' does not hold a weight for each of the {len(ids)} examples ({type(error).__name__}: {error}); expected "
            'lines such as {"id": "train:1", "weight": 1.5}, as assay reweight writes them.'
        ) from error
