"""Orders of labels: what may flow where. `join` is the label of data made of several; a label below may flow wherever one
above it may.

    "powerset"                       labels are sets of sources; the join is the union
    "public < internal < secret"     a chain, or several (`a < c, b < c`): an order given by its steps
    file.json                        {"edges": [["low", "high"], ...]} or {"powerset": ["source", ...]}

An order must be a join-semilattice: every two labels have one least upper bound. Without a label below all others there is
one more, NOTHING, for what was made of no document.
"""

import itertools
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any, TypeAlias, cast

from assay.errors import InputError, nearest

Label: TypeAlias = Hashable
NOTHING = "(nothing)"


class Lattice(ABC):
    """A join-semilattice with a label below all others."""

    @property
    @abstractmethod
    def bottom(self) -> Label:
        """The join of no label."""

    @abstractmethod
    def parse(self, given: Any, where: str) -> Label:
        """A document's label as its file has it. Raises InputError for one that the order does not have."""

    @abstractmethod
    def at_most(self, one: Label, other: Label) -> bool:
        """Whether `one` is `other` or below."""

    @abstractmethod
    def two(self, one: Label, other: Label) -> Label:
        """The least label that is at least both."""

    @abstractmethod
    def lower(self, label: Label) -> tuple[Label, ...]:
        """The labels directly below."""

    @abstractmethod
    def show(self, label: Label) -> str:
        """In words."""

    def join(self, labels: Iterable[Label]) -> Label:
        """The least label that is at least all of them."""
        return reduce(self.two, labels, self.bottom)

    def down(self, label: Label) -> Iterator[Label]:
        """The label and all below it, each once, those directly below first."""
        seen, layer = {label}, [label]
        while layer:
            yield from layer
            found = dict.fromkeys(below for one in layer for below in self.lower(one))
            layer = [one for one in found if one not in seen]
            seen.update(layer)

    def minimal(self, labels: Iterable[Label]) -> list[Label]:
        """Those with none of the others below."""
        kept = list(dict.fromkeys(labels))
        return [one for one in kept if not any(other != one and self.at_most(other, one) for other in kept)]


class Powerset(Lattice):
    """Sets of sources. `sources`: those that there are; None: any."""

    def __init__(self, sources: Iterable[str] | None = None) -> None:
        self.sources = None if sources is None else frozenset(sources)

    @property
    def bottom(self) -> Label:
        """The empty set."""
        return frozenset[str]()

    def parse(self, given: Any, where: str) -> Label:
        """A source, or a list of them."""
        names = [given] if isinstance(given, str) else given
        if not isinstance(names, list) or not all(isinstance(name, str) for name in cast(list[Any], names)):
            raise InputError(f"{where} has the label {given!r}; expected a source, or a list of sources.")
        for name in cast(list[str], names):
            if self.sources is not None and name not in self.sources:
                raise InputError(
                    f"{where} has the label '{name}', which the lattice does not have. {nearest(name, self.sources)}"
                )
        return frozenset(cast(list[str], names))

    def at_most(self, one: Label, other: Label) -> bool:
        """Subset."""
        return cast(frozenset[str], one) <= cast(frozenset[str], other)

    def two(self, one: Label, other: Label) -> Label:
        """Union."""
        return cast(frozenset[str], one) | cast(frozenset[str], other)

    def lower(self, label: Label) -> tuple[Label, ...]:
        """Without one of the sources."""
        names = cast(frozenset[str], label)
        return tuple(names - {name} for name in sorted(names))

    def show(self, label: Label) -> str:
        """`{a, b}`."""
        return f"{{{', '.join(sorted(cast(frozenset[str], label)))}}}"


class Order(Lattice):
    """A finite order given by its steps (low, high). Raises InputError if it is no join-semilattice."""

    def __init__(self, edges: Iterable[tuple[str, str]], given: str = "The lattice") -> None:
        steps = list(edges)
        self.labels = tuple(dict.fromkeys(label for step in steps for label in step))
        above = {label: {label} for label in self.labels}
        for _ in self.labels:  # longer and longer ways up
            for low, high in steps:
                above[low] |= above[high]
        self._check_acyclic(above, given)
        least = [label for label in self.labels if all(label in _below(above, other) for other in self.labels)]
        self._bottom = least[0] if least else NOTHING
        if not least:
            above[NOTHING] = {NOTHING, *self.labels}
        self._above = above
        self._joins = {pair: self._least(*pair, given) for pair in itertools.combinations(above, 2)}

    @property
    def bottom(self) -> Label:
        """The label below all others, or NOTHING."""
        return self._bottom

    def parse(self, given: Any, where: str) -> Label:
        """One of the labels."""
        if not isinstance(given, str) or given not in self.labels:
            raise InputError(
                f"{where} has the label {given!r}, which the lattice does not have. {nearest(str(given), self.labels)}"
            )
        return given

    def at_most(self, one: Label, other: Label) -> bool:
        """Whether a way leads up from one to the other."""
        return other in self._above[cast(str, one)]

    def two(self, one: Label, other: Label) -> Label:
        """The least of the labels above both."""
        if one == other:
            return one
        low, high = cast(str, one), cast(str, other)
        return self._joins.get((low, high)) or self._joins[high, low]

    def lower(self, label: Label) -> tuple[Label, ...]:
        """Those below with none between."""
        below = [one for one in self._above if one != label and self.at_most(one, label)]
        between = {one for one in below for other in below if one != other and self.at_most(one, other)}
        return tuple(one for one in below if one not in between)

    def show(self, label: Label) -> str:
        """As it is."""
        return str(label)

    def _least(self, one: str, other: str, given: str) -> str:
        both = [label for label in self._above if label in self._above[one] and label in self._above[other]]
        least = [label for label in both if all(high in self._above[label] for high in both)]
        if not least:
            found = f"{', '.join(both)} are, and none of them is the least" if both else "none is"
            raise InputError(
                f"{given} is no join-semilattice: of the labels above both '{one}' and '{other}' {found}. Add one label that "
                "is directly above both."
            )
        return least[0]

    @staticmethod
    def _check_acyclic(above: Mapping[str, set[str]], given: str) -> None:
        for one, other in itertools.combinations(above, 2):
            if other in above[one] and one in above[other]:
                raise InputError(
                    f"{given} is no order: '{one}' is below '{other}' and above it. Remove one of the steps."
                )


def _below(above: Mapping[str, set[str]], label: str) -> set[str]:
    """The labels that are `label` or below."""
    return {low for low, highs in above.items() if label in highs}


def parse_lattice(given: str | os.PathLike[str] | Lattice) -> Lattice:
    """From "powerset", steps such as "public < secret", or a JSON file. Raises InputError."""
    if isinstance(given, Lattice):
        return given
    text = os.fspath(given)
    if text == "powerset":
        return Powerset()
    if "<" in text:
        chains = [[label.strip() for label in chain.split("<")] for chain in text.split(",")]
        if all(label for chain in chains for label in chain) and all(len(chain) > 1 for chain in chains):
            return Order((step for chain in chains for step in itertools.pairwise(chain)), f"The lattice '{text}'")
        raise InputError(f"The lattice '{text}' cannot be read; expected steps such as 'public < internal < secret'.")
    return _from_file(Path(text))


def _from_file(path: Path) -> Lattice:
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"The lattice '{path}' is no file that can be read ({error.strerror}); expected powerset, steps such as "
            "'public < secret', or a JSON file."
        ) from error
    except ValueError as error:
        raise InputError(f"The lattice {path} is no JSON: {error}.") from error
    found: dict[str, Any] = cast(dict[str, Any], content) if isinstance(content, dict) else {}
    sources, edges = found.get("powerset"), found.get("edges")
    if isinstance(sources, list) and _texts(cast(list[Any], sources)):
        return Powerset(cast(list[str], sources))
    if isinstance(edges, list) and edges and all(_is_step(step) for step in cast(list[Any], edges)):
        return Order([(low, high) for low, high in cast(list[Any], edges)], f"The lattice {path}")
    raise InputError(
        f'The lattice {path} holds neither {{"edges": [["low", "high"], ...]}} nor {{"powerset": ["source", ...]}}; expected one.'
    )


def _is_step(step: Any) -> bool:
    return isinstance(step, list) and len(cast(Sequence[Any], step)) == 2 and _texts(cast(Sequence[Any], step))


def _texts(values: Sequence[Any]) -> bool:
    return all(isinstance(value, str) and value for value in values)
