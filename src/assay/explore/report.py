"""The report of a run: one HTML file that opens from disk, fetches nothing and runs no script.

What is shown are texts of strangers. Every value is escaped by the template engine, every invisible character made
visible (`text.py`), nothing is trusted but markup made of escaped parts, and the page's content security policy
forbids scripts and the network besides. Texts, queries and sources beyond a limit are cut with a count, so that the
page stays of a size that a browser opens.
"""

import os
from functools import cache
from pathlib import Path
from typing import Any, cast

import jinja2
from markupsafe import Markup

from assay.errors import InputError
from assay.explore import format, grain
from assay.explore.text import plain, visible
from assay.explore.views import scores_page, values_page
from assay.ranking import check_k
from assay.run_directory import replacing
from assay.runs import load_run
from assay.scores import Scores
from assay.values import Values

NAME = 160  # characters shown of an id, a source or a note


def report(run: Scores | Values | str | os.PathLike[str], out: str | os.PathLike[str], *, top: int = 10) -> Path:
    """Write a result, or the run saved in a directory, as a page with the `top` examples of both ends.

    Returns the path of the page. The file is whole or not there.

    Raises:
        InputError: the run cannot be read, `top` is below 1, or `out` is a directory.
        StorageError: `out` cannot be written.
    """
    check_k(top)
    path = Path(out)
    if path.is_dir():
        raise InputError(f"The report cannot be written to {path}: it is a directory. Name a file, such as page.html.")
    result = run if isinstance(run, Scores | Values) else load_run(run)
    page = scores_page(result, top) if isinstance(result, Scores) else values_page(result, top)
    html = _environment().get_template("report.html").render(page=page)
    with replacing(path) as temporary:
        temporary.write_text(html, encoding="utf-8", newline="\n")
    return path


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("assay.explore"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_plain,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": format.number, "decimal": format.decimal, "short": _short}
    environment.globals.update(cast(Any, {"legend": grain.legend(), "levels": grain.levels_css()}))
    return environment


def _plain(value: Any) -> Any:
    """What every expression of the template passes: texts without invisible characters, to be escaped next."""
    return plain(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _short(name: str) -> Markup:
    """An id, a source or a note, cut if it is very long."""
    if len(name) <= NAME:
        return visible(name)
    return Markup("{}… <small>({:,} more characters)</small>").format(visible(name, 0, NAME), len(name) - NAME)
