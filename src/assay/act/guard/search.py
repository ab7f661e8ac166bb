"""The minimal labels whose documents suffice: given the documents with labels of at most L alone, no token of the output loses
more than lambda nats, and none that was the model's choice is so no longer.

    descent   from the join of all labels down through similar labels; a label with no similar one below it is found
              (Algorithm 1 of the paper, memoised): every label is scored once, of those that a chain of similar ones reaches
    exact     all labels below the join are scored, and the minimal similar ones found: also those behind a dissimilar one
    greedy    from the join down to the similar label with the smallest drop: one way down, a label for each source at every step

Similarity is not monotone along a chain, so that descent may stop above an exact minimum; never at a label that is not similar.
A larger lambda makes more labels similar, and each minimal label at a smaller one has a minimal label at or below it (descent
and exact).
"""

from collections.abc import Callable, Sequence

from assay.act.guard.lattice import Label, Lattice
from assay.errors import InputError

Similar = Callable[[Sequence[Label]], list[bool]]
"""Whether each of these labels is similar; several at once, so that they can be scored together."""


class TooMany(Exception):
    """More labels than allowed would be looked at."""


def descent(lattice: Lattice, top: Label, similar: Similar, most: int) -> list[Label]:
    """Raises TooMany."""
    found: dict[Label, tuple[Label, ...]] = {}
    seen = {top}

    def minimal(label: Label) -> tuple[Label, ...]:
        if label not in found:
            children = lattice.lower(label)
            seen.update(children)
            if len(seen) > most:
                raise TooMany
            kept = [child for child, yes in zip(children, similar(children), strict=True) if yes]
            below = dict.fromkeys(one for child in kept for one in minimal(child))
            found[label] = tuple(below) or (label,)
        return found[label]

    return lattice.minimal(minimal(top))


def greedy(lattice: Lattice, top: Label, similar: Similar, best: Callable[[Sequence[Label]], Label]) -> list[Label]:
    """`best` chooses among similar labels."""
    label = top
    while True:
        children = lattice.lower(label)
        kept = [child for child, yes in zip(children, similar(children), strict=True) if yes]
        if not kept:
            return [label]
        label = best(kept)


def exact(lattice: Lattice, top: Label, similar: Similar, most: int) -> list[Label]:
    """Raises InputError where the order has more labels than `most` below the join."""
    labels: list[Label] = []
    for label in lattice.down(top):
        labels.append(label)
        if len(labels) > most:
            raise InputError(
                f"There are more than {most:,} labels below {lattice.show(top)}; the exact search looks at all of them. Use "
                "search='descent', or allow more (visits)."
            )
    return lattice.minimal(label for label, yes in zip(labels, similar(labels), strict=True) if yes)
