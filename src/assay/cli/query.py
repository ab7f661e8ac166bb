"""`assay query`: ask an index."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import rich_click as click

import assay
from assay.cli.attribute import finish, kept, noted
from assay.cli.options import (
    DATA,
    DataOptions,
    absolute,
    check_out,
    data_options,
    json_option,
    limit_queries,
    out_options,
    silence_libraries,
    top_option,
)
from assay.cli.parameters import Choice, kinds_of, method_options
from assay.errors import InputError
from assay.index.reader import open_index
from assay.methods.gradient.base import GradientMethod


@click.command()
@click.argument("index", metavar="INDEX")
@click.option("--queries", metavar="FILE", panel=DATA, help="What the model did: examples like the training ones.")
@click.option("--text", multiple=True, metavar="TEXT", panel=DATA, help="A query in so many words; may be repeated.")
@limit_queries
@data_options
@top_option
@out_options
@json_option
@method_options(kinds_of(GradientMethod), None, "that of the index", without=("compression", "seed", "on_nonfinite"))
def query(
    index: str,
    queries: str | None,
    text: tuple[str, ...],
    limit_queries: int | None,
    data: DataOptions,
    method: Choice,
    top: int,
    out: Path | None,
    with_report: bool,
    as_json: bool,
) -> None:
    """Score the examples of an index for queries, by the method it was built for or another one.

    The model is loaded from where it was when the index was built, and must be the same.
    """
    if (queries is None) == (not text):
        raise InputError('Give either --queries FILE or --text "...".')
    check_out(out)
    header = open_index(index).header
    asked = data.read(queries, limit_queries) if queries is not None else assay.read([*text], name="text")
    silence_libraries()
    opened = assay.open(index)
    scores = opened.attribute(asked, _chosen(method, header["origin"]), top=kept(top, len(opened), len(asked)))
    scores = noted(scores, {
        "model": header["origin"] if "model" in header["origin"] else None, "train": None, "limit": None,
        "queries": None if queries is None else absolute(queries), "limit_queries": limit_queries,
        "columns": asdict(data),
    })  # fmt: skip
    finish(scores, top, out, with_report, as_json)


def _chosen(method: Choice, origin: Mapping[str, Any]) -> str | GradientMethod | None:
    """The method with the hyper-parameters that were given; beside them, of the index's own, as it was built."""
    if not method.given:
        return method.name
    own = origin.get("method", "gradcos")
    settings = origin.get("parameters") if method.name in (None, own) else None
    return cast(GradientMethod, method.method(own, settings))
