"""One small tree of exceptions: what was given, what was expected, what to do.

`InputError` and everything below it means that the user's input is wrong (exit code 2); any other
exception is a fault of ours (exit code 1).
"""

import difflib
import importlib
from collections.abc import Iterable
from types import ModuleType


class AssayError(Exception):
    """Base of every error that Assay raises on purpose."""

    exit_code = 1


class InputError(AssayError):
    """The user's input is wrong; the message says what was given, what was expected and what to do."""

    exit_code = 2


class DataError(InputError):
    """Examples that cannot be read or do not fit the task; names file and line, or the example's id."""


class ModelError(InputError):
    """A model that cannot be loaded, or does not fit the task or the method."""


class MethodError(InputError):
    """An unknown method, or a parameter or input that it cannot take."""


class NonFiniteError(InputError):
    """A loss or gradient that is NaN or infinite; names the example."""


class IndexMismatch(InputError):
    """An index built for another model, task, data or format version; says which."""


class CorruptIndex(InputError):
    """A shard or manifest whose content is not what was written; names the file."""


class StorageError(InputError):
    """Writing failed (disk full, no permission); what was complete before stays usable."""


class ServerError(InputError):
    """A server that cannot be reached, refuses, or answers what was not expected; says which."""


class MissingExtra(InputError):
    """An optional dependency that is not installed; names the extra that brings it."""


def require(module: str, extra: str) -> ModuleType:
    """Import `module`, or say which extra installs it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtra(
            f"This needs the package '{module}', which is not installed. Install it with: pip install 'assay[{extra}]'"
        ) from error


def nearest(name: str, known: Iterable[str]) -> str:
    """A sentence that offers the nearest known name, or lists them all."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"Did you mean '{close[0]}'?" if close else f"Known: {', '.join(known)}."
