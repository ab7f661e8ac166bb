"""Selection: which examples to keep within a budget, with a reason for each. One selector a file; `SELECTORS` lists them."""

from typing import Any

from assay.act.select.base import Selector, budget_of, select, share_of
from assay.act.select.hard import Hard
from assay.act.select.linear import Linear
from assay.act.select.softmax import Softmax
from assay.errors import MethodError, nearest

SELECTORS: tuple[type[Selector], ...] = (Hard, Softmax, Linear)


def find_selector(name: str, **parameters: Any) -> Selector:
    """A selector by name. Raises MethodError with the nearest name."""
    for kind in SELECTORS:
        if kind.name == name:
            return kind(**parameters)
    raise MethodError(f"There is no selector '{name}'. {nearest(name, (kind.name for kind in SELECTORS))}")


__all__ = ["SELECTORS", "Hard", "Linear", "Selector", "Softmax", "budget_of", "find_selector", "select", "share_of"]
