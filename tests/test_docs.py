"""Every public name, command and method is documented, generated tables are current, links lead somewhere."""

import dataclasses
import functools
import importlib.util
import inspect
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
DOCS = REPOSITORY / "docs"


def load_generator() -> ModuleType:
    """docs/generate.py, which is a script and not part of a package."""
    spec = importlib.util.spec_from_file_location("docs_generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def methods() -> tuple[type[Any], ...]:
    """The registry."""
    from assay.methods import METHODS

    return METHODS


# Public names -----------------------------------------------------------------------------------------------


def own_docstring(value: object) -> str | None:
    """The docstring somebody wrote: not one inherited, nor the signature that `dataclass` puts there."""
    text = vars(value).get("__doc__") if inspect.isclass(value) else getattr(value, "__doc__", None)
    if inspect.isclass(value) and text and text.startswith(f"{value.__name__}("):
        return None
    return text


def named_in_docs(name: str, text: str) -> bool:
    """Whether `text` shows the name as code: `name`, `assay.name`, `name(...)`, or inside a listing."""
    return re.search(rf"assay\.{re.escape(name)}\b|`{re.escape(name)}\b", text) is not None


def test_public_names_are_documented() -> None:
    import assay

    names = [name for name in assay.__all__ if not name.startswith("__")]
    assert names
    reference = (DOCS / "api.md").read_text("utf-8")
    silent = [name for name in names if not own_docstring(getattr(assay, name))]
    missing = [name for name in names if not named_in_docs(name, reference)]
    assert not silent, f"without a docstring: {silent}"
    assert not missing, f"not in docs/api.md: {missing}"


def undocumented_members(cls: type[Any]) -> list[str]:
    """Public methods and properties of our own that have no docstring, not even a base class's."""
    ours = [c for c in cls.__mro__ if c.__module__.split(".")[0] == cls.__module__.split(".")[0]]
    names = {name for c in ours for name, value in vars(c).items() if inspect.isroutine(value) or is_property(value)}
    silent = {n for n in names if not any(getattr(vars(c).get(n), "__doc__", None) for c in cls.__mro__)}
    return sorted(n for n in silent if not n.startswith("_"))


def is_property(value: object) -> bool:
    """Whether a class attribute computes its value."""
    return isinstance(value, property | functools.cached_property)


def test_members_of_public_classes_are_documented() -> None:
    import assay

    classes = [c for name in assay.__all__ if inspect.isclass(c := getattr(assay, name))]
    silent = {c.__name__: members for c in classes if (members := undocumented_members(c))}
    assert not silent


def test_an_undocumented_member_is_noticed() -> None:
    class Base:
        def told(self) -> None:
            """What it does."""

    class Child(Base):
        def told(self) -> None: ...

        def silent(self) -> None: ...

        @property
        def size(self) -> int:
            return 1

    assert undocumented_members(Child) == ["silent", "size"]


def test_an_undocumented_dataclass_is_noticed() -> None:
    @dataclasses.dataclass
    class Silent:
        size: int = 1

    class Child(ModuleType): ...

    assert own_docstring(Silent) is None
    assert own_docstring(Child) is None
    assert not named_in_docs("read", "`reader` and assay.reader")
    assert named_in_docs("read", "call `read(path)`")


# Commands ---------------------------------------------------------------------------------------------------


def command_group() -> click.Group:
    """The group behind the console script."""
    import assay.cli

    found = [value for value in vars(assay.cli).values() if isinstance(value, click.Group)]
    assert found, "assay.cli holds no click group"
    return getattr(assay.cli, "main") if isinstance(assay.cli.main, click.Group) else found[0]  # noqa: B009


def commands(group: click.Group, above: str = "") -> Iterator[tuple[str, click.Command]]:
    """Every command with its full name, those of inner groups included."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if not command.hidden:
            yield f"{above}{name}", command
            if isinstance(command, click.Group):
                yield from commands(command, f"{above}{name} ")


def undocumented_options(command: click.Command, text: str, exempt: set[str]) -> list[str]:
    """Long options of `command` that `text` does not name; `exempt` holds the methods' own parameters."""
    options = [p for p in command.params if isinstance(p, click.Option) and not p.hidden and p.name not in exempt]
    return [f for o in options for f in o.opts if f.startswith("--") and not re.search(rf"{f}(?![\w-])", text)]


def test_commands_are_documented() -> None:
    text = (DOCS / "cli.md").read_text("utf-8")
    parameters = {field.name for method in methods() for field in dataclasses.fields(method)}
    found = dict(commands(command_group()))
    assert found
    for name, command in found.items():
        assert command.help, f"assay {name} has no help text"
        assert f"assay {name}" in text, f"`assay {name}` is not in docs/cli.md"
        missing = undocumented_options(command, text, parameters)
        assert not missing, f"docs/cli.md does not name {missing} of `assay {name}`"


# Methods ----------------------------------------------------------------------------------------------------


def test_methods_are_documented() -> None:
    generate = load_generator()
    for method in methods():
        assert own_docstring(method) or inspect.getmodule(method).__doc__, f"{method.name} has no docstring"
        unexplained = [f.name for f in dataclasses.fields(method) if f.init and not f.metadata.get("help")]
        assert not unexplained, f"{method.name}: no help text for {unexplained}"
        page = (DOCS / "methods" / f"{method.name}.md").read_text("utf-8")
        assert generate.parameter_table(method) in page, f"{method.name}: run `python docs/generate.py`"


def test_generated_pages_are_current() -> None:
    for page, text in load_generator().pages(methods()).items():
        assert page.read_text("utf-8") == text, f"{page.name} is out of date: run `python docs/generate.py`"


def test_method_pages_belong_to_methods() -> None:
    found = {page.stem for page in (DOCS / "methods").glob("*.md")} - {"README"}
    assert found == {method.name for method in methods()}


@dataclasses.dataclass(frozen=True)
class Sample:
    """A method as the registry holds it."""

    name = "sample"
    family = "gradient"
    unit = "arbitrary"
    summary = "what it does | in short"

    damping: float = dataclasses.field(default=0.1, metadata={"help": "Added to the spectrum."})
    mode: str = dataclasses.field(default="sum", metadata={"help": "How to fold.", "choices": ("sum", "mean")})


def test_a_stale_page_is_noticed_and_rewritten(tmp_path: Path) -> None:
    generate = load_generator()
    page, index = tmp_path / "sample.md", tmp_path / "README.md"
    page.write_text("# sample\n\n<!-- parameters -->\nold\n<!-- /parameters -->\nafter\n", "utf-8")
    index.write_text("<!-- methods -->\n<!-- /methods -->\n", "utf-8")
    wanted = generate.pages([Sample], tmp_path)
    assert wanted[page] == (
        "# sample\n\n<!-- parameters -->\n"
        "| parameter | default | meaning |\n| --- | --- | --- |\n"
        "| `damping` | `0.1` | Added to the spectrum. |\n"
        "| `mode` | `'sum'` | How to fold. One of `sum`, `mean`. |\n"
        "<!-- /parameters -->\nafter\n"
    )
    assert "| [`sample`](sample.md) | gradient | arbitrary | what it does \\| in short |" in wanted[index]
    page.write_text(wanted[page], "utf-8")
    assert generate.pages([Sample], tmp_path)[page] == page.read_text("utf-8")


@pytest.mark.parametrize("text", ["no block", "<!-- parameters -->", "<!-- /parameters --><!-- parameters -->"])
def test_a_page_without_its_block_is_refused(tmp_path: Path, text: str) -> None:
    page = tmp_path / "sample.md"
    page.write_text(text, "utf-8")
    with pytest.raises(SystemExit, match="parameters"):
        load_generator().replace_block(page, "parameters", "")


# Links ------------------------------------------------------------------------------------------------------


def documents() -> list[Path]:
    """Every Markdown file that a reader is sent to."""
    folders = [DOCS, REPOSITORY / "benchmarks", REPOSITORY / "examples"]
    return [*sorted(REPOSITORY.glob("*.md")), *(page for folder in folders for page in sorted(folder.rglob("*.md")))]


def prose(text: str) -> str:
    """The text without listings and inline code, whose brackets are not links."""
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^( *)(```+|~~~+).*?^ *\2", "", text, flags=re.M | re.S))


def anchors(text: str) -> set[str]:
    """The anchors that a Markdown renderer gives to the headings."""
    listings = re.sub(r"^( *)(```+|~~~+).*?^ *\2", "", text, flags=re.M | re.S)
    headings = re.findall(r"^#{1,6} +(.+?) *#*$", listings, flags=re.M)
    return {anchor(heading) for heading in headings} | set(re.findall(r'<a (?:id|name)="([^"]+)"', text))


def anchor(heading: str) -> str:
    """One heading's anchor: lower case, spaces to hyphens, punctuation dropped."""
    kept = [c for c in heading.lower() if c in " -_" or unicodedata.category(c)[0] in "LN"]
    return "".join(kept).replace(" ", "-")


def broken_links(page: Path) -> list[str]:
    """Relative links of a page that lead to no file or no heading."""
    found = []
    for target in re.findall(r"\]\(<?([^)\s>]+)>?[^)]*\)", prose(page.read_text("utf-8"))):
        if re.match(r"[a-z][a-z0-9+.-]*:", target):
            continue
        path, _, heading = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        known = (
            heading == "" or file.suffix != ".md" or not file.is_file() or heading in anchors(file.read_text("utf-8"))
        )
        if not file.exists() or not known:
            found.append(target)
    return found


def test_links_lead_somewhere() -> None:
    broken = {str(p.relative_to(REPOSITORY)): links for p in documents() if (links := broken_links(p))}
    assert not broken


def test_broken_links_are_noticed(tmp_path: Path) -> None:
    page = tmp_path / "a.md"
    page.write_text(
        "# One `code`, two\n"
        "[x](b.md) [y](#one-code-two) [z](a.md#three) ![p](c.png) [w](https://e.org) `[v](d.md)`\n"
        "```\n[u](e.md)\n```\n",
        "utf-8",
    )
    assert broken_links(page) == ["b.md", "a.md#three", "c.png"]
