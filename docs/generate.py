"""Writes what the registry knows into the documentation: each method's parameters, the table of methods.

    python docs/generate.py            rewrites the blocks in docs/methods/
    python docs/generate.py --check    writes nothing; names the pages that are out of date and exits 1

A block stands between `<!-- NAME -->` and `<!-- /NAME -->`; what is outside the blocks is written by hand.
"""

import dataclasses
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent / "methods"


def pages(methods: Iterable[type[Any]], folder: Path = FOLDER) -> dict[Path, str]:
    """What each page under `folder` should hold, as far as the registry decides."""
    methods = list(methods)
    wanted = {folder / f"{m.name}.md": ("parameters", parameter_table(m)) for m in methods}
    wanted[folder / "README.md"] = ("methods", method_table(methods))
    return {page: replace_block(page, *block) for page, block in wanted.items()}


def replace_block(page: Path, name: str, content: str) -> str:
    """The page's text with the block `name` replaced."""
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    if not page.exists():
        raise SystemExit(f"{page} does not exist; write it, with the lines {begin} and {end} where the table goes.")
    text = page.read_text("utf-8")
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise SystemExit(f"{page} needs the line {begin} and after it the line {end}, each once.")
    head, tail = text.split(begin)[0], text.split(end)[1]
    return f"{head}{begin}\n{content}\n{end}{tail}"


def parameter_table(method: type[Any]) -> str:
    """One row per hyper-parameter: name, default, choices, meaning."""
    rows = [parameter_row(field) for field in dataclasses.fields(method) if field.init]
    if not rows:
        return "No parameters."
    return table(("parameter", "default", "meaning"), rows)


def parameter_row(field: dataclasses.Field[Any]) -> tuple[str, str, str]:
    """Name, default and meaning of one hyper-parameter."""
    meaning = str(field.metadata.get("help", ""))
    choices = field.metadata.get("choices")
    if choices:
        meaning += f" One of {', '.join(f'`{choice}`' for choice in choices)}."
    return f"`{field.name}`", f"`{default(field)}`", meaning.strip()


def default(field: dataclasses.Field[Any]) -> str:
    """The default as one would write it in Python."""
    if field.default is not dataclasses.MISSING:
        return repr(field.default)
    if field.default_factory is not dataclasses.MISSING:
        return repr(field.default_factory())
    return "required"


def method_table(methods: Iterable[type[Any]]) -> str:
    """One row per registered method, in the registry's order."""
    rows = [(f"[`{m.name}`]({m.name}.md)", m.family, m.unit, m.summary) for m in methods]
    return table(("method", "family", "unit", "what it computes"), rows)


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    header = tuple(header)
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join("| " + " | ".join(cell(text) for text in line) + " |" for line in lines)


def cell(text: str) -> str:
    """Text that cannot end a table cell early."""
    return re.sub(r"\s+", " ", text).replace("|", "\\|")


def main() -> int:
    """Write, or with --check only compare."""
    from assay.methods import METHODS

    stale = {page: text for page, text in pages(METHODS).items() if page.read_text("utf-8") != text}
    for page, text in stale.items():
        if "--check" in sys.argv[1:]:
            print(f"{page} is out of date; run `python docs/generate.py`.", file=sys.stderr)
        else:
            page.write_text(text, "utf-8")
            print(f"wrote {page}")
    return 1 if stale and "--check" in sys.argv[1:] else 0


if __name__ == "__main__":
    sys.exit(main())
