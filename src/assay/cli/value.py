"""`assay value`: what each training example is worth."""

from pathlib import Path
from typing import Any

import rich_click as click

import assay
from assay.cli.options import (
    DATA,
    DataOptions,
    ModelOptions,
    check_out,
    data_options,
    json_option,
    model_options,
    out_options,
    top_option,
    train_options,
)
from assay.cli.parameters import Choice, kinds_of, method_options
from assay.cli.render import saved, values_json, values_page
from assay.errors import MethodError
from assay.explore import report
from assay.methods import Registered, ValueMethod


@click.command()
@model_options
@train_options
@click.option(
    "--on",
    metavar="FILE",
    panel=DATA,
    help="The examples that should be predicted well. Attribution methods need it; a value is then the mean score.",
)
@data_options
@top_option
@out_options
@json_option
@method_options(kinds_of(Registered), "self-influence")
def value(
    model: ModelOptions,
    train: str,
    limit: int | None,
    on: str | None,
    data: DataOptions,
    method: Choice,
    top: int,
    out: Path | None,
    with_report: bool,
    as_json: bool,
) -> None:
    """Give every training example a value; higher = worth more for the goal.

    The goal are the examples given with --on, or, for a method that needs none, each example itself.
    """
    chosen = method.method()
    model.check(chosen)
    if on is None and not isinstance(chosen, ValueMethod):
        raise MethodError(
            f"The method '{chosen.name}' values examples for others, and --on was not given. Name with --on the file "
            "of examples that should be predicted well, or choose self-influence."
        )
    check_out(out)
    examples, goal = data.read(train, limit), None if on is None else data.read(on)
    values = assay.value(model.load(), examples, goal, chosen)
    facts: dict[str, Any] = {}
    if out is not None:
        values.save(out)
        page = report(values, out / "report.html", top=top) if with_report else None
        saved(out, page)
        facts = {"out": out, "report": page}
    if as_json:
        values_json(values, top, **facts)
    else:
        values_page(values, top)
