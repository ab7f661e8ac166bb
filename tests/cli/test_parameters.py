"""Hyper-parameters as options: everything in the registry, nothing beside it."""

from dataclasses import dataclass, fields
from typing import Any, Literal

import click
import pytest
from tests.cli.helpers import json_lines, run

from assay.cli import main
from assay.cli.parameters import Choice, NumberOrWord, kind_of, kinds_of, method_options, parameters
from assay.errors import MethodError
from assay.methods import BM25, METHODS, GradCos, Method, Random
from assay.methods.base import option


def options(name: str) -> dict[str, click.Option]:
    return {str(p.name): p for p in main.commands[name].params if isinstance(p, click.Option)}


def test_every_hyper_parameter_is_an_option_of_value() -> None:
    found = options("value")
    for kind in METHODS:
        for field in fields(kind):  # type: ignore[arg-type]
            assert field.metadata["help"] in str(found[field.name].help)
            assert f"--{field.name.replace('_', '-')}" in found[field.name].opts


def test_types_and_choices_come_from_the_field() -> None:
    found = options("attribute")
    assert found["newton"].is_flag
    assert found["newton"].secondary_opts == ["--no-newton"]
    assert found["k1"].type is click.FLOAT
    assert isinstance(found["damping"].type, NumberOrWord)  # a number for trak, also a word for ekfac
    assert found["damping"].type.convert("1e-3", None, None) == 1e-3
    assert found["damping"].type.convert("cv", None, None) == "cv"
    assert found["mix"].type is click.FLOAT
    assert found["seed"].type is click.INT
    assert isinstance(found["train_loss"].type, click.Choice)
    assert tuple(found["train_loss"].type.choices) == ("sum", "mean")
    assert str(found["compression"].help).endswith(
        "[none; sjlt:2048 for trak; eigen:64 for logra; factored:32 for trackstar; sjlt:8192 for less]"
    )


def test_help_groups_them_by_method() -> None:
    shown = run("attribute", "--help").stdout
    assert "Parameters of trak " in shown
    assert "Parameters of bm25, tfidf " in shown
    assert shown.count("--seed") == 1


@dataclass(frozen=True)
class Loud(Random):
    """A method with a parameter of every type."""

    level: int | None = option(None, "an optional number")
    kind: Literal["a", "b"] = option("a", "one of two", ("a", "b"))


@dataclass(frozen=True)
class Odd(Random):
    """A method with one that cannot be an option."""

    level: tuple[int, ...] = option((), "numbers")


@dataclass(frozen=True)
class Words(Random):
    """The same name, another type."""

    level: str = option("x", "a word")


def test_annotations() -> None:
    kinds = {field.name: kind_of(Loud, field) for field in fields(Loud)}
    assert kinds == {"seed": int, "level": int, "kind": str}
    (level,) = [field for field in fields(Odd) if field.name == "level"]
    with pytest.raises(TypeError, match=r"Odd\.level"):
        kind_of(Odd, level)


def test_equal_names_must_have_equal_types() -> None:
    with pytest.raises(TypeError, match="level"):
        method_options([Loud, Words], "random")(lambda **_: None)


def choice(name: str | None, **given: Any) -> Choice:
    return Choice(name, "gradcos", given, tuple(kinds_of(Method)))


def test_what_is_not_given_is_the_methods_own_default() -> None:
    assert choice("bm25").method() == BM25()
    assert choice(None, train_loss="mean").method() == GradCos(train_loss="mean")
    assert choice(None).method("random", {"seed": 4, "unknown": 1}) == Random(4)
    assert choice(None, seed=5).method("random", {"seed": 4}) == Random(5)


def test_a_parameter_of_other_methods_is_refused() -> None:
    with pytest.raises(MethodError, match=r"'bm25' has no --damping\. Methods that have it: trak"):
        choice("bm25", damping=1.0).method()
    with pytest.raises(MethodError, match="k1=-1"):
        choice("bm25", k1=-1.0).method()


def test_owners_are_collected_by_name() -> None:
    found = {parameter.name: parameter for parameter in parameters(METHODS)}
    assert found["query"].methods == ("bm25", "tfidf")
    assert found["train_loss"].flag == "--train-loss"
    assert "seed" not in {parameter.name for parameter in parameters(METHODS, without=("seed",))}


def test_methods_are_listed() -> None:
    lines = json_lines(run("methods", "--json"))
    assert [line["name"] for line in lines] == [kind.name for kind in METHODS]
    for line, kind in zip(lines, METHODS, strict=True):
        assert (line["family"], line["unit"], line["summary"]) == (kind.family, kind.unit, kind.summary)
        assert [p["name"] for p in line["parameters"]] == [f.name for f in fields(kind)]  # type: ignore[arg-type]
    trak = next(line for line in lines if line["name"] == "trak")
    newton = next(p for p in trak["parameters"] if p["name"] == "newton")
    assert (newton["type"], newton["default"], newton["choices"]) == ("bool", False, None)
    assert next(line for line in lines if line["name"] == "self-influence")["gives"] == "values"
    shown = " ".join(run("methods").stdout.split())
    for kind in METHODS:
        assert kind.summary in shown
        assert kind.paper in shown
    assert max(map(len, run("methods").stdout.splitlines())) <= 80
