"""Methods' hyper-parameters as options: made from the dataclass fields in `METHODS`, written down nowhere else."""

import functools
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, replace
from typing import Any, Literal, Union, cast, get_args, get_origin, get_type_hints

import rich_click as click

from assay.cli.options import Decorator, stacked
from assay.errors import MethodError
from assay.methods import METHODS, Registered, find


@dataclass(frozen=True)
class Parameter:
    """One hyper-parameter by name, and the methods that have it."""

    name: str
    owners: tuple[tuple[type[Registered], Field[Any]], ...]

    @property
    def methods(self) -> tuple[str, ...]:
        """Names of the methods that have it."""
        return tuple(kind.name for kind, _ in self.owners)

    @property
    def flag(self) -> str:
        """As on the command line."""
        return "--" + self.name.replace("_", "-")


def parameters(kinds: Sequence[type[Registered]], without: Sequence[str] = ()) -> list[Parameter]:
    """All hyper-parameters of these methods; equal names are one."""
    owners: dict[str, list[tuple[type[Registered], Field[Any]]]] = {}
    for kind in kinds:
        for field in fields(cast(Any, kind)):
            if field.name not in without:
                owners.setdefault(field.name, []).append((kind, field))
    return [Parameter(name, tuple(known)) for name, known in owners.items()]


def kinds_of(*families: type[Registered]) -> list[type[Registered]]:
    """The registered methods that are one of these."""
    return [kind for kind in METHODS if issubclass(kind, families)]


def method_options(
    kinds: Sequence[type[Registered]], default: str | None, told: str | None = None, without: Sequence[str] = ()
) -> Decorator[Any]:
    """`--method` and every hyper-parameter of `kinds`; the command receives `method`, a `Choice`.

    `told` says what the default is, where that is not just `default`.
    """
    known = parameters(kinds, without)
    names = ", ".join(kind.name for kind in kinds)
    named = click.option(
        "--method", "-m", metavar="NAME", panel="Method", help=f"One of: {names}. [default: {told or default}]"
    )

    def decorate(command: Callable[..., Any]) -> Any:
        @functools.wraps(command)
        def collecting(method: str | None, **given: Any) -> Any:
            values = {parameter.name: given.pop(parameter.name) for parameter in known}
            chosen = {name: value for name, value in values.items() if value is not None}
            return command(method=Choice(method, default, chosen, tuple(kinds)), **given)

        return stacked([named, *map(option_of, known)])(collecting)

    return decorate


@dataclass(frozen=True)
class Choice:
    """What the user said of the method: its name and some hyper-parameters."""

    name: str | None
    default: str | None
    given: Mapping[str, Any]
    kinds: tuple[type[Registered], ...]

    @property
    def said(self) -> bool:
        """Whether the user said anything."""
        return self.name is not None or bool(self.given)

    def method(self, default: str | None = None, settings: Mapping[str, Any] | None = None) -> Registered:
        """The method with its hyper-parameters, those of `settings` first.

        Raises MethodError for an unknown method, one that the command cannot use, or a hyper-parameter of others.
        """
        chosen = find(cast(str, self.name or default or self.default))
        if not isinstance(chosen, self.kinds):
            names = ", ".join(kind.name for kind in self.kinds)
            raise MethodError(f"This command cannot use the method '{chosen.name}'. It can use: {names}.")
        own = {field.name for field in fields(cast(Any, chosen))}
        for parameter in parameters(self.kinds):
            if parameter.name in self.given and parameter.name not in own:
                names = ", ".join(parameter.methods)
                raise MethodError(f"The method '{chosen.name}' has no {parameter.flag}. Methods that have it: {names}.")
        kept = {name: value for name, value in (settings or {}).items() if name in own}
        return replace(cast(Any, chosen), **{**kept, **self.given})


class NumberOrWord(click.ParamType):  # pyright: ignore[reportMissingTypeArgument] - generic since click 8.4
    """A number where it reads as one, otherwise the word, which the method knows or refuses."""

    name = "number or word"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | str:
        """Never fails."""
        try:
            return float(value)
        except ValueError:
            return str(value)


# -- one option --------------------------------------------------------------------------------------------------------


def option_of(parameter: Parameter) -> Callable[[Any], Any]:
    """The option of a hyper-parameter; not given, it leaves the method's own default."""
    type_ = kind_of(*parameter.owners[0])
    kinds = {kind_of(kind, field) for kind, field in parameter.owners}
    if kinds == {float, NumberOrWord}:
        type_ = NumberOrWord  # a method that takes a number only refuses a word itself
    elif len(kinds) > 1:
        raise TypeError(f"{', '.join(parameter.methods)} disagree on the type of {parameter.name}.")
    choices = {field.metadata.get("choices") for _, field in parameter.owners}
    (only,) = choices if len(choices) == 1 else (None,)
    names = [f"{parameter.flag}/--no-{parameter.flag[2:]}" if type_ is bool else parameter.flag, parameter.name]
    chosen = click.Choice(only) if only and type_ is str else type_() if type_ is NumberOrWord else type_
    return click.option(
        *names, default=None, type=chosen, help=_help(parameter),
        panel=f"Parameters of {', '.join(parameter.methods)}",
    )  # fmt: skip


SIMPLE = (int, float, str, bool)


def kind_of(kind: type[Registered], field: Field[Any]) -> type:
    """int, float, str, bool or NumberOrWord, from the annotation; None is "not given", and objects are for Python only."""
    annotation: Any = get_type_hints(kind)[field.name]
    if get_origin(annotation) in (Union, types.UnionType):
        known: list[Any] = [part for part in get_args(annotation) if part in SIMPLE]
        if set(known) == {float, str}:
            return NumberOrWord
        annotation = known[0] if len(known) == 1 else annotation
    if get_origin(annotation) is Literal:
        annotation = cast(Any, type(get_args(annotation)[0]))
    if annotation not in SIMPLE:
        raise TypeError(f"{kind.__name__}.{field.name}: {annotation} cannot be an option; use int, float, str or bool.")
    return annotation


def default_of(field: Field[Any]) -> Any:
    """The default value."""
    return field.default_factory() if field.default_factory is not MISSING else field.default


def _help(parameter: Parameter) -> str:
    """The field's own text and default; where methods differ, each one's."""
    texts = _grouped((kind.name, field.metadata["help"]) for kind, field in parameter.owners)
    defaults = _grouped((kind.name, _shown(default_of(field))) for kind, field in parameter.owners)
    text = next(iter(texts)) if len(texts) == 1 else "; ".join(f"{names}: {text}" for text, names in texts.items())
    common, *others = defaults
    return f"{text} [{'; '.join([common, *(f'{other} for {defaults[other]}' for other in others)])}]"


def _grouped(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Each text with the names of the methods that have it, the most frequent first."""
    found: dict[str, list[str]] = {}
    for name, text in pairs:
        found.setdefault(text, []).append(name)
    return {text: ", ".join(names) for text, names in sorted(found.items(), key=lambda entry: -len(entry[1]))}


def _shown(default: Any) -> str:
    if isinstance(default, bool):
        return "on" if default else "off"
    return "not set" if default is None else str(default)
