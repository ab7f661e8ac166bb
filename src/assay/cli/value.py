"""`assay value`: what each training example is worth."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import rich_click as click

import assay
from assay.act.clean import neighbours
from assay.cli.options import (
    DATA,
    MODEL,
    TRAINS,
    DataOptions,
    ModelOptions,
    absolute,
    check_out,
    data_options,
    first_or_train_options,
    json_option,
    model_options,
    out_options,
    top_option,
)
from assay.cli.parameters import Choice, kinds_of, method_options
from assay.cli.render import saved, values_json, values_page
from assay.errors import InputError, MethodError
from assay.explore import report
from assay.methods import Registered, ValueMethod


@click.command()
@model_options
@click.option(
    "--model",
    "estimator",
    metavar="NAME",
    panel=MODEL,
    help="For methods that train again: logistic, ridge, knn, tree, forest, boosting or bayes, or an estimator as "
    "module:Class or 'module:Class(parameter=1)'; by default logistic, or ridge where the label is a number to "
    "regress; for data-oob a tree.",
)
@first_or_train_options
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
    train: str | None,
    limit: int | None,
    on: str | None,
    data: DataOptions,
    estimator: str | None,
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
    if train is None and model.model is not None and Path(model.model).is_file():  # assay value data.csv --on ...
        train, model = model.model, replace(model, model=None)
    if train is None:
        raise InputError("No training data were given; name them with --train FILE, or as the first argument.")
    model.check(chosen)
    if estimator is not None and chosen.family not in TRAINS:
        raise MethodError(f"The method '{chosen.name}' does not train a model, and --model was given; leave it out.")
    if on is None and not isinstance(chosen, ValueMethod):
        raise MethodError(
            f"The method '{chosen.name}' values examples for others, and --on was not given. Name with --on the file "
            "of examples that should be predicted well, or choose self-influence."
        )
    check_out(out)
    examples, goal = data.read(train, limit), None if on is None else data.queries(on)
    values = assay.value(
        (estimator or getattr(chosen, "default_model", "linear")) if chosen.family in TRAINS else model.asked(chosen),
        examples,
        goal,
        chosen,
    )
    facts: dict[str, Any] = {}
    if out is not None:
        origin = {"train": absolute(train), "limit": limit, "columns": data.columns()}
        near = neighbours(values, examples, top)
        values = values.with_evidence(origin=origin, **({"neighbours": near} if near else {}))
        values.save(out)
        page = report(values, out / "report.html", top=top) if with_report else None
        saved(out, page)
        facts = {"out": out, "report": page}
    if as_json:
        values_json(values, top, **facts)
    else:
        values_page(values, top)
