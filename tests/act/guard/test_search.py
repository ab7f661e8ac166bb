"""The searches against brute force over small lattices, with random likelihoods; and what must hold of any."""

import itertools
import random
from collections.abc import Callable, Sequence
from functools import partial

import pytest

from assay.act.guard.lattice import Label, Lattice, Powerset, parse_lattice
from assay.act.guard.search import TooMany, descent, exact, greedy
from assay.errors import InputError

LATTICES = [
    "powerset",
    "a < b < c < d",
    "low < a < high, low < b < high",
    "a < ab, b < ab, b < bc, c < bc, ab < t, bc < t",
]
Likelihood = Callable[[Label], float]


def all_labels(lattice: Lattice) -> list[Label]:
    if isinstance(lattice, Powerset):
        sources = "abcdef"
        return [frozenset(some) for n in range(7) for some in itertools.combinations(sources, n)]
    return [*lattice.labels, *([lattice.bottom] if lattice.bottom not in lattice.labels else [])]  # type: ignore[attr-defined]


def random_likelihood(lattice: Lattice, seed: int) -> Likelihood:
    """Not monotone: documents above may hurt."""
    draw = random.Random(seed)
    values = {label: draw.uniform(-1, 0) for label in sorted(all_labels(lattice), key=lattice.show)}
    return values.__getitem__


def similar(u: Likelihood, top: Label, lam: float, labels: Sequence[Label]) -> list[bool]:
    return [u(label) >= u(top) - lam for label in labels]


def brute(lattice: Lattice, top: Label, yes: Callable[[Label], bool], reachable: bool) -> set[Label]:
    """By definition: minimal among all similar labels, or among those at the end of a chain of similar ones."""
    everything = [label for label in all_labels(lattice) if lattice.at_most(label, top)]
    good = {label for label in everything if yes(label)} | {top}
    if reachable:
        reached, grown = {top}, True
        while grown:
            more = {
                low
                for low in good - reached
                for high in reached
                if low != high
                and lattice.at_most(low, high)
                and not any(
                    x not in (low, high) and lattice.at_most(low, x) and lattice.at_most(x, high) for x in everything
                )
            }
            reached, grown = reached | more, bool(more)
        good = reached
    return {label for label in good if not any(o != label and lattice.at_most(o, label) for o in good)}


@pytest.mark.parametrize("text", LATTICES)
@pytest.mark.parametrize("seed", range(8))
def test_descent_and_exact_find_what_brute_force_finds(text: str, seed: int) -> None:
    lattice = parse_lattice(text)
    u, labels = random_likelihood(lattice, seed), all_labels(lattice)
    top = next(label for label in labels if all(lattice.at_most(other, label) for other in labels))
    for lam in (0.0, 0.1, 0.4, 0.8, 1.0):
        ask = partial(similar, u, top, lam)

        def yes(label: Label, lam: float = lam) -> bool:
            return u(label) >= u(top) - lam

        assert set(exact(lattice, top, ask, 100)) == brute(lattice, top, yes, reachable=False)
        assert set(descent(lattice, top, ask, 100)) == brute(lattice, top, yes, reachable=True)
        (found,) = greedy(lattice, top, ask, lambda some: max(some, key=u))
        assert yes(found)


@pytest.mark.parametrize("text", LATTICES)
@pytest.mark.parametrize("search", [exact, descent])
def test_a_larger_lambda_goes_lower(text: str, search: Callable[..., list[Label]]) -> None:
    lattice = parse_lattice(text)
    labels = all_labels(lattice)
    top = next(label for label in labels if all(lattice.at_most(other, label) for other in labels))
    for seed in range(5):
        u = random_likelihood(lattice, seed)
        found = [search(lattice, top, partial(similar, u, top, lam / 10), 100) for lam in range(11)]
        for smaller, larger in itertools.pairwise(found):
            assert all(any(lattice.at_most(low, label) for low in larger) for label in smaller)


def test_each_label_is_asked_about_once_and_no_more_than_allowed() -> None:
    lattice, asked = Powerset(), []

    def ask(labels: Sequence[Label]) -> list[bool]:
        asked.extend(labels)
        return [True] * len(labels)

    assert descent(lattice, frozenset("abcd"), ask, 16) == [frozenset()]
    assert set(asked) == set(lattice.down(frozenset("abcd"))) - {frozenset("abcd")}
    with pytest.raises(TooMany):
        descent(lattice, frozenset("abcd"), ask, 15)
    with pytest.raises(InputError, match="more than 15 labels below"):
        exact(lattice, frozenset("abcd"), ask, 15)
