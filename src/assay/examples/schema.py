"""From one row as the user wrote it to one checked row: which columns hold what, and what is refused.

Content is `text`, or `prompt` and `completion`, or `messages`; `id`, `source` and `label` are optional, and
so is `contrast` beside a completion (another completion of the same prompt, to compare with); all other
columns are ignored. A missing column and a null are the same. Text is kept as it is, control characters
included.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from assay.errors import DataError

TextKind = Literal["text", "completion", "messages"]
EXPECTED = "'text', or 'prompt' and 'completion', or 'messages'"
CONTENT: dict[TextKind, tuple[str, ...]] = {
    "text": ("text",),
    "completion": ("prompt", "completion"),
    "messages": ("messages",),
}
OPTIONAL: dict[TextKind, tuple[str, ...]] = {"text": (), "completion": ("contrast",), "messages": ()}
"""Content that a row of the kind may lack."""
FIELDS = ("text", "prompt", "completion", "messages", "contrast", "id", "source", "label")


@dataclass(frozen=True, slots=True)
class Row:
    """A checked row: `id` is None where it has none, `label` is JSON, `data` holds the fields of the kind."""

    kind: TextKind
    id: str | None
    source: str | None
    label: str | None
    data: dict[str, Any]


def excerpt(text: str, length: int = 80) -> str:
    """The start of a text, on one line, with control and bidirectional characters written as escapes."""
    head = text[:length]
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in head)
    return shown[:length] + ("..." if len(text) > length or len(shown) > length else "")


@dataclass(frozen=True)
class Columns:
    """Names of the user's columns; None stands for the name of the field itself."""

    text: str | None = None
    prompt: str | None = None
    completion: str | None = None
    messages: str | None = None
    contrast: str | None = None
    id: str | None = None
    source: str | None = None
    label: str | None = None

    def __post_init__(self) -> None:
        if len(self._named_kinds()) > 1:
            named = [
                f"{field}={getattr(self, field)!r}"
                for kind in CONTENT
                for field in CONTENT[kind]
                if getattr(self, field)
            ]
            raise DataError(f"Columns were named for more than one kind ({', '.join(named)}); name {EXPECTED}.")

    def name(self, field: str) -> str:
        """The column that holds this field."""
        return getattr(self, field) or field

    def kinds(self) -> tuple[TextKind, ...]:
        """The kinds that rows may have: the one whose columns were named, or all."""
        return self._named_kinds() or tuple(CONTENT)

    def wanted(self) -> list[str]:
        """Every column worth reading."""
        content = [self.name(field) for kind in self.kinds() for field in (*CONTENT[kind], *OPTIONAL[kind])]
        return list(dict.fromkeys([*content, *(self.name(field) for field in ("id", "source", "label"))]))

    def any_named(self) -> bool:
        """Whether the user named a column."""
        return any(getattr(self, field) is not None for field in FIELDS)

    def _named_kinds(self) -> tuple[TextKind, ...]:
        return tuple(kind for kind, fields in CONTENT.items() if any(getattr(self, field) for field in fields))


class RowParser:
    """Checks rows one after the other; the first fixes the kind, a row of another kind is refused."""

    def __init__(self, columns: Columns) -> None:
        self.kind: TextKind | None = None
        self._name = {field: columns.name(field) for field in FIELDS}
        self._kinds: dict[TextKind, list[str]] = {
            kind: [columns.name(field) for field in CONTENT[kind]] for kind in columns.kinds()
        }
        self._required = [name for name in (columns.id, columns.source, columns.label) if name is not None]

    def __call__(self, row: Mapping[str, Any], where: str) -> Row:
        """Check one row; `where` names it in messages ("train.jsonl line 3"). Raises DataError."""
        kind = self._kind_of(row, where)
        if self.kind is None:
            self.kind = kind
        elif kind != self.kind:
            raise DataError(
                f"{where} has {_quoted(self._kinds[kind])}, but the first row has "
                f"{_quoted(self._kinds[self.kind])}. All rows must be of one kind; read the two kinds as "
                "separate files."
            )
        for column in self._required:
            if column not in row:
                raise DataError(f"{where} has no column '{column}', which was named; found: {_found(row)}.")
        return Row(
            kind=kind,
            id=_identifier(row.get(self._name["id"]), "id", where),
            source=_identifier(row.get(self._name["source"]), "source", where),
            label=encode_label(row.get(self._name["label"]), where),
            data=self._data(kind, row, where),
        )

    def _kind_of(self, row: Mapping[str, Any], where: str) -> TextKind:
        kinds: list[TextKind] = [kind for kind, names in self._kinds.items() if None not in map(row.get, names)]
        if len(kinds) == 1:
            return kinds[0]
        if kinds:
            has = " and also ".join(_quoted(self._kinds[kind]) for kind in kinds)
            raise DataError(
                f"{where} has {has}, so its kind is not clear. Name the column to use, such as text='text'."
            )
        expected = EXPECTED if len(self._kinds) > 1 else _quoted(next(iter(self._kinds.values())))
        raise DataError(
            f"{where} has no usable fields; found: {_found(row)}; expected {expected}. "
            "Rename the fields, or name the columns (text=, prompt= and completion=, or messages=)."
        )

    def _data(self, kind: TextKind, row: Mapping[str, Any], where: str) -> dict[str, Any]:
        """The fields of the kind, checked. A prompt may be empty: a completion of nothing."""
        data = {
            field: CHECKS[field](row[name], name, where)
            for field, name in zip(CONTENT[kind], self._kinds[kind], strict=True)
        }
        more = {field: self._name[field] for field in OPTIONAL[kind] if row.get(self._name[field]) is not None}
        return data | {field: CHECKS[field](row[name], name, where) for field, name in more.items()}


def encode_label(value: Any, where: str) -> str | None:
    """A label as JSON, so that integers, strings, numbers and lists of them keep their type; None for none.

    NaN, which tables use for a missing value, is none.
    """
    if hasattr(value, "tolist"):  # numpy and torch scalars and vectors
        value = value.tolist()
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return None
    members = cast("list[Any]", value) if isinstance(value, list) else [value]
    if not all(isinstance(member, str | int | float) for member in members):
        raise DataError(f"{where}: the label is {_shown(value)}; expected an integer, a number, a string, or a list.")
    if any(isinstance(member, float) and not math.isfinite(member) for member in members):
        raise DataError(f"{where}: the label is {_shown(value)}; expected a finite number.")
    return json.dumps(value)


def _identifier(value: Any, field: str, where: str) -> str | None:
    """An id or source as a string; None for none."""
    if value is None or (isinstance(value, str) and not value):
        return None
    if isinstance(value, dict | list | tuple):
        raise DataError(f"{where}: '{field}' is {_shown(value)}; expected a string or a number.")
    return _string(str(value), field, where)


def _string(value: Any, field: str, where: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"{where}: '{field}' is {_shown(value)}; expected a string.")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise DataError(
                f"{where}: '{field}' holds half of a surrogate pair (\\u{ord(value[error.start]):04x}), "
                "which is no character; write the text again as valid Unicode."
            ) from error
    return value


def _nonblank(value: Any, field: str, where: str) -> str:
    text = _string(value, field, where)
    if not text or text.isspace():
        what = "is empty" if not text else "holds only white space"
        raise DataError(f"{where}: '{field}' {what}; expected some text. Remove the row or fill it.")
    return text


def _messages(value: Any, field: str, where: str) -> list[dict[str, str]]:
    if hasattr(value, "tolist"):  # pandas gives nested columns of a Parquet file as arrays
        value = value.tolist()
    if not isinstance(value, list | tuple):
        raise DataError(f"{where}: '{field}' is {_shown(value)}; expected a list of {{role, content}}.")
    members = list(cast("list[Any]", value))
    if not members:
        raise DataError(f"{where}: '{field}' is an empty list; expected at least one {{role, content}}.")
    checked = [_message(member, f"{where}: message {n} of '{field}'") for n, member in enumerate(members, 1)]
    if all(not message["content"].strip() for message in checked):
        raise DataError(f"{where}: every message of '{field}' is empty; expected some text.")
    return checked


def _message(member: Any, where: str) -> dict[str, str]:
    fields = cast("dict[str, Any]", member) if isinstance(member, dict) else {}
    if not isinstance(fields.get("role"), str) or not isinstance(fields.get("content"), str):
        raise DataError(f"{where} is {_shown(member)}; expected a role and a content, both strings.")
    return {key: _string(fields[key], key, where) for key in ("role", "content")}


def _shown(value: Any) -> str:
    return f"{type(value).__name__} {excerpt(repr(value))}"


def _found(row: Mapping[str, Any]) -> str:
    names = [excerpt(str(key)) + (" (null)" if value is None else "") for key, value in row.items()]
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "") or "nothing"


def _quoted(fields: Sequence[str]) -> str:
    return " and ".join(f"'{field}'" for field in fields)


CHECKS: dict[str, Callable[[Any, str, str], Any]] = {
    "text": _nonblank,
    "prompt": _string,
    "completion": _nonblank,
    "messages": _messages,
    "contrast": _nonblank,
}
