"""Fingerprints of content: estimators, arrays and functions, never of where they lie in memory."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray


def digest(*parts: Any) -> str:
    """SHA-256 (hexadecimal) of what these parts are."""
    found = hashlib.sha256()
    for part in parts:
        content = part if isinstance(part, bytes) else json.dumps(described(part), sort_keys=True).encode()
        found.update(len(content).to_bytes(8, "little") + content)
    return found.hexdigest()


def described(value: Any) -> Any:
    """A JSON value that is equal for equal content: an estimator is its class and parameters, a function its code."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return described(value.item())
    if isinstance(value, np.ndarray) or hasattr(value, "iloc"):
        return content_of(value)
    if isinstance(value, Mapping):
        return {str(key): described(entry) for key, entry in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [described(entry) for entry in list(cast("tuple[Any, ...]", value))]
    if hasattr(value, "get_params") and not isinstance(value, type):
        return [_name(type(value)), described(value.get_params(deep=False))]
    if hasattr(value, "__code__"):
        code = cast(Any, value).__code__
        return [_name(value), hashlib.sha256(code.co_code).hexdigest(), [repr(part) for part in _plain(code.co_consts)]]
    if isinstance(value, type) or callable(value):
        return _name(value)
    return [_name(cast(Any, type(value))), described(getattr(value, "__dict__", {}))]


def content_of(values: Any) -> str:
    """Of an array or a DataFrame: shape, types and every cell."""
    if hasattr(values, "iloc"):
        import pandas

        hashes = cast(Any, pandas).util.hash_pandas_object(values, index=False).to_numpy()
        return digest([str(kind) for kind in np.atleast_1d(np.asarray(values.dtypes))], hashes.tobytes())
    array: NDArray[Any] = np.ascontiguousarray(values)
    head = f"{array.dtype.str} {array.shape}".encode()
    body = repr(array.tolist()).encode() if array.dtype.kind == "O" else array.tobytes()
    return hashlib.sha256(head + body).hexdigest()


def _plain(constants: tuple[Any, ...]) -> list[Any]:
    """Those whose text says what they are; of an inner function it would say where it lies."""
    return [part for part in constants if part is None or isinstance(part, bool | int | float | str)]


def _name(thing: Any) -> str:
    kind: Any = thing if hasattr(thing, "__qualname__") else cast(Any, type(thing))
    return f"{kind.__module__}.{kind.__qualname__}"
