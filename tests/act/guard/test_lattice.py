"""Orders of labels: what is refused, joins and covers against brute force."""

import itertools
import json
from pathlib import Path

import pytest

from assay.act.guard.lattice import NOTHING, Lattice, Order, Powerset, parse_lattice
from assay.errors import InputError

DIAMOND = "low < a < high, low < b < high"


def brute_join(lattice: Order, one: str, other: str) -> list[str]:
    """All least upper bounds by definition."""
    labels = [*lattice.labels]
    above = [x for x in labels if lattice.at_most(one, x) and lattice.at_most(other, x)]
    return [x for x in above if all(lattice.at_most(x, y) for y in above)]


@pytest.mark.parametrize("text", ["public < internal < secret", DIAMOND, "a < c, b < c", "a < c < e, b < c, b < d < e"])
def test_joins_and_covers_are_those_of_the_definition(text: str) -> None:
    lattice = parse_lattice(text)
    assert isinstance(lattice, Order)
    for one, other in itertools.product(lattice.labels, repeat=2):
        assert [lattice.two(one, other)] == brute_join(lattice, one, other)
    for label in lattice.labels:
        below = [x for x in [*lattice.labels, lattice.bottom] if x != label and lattice.at_most(x, label)]
        covered = {x for x in below if not any(y not in (x, label) and lattice.at_most(x, y) for y in below)}
        assert set(lattice.lower(label)) == covered
        assert set(lattice.down(label)) == {label, *below}
    assert lattice.join([]) == lattice.bottom


def test_bottoms() -> None:
    assert parse_lattice("public < secret").bottom == "public"
    assert parse_lattice("a < c, b < c").bottom == NOTHING
    assert Powerset().bottom == frozenset()


def test_the_powerset() -> None:
    lattice = parse_lattice("powerset")
    a, b = lattice.parse("a", "x"), lattice.parse(["a", "b"], "x")
    assert lattice.at_most(a, b)
    assert lattice.join([a, lattice.parse("c", "x")]) == frozenset("ac")
    assert set(lattice.lower(b)) == {frozenset("a"), frozenset("b")}
    assert len(list(lattice.down(frozenset("abcd")))) == 16
    assert lattice.show(b) == "{a, b}"
    assert lattice.minimal([a, b, frozenset("b")]) == [a, frozenset("b")]


def test_what_is_no_lattice_is_refused_in_words(tmp_path: Path) -> None:
    def refused(text: str | Path) -> str:
        with pytest.raises(InputError) as caught:
            parse_lattice(text)
        return str(caught.value)

    assert "'c' and 'd' none is" in refused("a < c, a < d").replace('"', "'")
    told = refused("a < x, a < y, b < x, b < y, x < top, y < top")
    assert "no join-semilattice" in told
    assert "'a' and 'b'" in told
    assert "x, y, top" in told
    assert "'a' is below" in refused("a < b < c, c < a")
    assert "cannot be read" in refused("a < < b")
    assert "no file that can be read" in refused("nowhere.json")
    for content in ("{", "[]", '{"edges": [["a"]]}', '{"edges": []}', '{"powerset": [1]}'):
        (tmp_path / "l.json").write_text(content)
        assert "l.json" in refused(tmp_path / "l.json")
    (tmp_path / "l.json").write_text(json.dumps({"edges": [["public", "internal"], ["internal", "secret"]]}))
    lattice = parse_lattice(tmp_path / "l.json")
    assert lattice.lower("secret") == ("internal",)
    with pytest.raises(InputError, match=r"Document 3 has the label 'secrt'.*Did you mean 'secret'"):
        lattice.parse("secrt", "Document 3")
    (tmp_path / "l.json").write_text(json.dumps({"powerset": ["a", "b"]}))
    lattice = parse_lattice(tmp_path / "l.json")
    for wrong in ("c", 3, ["a", 3], None):
        with pytest.raises(InputError, match="Document 3 has the label"):
            lattice.parse(wrong, "Document 3")
    assert isinstance(lattice, Lattice)
