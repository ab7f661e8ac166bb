"""What an example is, and an immutable sequence of them.

An `Examples` is a view: an order over rows that live somewhere else (an Arrow table in memory or mapped from
disk, a pair of arrays, a torch dataset). Selecting is free, reading one example costs one lookup, and
iterating streams; nothing here holds more than one block of rows as Python objects.
"""

import hashlib
import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, SupportsIndex, TypeVar, cast, overload

import numpy as np
from numpy.typing import NDArray

from assay.errors import DataError

Kind = Literal["text", "completion", "messages", "arrays", "table"]
FieldName = Literal["id", "source", "label", "text"]
SHOWN = 30
"""Cells of a table's row that its text shows."""
T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Example:
    """One row.

    `data` is `{"text": str}`, or `{"prompt": str, "completion": str}` (with `"contrast": str` where it has one), or
    `{"messages": [{"role": str, "content": str}, ...]}`, or `{"x": Tensor, "y": int | float | str | Tensor | None}`; a row
    of a table also has `"row": {column: value}`, with "x" only where all values are numbers.
    """

    id: str
    data: Mapping[str, Any]
    source: str | None = None
    label: Any | None = None

    @property
    def text(self) -> str:
        """What a person reads: the text, prompt + completion, or one `role: content` line a message."""
        data = self.data
        if "text" in data:
            return data["text"]
        if "completion" in data:
            return data["prompt"] + data["completion"]
        if "messages" in data:
            return "\n".join(f"{message['role']}: {message['content']}" for message in data["messages"])
        if "row" in data:
            return _described(data["row"], data["y"])
        return _describe(data["x"], data["y"], self.label)


@dataclass(frozen=True, eq=False)
class Matrix:
    """Examples of arrays all at once: X [n, ...] (a DataFrame or an array), y [n, ...], weight [n]."""

    X: Any
    y: Any
    weight: Any = None

    def rows(self, chosen: NDArray[np.int64]) -> "Matrix":
        """Some of the rows, in this order."""
        X = self.X.iloc[chosen].reset_index(drop=True) if hasattr(self.X, "iloc") else self.X[chosen]
        return Matrix(X, *(None if part is None else part[chosen] for part in (self.y, self.weight)))


class Rows(ABC):
    """Where examples live. Positions are 0-based and already checked by `Examples`."""

    kind: Kind

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def example(self, position: int) -> Example:
        """One row."""

    @abstractmethod
    def field(self, name: FieldName, position: int) -> Any:
        """One field of one row, without building the rest of the example where that costs something."""

    @abstractmethod
    def stream(self) -> Iterator[Example]:
        """All examples in order, in bounded memory."""

    @abstractmethod
    def stream_field(self, name: FieldName) -> Iterator[Any]:
        """One field of all rows in order, in bounded memory."""

    @abstractmethod
    def content(self, example: Example) -> Iterable[bytes]:
        """The parts of the example that the fingerprint covers, apart from its id."""

    def parts(self, positions: Iterable[int] | None) -> Iterator[tuple[bytes, ...]]:
        """What the fingerprint covers of each of these rows, or of all: the id and `content`."""
        found = self.stream() if positions is None else map(self.example, positions)
        return ((example.id.encode(), *self.content(example)) for example in found)

    def matrix(self) -> Matrix:
        """All rows at once. Raises DataError where they are no arrays."""
        raise DataError(
            f"The examples hold {self.kind}; expected a table or arrays (X, y). Name the column of the label "
            "(label=, --label), or give (X, y)."
        )


class Field(Sequence[T_co], Generic[T_co]):
    """One field of all examples as a read-only sequence; values are looked up when asked for."""

    def __init__(self, examples: "Examples", get: Callable[[int], T_co], stream: Callable[[], Iterator[T_co]]) -> None:
        self._examples, self._get, self._stream = examples, get, stream

    def __len__(self) -> int:
        return len(self._examples)

    @overload
    def __getitem__(self, index: SupportsIndex) -> T_co: ...
    @overload
    def __getitem__(self, index: slice) -> list[T_co]: ...
    def __getitem__(self, index: SupportsIndex | slice) -> T_co | list[T_co]:
        if isinstance(index, slice):
            return [self._get(i) for i in range(*index.indices(len(self)))]
        return self._get(_position(index, len(self)))

    def __iter__(self) -> Iterator[T_co]:
        return self._stream()

    def __repr__(self) -> str:
        more = ", ..." if len(self) > 3 else ""
        return f"[{', '.join(repr(value) for value in self[:3])}{more}]"


class Examples(Sequence[Example]):
    """An immutable sequence of examples of one kind; made by `assay.read`.

    `kind`: "text", "completion", "messages", "arrays" or "table". `origin`: the name of the file, or of the type
    of the object, that the examples were read from.
    """

    def __init__(self, rows: Rows, origin: str, order: NDArray[np.int64] | None = None) -> None:
        self._rows, self._order, self.origin = rows, order, origin
        self._fingerprint: str | None = None

    @property
    def kind(self) -> Kind:
        """What `data` of every example holds."""
        return self._rows.kind

    @property
    def ids(self) -> Sequence[str]:
        """Unique names, looked up when asked for, like all fields."""
        return self._field("id")

    @property
    def sources(self) -> Sequence[str | None]:
        """Where each example comes from, as its row says; None where it does not."""
        return self._field("source")

    @property
    def labels(self) -> Sequence[Any]:
        """The class (or classes, or number) of each example; None where it has none."""
        return self._field("label")

    @property
    def texts(self) -> Sequence[str]:
        """What a person reads and what lexical methods index; `Example.text` of each example."""
        return self._field("text")

    def __len__(self) -> int:
        return len(self._rows) if self._order is None else len(self._order)

    @overload
    def __getitem__(self, index: SupportsIndex) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> "Examples": ...
    def __getitem__(self, index: SupportsIndex | slice) -> "Example | Examples":
        if isinstance(index, slice):
            return self.select(range(*index.indices(len(self))))
        return self._rows.example(self._row(_position(index, len(self))))

    def __iter__(self) -> Iterator[Example]:
        if self._order is None:
            return self._rows.stream()
        return (self._rows.example(int(row)) for row in self._order)

    def select(self, indices: Iterable[int] | NDArray[Any]) -> "Examples":
        """The examples at these positions, in this order; a boolean mask as long as the examples also works.

        Raises IndexError for a position outside the examples.
        """
        chosen = np.asarray(indices if hasattr(indices, "__array__") else list(indices))
        if chosen.dtype == np.bool_:
            if chosen.shape != (len(self),):
                raise IndexError(f"a mask of {chosen.shape} values over {len(self)} examples")
            chosen = np.flatnonzero(chosen)
        if chosen.size == 0:
            chosen = chosen.astype(np.int64)
        if chosen.ndim != 1 or chosen.dtype.kind not in "iu":
            raise IndexError(f"positions must be a list of integers, not {chosen.dtype} of shape {chosen.shape}")
        chosen = chosen.astype(np.int64)
        outside = (chosen < -len(self)) | (chosen >= len(self))
        if outside.any():
            raise IndexError(f"position {int(chosen[outside][0])} is outside the {len(self)} examples")
        chosen = np.where(chosen < 0, chosen + len(self), chosen)
        return Examples(self._rows, self.origin, chosen if self._order is None else self._order[chosen])

    def matrix(self) -> Matrix:
        """X, y and weights of all examples at once. Raises DataError if they are text."""
        found = self._rows.matrix()
        return found if self._order is None else found.rows(self._order)

    def fingerprint(self) -> str:
        """SHA-256 (hex) over kind, ids, data and labels in order; one streaming pass, then remembered.

        Sources are not part of it: they group results and change none.
        """
        if self._fingerprint is None:
            digest = hashlib.sha256(self.kind.encode())
            for parts in self._rows.parts(None if self._order is None else self._order.tolist()):
                # The length first, so that ("ab", "c") differs from ("a", "bc").
                digest.update(b"".join([len(part).to_bytes(8, "little") + part for part in parts]))
            self._fingerprint = digest.hexdigest()
        return self._fingerprint

    def __repr__(self) -> str:
        return f"Examples({len(self)} of kind {self.kind!r} from {self.origin!r})"

    def _row(self, position: int) -> int:
        return position if self._order is None else int(self._order[position])

    def _field(self, name: FieldName) -> Field[Any]:
        rows = self._rows

        def stream() -> Iterator[Any]:
            if self._order is None:
                return rows.stream_field(name)
            return (rows.field(name, int(row)) for row in self._order)

        return Field(self, lambda position: rows.field(name, self._row(position)), stream)


def _position(index: SupportsIndex, length: int) -> int:
    position = operator.index(index)
    if not -length <= position < length:
        raise IndexError(f"position {position} is outside the {length} examples")
    return position % length


def _describe(x: Any, y: Any, label: Any) -> str:
    shape = "x".join(str(size) for size in cast("tuple[int, ...]", tuple(x.shape))) or "scalar"
    if label is not None:
        return f"array [{shape}] label {label}"
    return f"array [{shape}]" if y is None else f"array [{shape}] target {_short(y)}"


def _described(row: Mapping[str, Any], y: Any) -> str:
    """`age=39, job=clerk -> yes`; a missing value is left out."""
    known = {name: value for name, value in row.items() if value is not None and value == value}
    cells = [f"{name}={f'{value:g}' if isinstance(value, float) else value}" for name, value in known.items()]
    more = [f"{len(cells) - SHOWN} more"] if len(cells) > SHOWN else []
    return ", ".join(cells[:SHOWN] + more) + ("" if y is None else f" -> {_short(y)}")


def _short(y: Any) -> str:
    if isinstance(y, float):
        return f"{y:g}"
    return f"[{'x'.join(str(size) for size in y.shape)}]" if hasattr(y, "shape") else str(y)
