"""Examples of arrays: (X, y) in memory, or a torch dataset read item by item.

Nothing is copied or converted beyond one row at a time; dtypes stay as they are (the task casts to the
model's). A label is `y` where it names a class: an integer or a string. NaN and infinity are refused.
"""

import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from assay.errors import DataError
from assay.examples.types import Example, FieldName, Matrix, Rows

CHECK_ROWS = 4096
MAKE_NPZ = "write it with numpy.savez(path, X=X, y=y)"


class PairRows(Rows):
    """`count` examples of an x and a y, as `pair(position)` gives them."""

    def __init__(
        self, pair: Callable[[int], tuple[Any, Any]], count: int, name: str, whole: Callable[[], Matrix] | None = None
    ) -> None:
        self.kind = "arrays"
        self._pair, self._count, self._name, self._whole = pair, count, name, whole

    def __len__(self) -> int:
        return self._count

    def matrix(self) -> Matrix:
        """Without a copy where the arrays are there."""
        if self._whole is not None:
            return self._whole()
        X, y = zip(*(self._pair(position) for position in range(self._count)), strict=True)
        return Matrix(
            np.stack([np.asarray(x) for x in X]), None if y[0] is None else np.array([as_scalar(v) for v in y])
        )

    def example(self, position: int) -> Example:
        """The row as a tensor and a scalar or tensor."""
        x, y = self._pair(position)
        y = as_scalar(y)
        return Example(f"{self._name}:{position + 1}", {"x": as_tensor(x), "y": y}, None, as_label(y))

    def field(self, name: FieldName, position: int) -> Any:
        """One field; ids cost no look at the data."""
        if name == "id":
            return f"{self._name}:{position + 1}"
        if name == "source":
            return None
        if name == "label":
            return as_label(as_scalar(self._pair(position)[1]))
        return self.example(position).text

    def stream(self) -> Iterator[Example]:
        """All examples, one by one."""
        return (self.example(position) for position in range(self._count))

    def stream_field(self, name: FieldName) -> Iterator[Any]:
        """One field of all rows, one by one."""
        return (self.field(name, position) for position in range(self._count))

    def content(self, example: Example) -> Iterable[bytes]:
        """Type, shape and bytes of x and y, which the label follows from."""
        for value in (example.data["x"], example.data["y"]):
            yield from content_bytes(value)

    def parts(self, positions: Iterable[int] | None) -> Iterator[tuple[bytes, ...]]:
        """As they lie, without a tensor for each row."""
        for position in range(self._count) if positions is None else positions:
            x, y = self._pair(position)
            id = f"{self._name}:{position + 1}".encode()
            yield (id, *content_bytes(np.asarray(x) if not _is_tensor(x) else x), *content_bytes(as_scalar(y)))


def read_arrays(X: Any, y: Any, *, name: str, given: str, limit: int | None) -> PairRows:
    """Rows of X [n, ...] and, where given, y [n, ...]; numpy arrays or torch tensors. Raises DataError."""
    x = _numeric(X, "X", given)
    y = None if y is None else _targets(y, given)
    if y is not None and len(x) != len(y):
        raise DataError(f"{given}: X has {len(x)} rows and y has {len(y)}; expected one y for each row.")
    if len(x) == 0:
        raise DataError(f"{given} holds no rows; expected at least one example.")
    count = min(len(x), limit or len(x))
    for what, values in (("X", x), ("y", y)):
        if values is not None:
            _check_finite(values[:count], what, given)
    whole = lambda: Matrix(_as_numpy(x[:count]), None if y is None else _as_numpy(y[:count]))  # noqa: E731
    return PairRows(lambda row: (x[row], None if y is None else y[row]), count, name, whole)


def read_items(dataset: Any, *, name: str, given: str, limit: int | None) -> PairRows:
    """A torch dataset with items (x, y) or {"x": ..., "y": ...}, each read (and checked) when asked for.

    Items are taken as they come: a dataset that augments at random has another fingerprint every time.
    """

    def pair(position: int) -> tuple[Any, Any]:
        where = f"{given} row {position + 1}"
        x, y = _split(dataset[position], where)
        return _checked_item(x, where), y if y is None or isinstance(y, str) else _checked_item(y, where)

    pair(0)  # a dataset of something else is refused now, not in the middle of a run
    return PairRows(pair, min(len(dataset), limit or len(dataset)), name)


def read_npz(path: Path, *, name: str, limit: int | None) -> PairRows:
    """`X` and, optionally, `y` of a file written by `numpy.savez`. Nothing is unpickled."""
    try:
        with path.open("rb") as handle:
            file: Any = np.load(handle, allow_pickle=False)
            stored: dict[str, Any] = {key: file[key] for key in file.files if key in ("X", "y")}
            names = ", ".join(file.files)
    except (ValueError, OSError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} cannot be read as an .npz file of numbers ({error}); {MAKE_NPZ}.") from error
    if "X" not in stored:
        raise DataError(f"{path} holds no array 'X'; found: {names or 'nothing'}. Please {MAKE_NPZ}.")
    return read_arrays(stored["X"], stored.get("y"), name=name, given=str(path), limit=limit)


def _numeric(values: Any, what: str, given: str) -> Any:
    """As a numpy array or torch tensor of numbers, with a first axis of rows."""
    array = _array(values, what, given)
    if array.ndim == 0:
        raise DataError(f"{given}: {what} is a single value; expected one row for each example.")
    if _is_tensor(array):
        if array.is_complex():
            raise DataError(f"{given}: {what} is complex; expected real numbers.")
        return array
    if array.dtype.kind not in "biuf":
        raise DataError(f"{given}: {what} has dtype {array.dtype}; expected numbers. Encode it as numbers.")
    return array.astype(array.dtype.newbyteorder("="), copy=False)  # torch knows native byte order only


def _array(values: Any, what: str, given: str) -> Any:
    try:
        return values if _is_tensor(values) else np.asarray(values)
    except ValueError as error:
        raise DataError(f"{given}: the rows of {what} have different shapes; expected one shape.") from error


def _targets(values: Any, given: str) -> Any:
    """Numbers, or class names."""
    if not _is_tensor(values):
        array = _array(values, "y", given)
        if array.dtype.kind == "U":
            return array
        if array.dtype.kind == "O" and all(isinstance(value, str) for value in array.ravel()):
            return array.astype(str)
    return _numeric(values, "y", given)


def _check_finite(values: Any, what: str, given: str) -> None:
    if not _is_tensor(values) and values.dtype.kind != "f":
        return
    for start in range(0, len(values), CHECK_ROWS):
        block = _finite(values[start : start + CHECK_ROWS])
        bad = ~block.reshape(len(block), -1).all(axis=1)
        if bad.any():
            raise DataError(
                f"{given} row {start + int(bad.argmax()) + 1}: {what} holds NaN or infinity; expected "
                "finite numbers. Fill in or drop such rows."
            )


def _finite(values: Any) -> NDArray[np.bool_]:
    return values.isfinite().cpu().numpy() if _is_tensor(values) else np.asarray(np.isfinite(values))


def _checked_item(value: Any, where: str) -> Any:
    array = value if _is_tensor(value) else np.asarray(value)
    if not _is_tensor(array) and array.dtype.kind not in "biuf":
        raise DataError(
            f"{where} holds a {type(value).__name__}; expected tensors or numbers. "
            "Give the dataset a transform that makes tensors."
        )
    if not _finite(array).all():
        raise DataError(f"{where} holds NaN or infinity; expected finite numbers.")
    return array


def _split(item: Any, where: str) -> tuple[Any, Any]:
    fields = cast("dict[str, Any]", item) if isinstance(item, Mapping) else {}
    if "x" in fields:
        return fields["x"], fields.get("y")
    members = list(cast("Sequence[Any]", item)) if isinstance(item, tuple | list) else []
    if len(members) in (1, 2):
        return members[0], members[1] if len(members) == 2 else None
    what = type(cast("Any", item)).__name__
    raise DataError(f"{where} is a {what}; expected (x, y), or a dict with 'x' and 'y' or with text fields.")


def as_scalar(y: Any) -> Any:
    """A single value as Python int, float or str; a vector as a tensor; None as None."""
    if isinstance(y, np.generic) or (hasattr(y, "ndim") and y.ndim == 0):
        y = cast("Any", y).item()
    if isinstance(y, bool):
        return int(y)
    return y if y is None or isinstance(y, int | float | str) else as_tensor(y)


def as_label(y: Any) -> int | str | None:
    """A target as a label: what names a class, else None."""
    return y if isinstance(y, int | str) else None


def _as_numpy(values: Any) -> Any:
    if not _is_tensor(values):
        return values
    values = values.detach().cpu()
    return (values.float() if str(values.dtype) == "torch.bfloat16" else values).numpy()  # numpy has no bfloat16


def as_tensor(x: Any) -> Any:
    """A tensor of its own."""
    import torch  # here, so that reading text does not load it

    # A copy of a numpy row: the array may be read-only, which tensors cannot express.
    return x.detach() if isinstance(x, torch.Tensor) else torch.tensor(np.asarray(x))


def _is_tensor(value: Any) -> bool:
    return hasattr(value, "detach") and hasattr(value, "isfinite")


@cache
def _name_of(dtype: np.dtype[Any]) -> str:
    return str(dtype)


def content_bytes(value: Any) -> Iterable[bytes]:
    """dtype, shape and content, the same for numpy and torch, wherever it lies."""
    if isinstance(value, np.ndarray):
        yield f"{_name_of(cast(Any, value).dtype)} {value.shape}".encode()
        yield value.tobytes()
        return
    if not _is_tensor(value):
        yield repr(value).encode()
        return
    import torch

    flat = value.detach().cpu().contiguous().reshape(-1)
    flat = flat.as_strided((flat.numel(),), (1,))  # one number may have come with a stride of 0, which view refuses
    yield f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}".encode()
    yield flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
