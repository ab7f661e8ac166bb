"""`assay value`: what each training example is worth."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import rich_click as click

import assay
from assay.act.clean import neighbours
from assay.cli.offer import check_free, exported, offered
from assay.cli.options import (
    DATA,
    MODEL,
    OUTPUT,
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
from assay.evaluate import curves
from assay.examples import Examples
from assay.explore import report
from assay.methods import ALinFiK, Registered, ValueMethod
from assay.training.recipe_file import read_recipe


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
@click.option(
    "--recorded", multiple=True, type=click.Path(path_type=Path), metavar="DIR", panel=MODEL,
    help="A record that assay.Recorder made of a training run, for methods from training dynamics, in place of MODEL; several are "
    "several seeds.",
)  # fmt: skip
@click.option(
    "--recipe", type=click.Path(path_type=Path), metavar="FILE", panel=MODEL,
    help="Train MODEL first: a JSON object of the arguments of assay.Recipe, such as {\"lr\": 2e-5, \"epochs\": 3}.",
)  # fmt: skip
@click.option(
    "--curve", type=click.Path(file_okay=False, path_type=Path), metavar="DIR", panel=OUTPUT,
    help="Train --model again while the highest, the lowest and random rows are removed and added, on --on; the curves stand "
    "in the report, the retrainings in DIR.",
)  # fmt: skip
@click.option(
    "--export",
    type=click.Path(path_type=Path),
    metavar="DIR",
    panel=OUTPUT,
    help="With --method alinfik: save the scorer there, for somebody who values texts without the model and without showing them.",
)
@click.option(
    "--scorer",
    type=click.Path(path_type=Path),
    metavar="DIR",
    panel=DATA,
    help="Value the texts of --on with this scorer, without a model; --out is the offer that is handed over, without the texts.",
)
@click.option("--provider", metavar="NAME", panel=DATA, help="With --scorer: whose data they are; stands in the offer.")
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
    recorded: tuple[Path, ...],
    recipe: Path | None,
    method: Choice,
    curve: Path | None,
    export: Path | None,
    scorer: Path | None,
    provider: str | None,
    top: int,
    out: Path | None,
    with_report: bool,
    as_json: bool,
) -> None:
    """Give every training example a value; higher = worth more for the goal.

    The goal are the examples given with --on, or, for a method that needs none, each example itself.
    """
    if scorer is not None or provider is not None:
        given = (model.model, train, limit, estimator, curve, export, recipe, recorded or None)
        if any(entry is not None for entry in given) or method.said:
            raise InputError(
                "With --scorer nothing but --on, --provider, --out and --json is expected; leave the rest out."
            )
        return offered(scorer, data, on, provider, out, top, as_json)
    chosen, training = method.method(), None if recipe is None else read_recipe(recipe)
    if training is not None and training.model is not None and not model.given:
        model = replace(model, model=str(training.model))
    if export is not None:
        _check_export(chosen, export)
    if train is None and model.model is not None and Path(model.model).is_file():  # assay value data.csv --on ...
        train, model = model.model, replace(model, model=None)
    if train is None:
        taken = "" if model.model is None else f" ('{model.model}' is no file here, and was taken for a model)"
        raise InputError(f"No training data were given; name them with --train FILE, or as the first argument{taken}.")
    if recorded and (model.given or training is not None):
        raise InputError("--recorded stands in the place of MODEL and --recipe; give one of them.")
    if not recorded:
        model.check(chosen)
    if estimator is not None and chosen.family not in TRAINS and curve is None:
        raise MethodError(f"The method '{chosen.name}' does not train a model, and --model was given; leave it out.")
    if on is None and not isinstance(chosen, ValueMethod):
        raise MethodError(
            f"The method '{chosen.name}' values examples for others, and --on was not given. Name with --on the file "
            "of examples that should be predicted well, or choose self-influence."
        )
    check_out(out)
    examples, goal = data.read(train, limit), None if on is None else data.queries(on)
    named = estimator or getattr(chosen, "default_model", "linear")
    if curve is not None:
        _check_curve(chosen, examples, goal, out)
    if recorded:
        records = [assay.Record.load(place) for place in recorded]
        subject: Any = records if len(records) > 1 else records[0]
    elif training is not None:
        subject = training.recipe(model.loaded())
    else:
        subject = named if chosen.family in TRAINS else model.asked(chosen)
    facts: dict[str, Any] = {}
    if export is not None and isinstance(chosen, ALinFiK):
        distilled = chosen.distil(subject, examples, goal)
        values = distilled.values
        facts["scorer"] = exported(distilled.scorer, export)
    else:
        values = assay.value(subject, examples, goal, chosen)
    if curve is not None:
        values = values.with_evidence(curves=curves(values, named, examples, goal, curve, processes=1).evidence())
    if out is not None:
        origin = {"train": absolute(train), "limit": limit, "columns": data.columns()}
        near = neighbours(values, examples, top)
        values = values.with_evidence(origin=origin, **({"neighbours": near} if near else {}))
        values.save(out)
        page = report(values, out / "report.html", top=top) if with_report else None
        saved(out, page)
        facts |= {"out": out, "report": page}
    if as_json:
        values_json(values, top, **facts)
    else:
        values_page(values, top)


def _check_export(chosen: Registered, export: Path) -> None:
    """Whether --export can be followed, before anything is valued. Raises MethodError, InputError."""
    if not isinstance(chosen, ALinFiK):
        raise MethodError(
            f"--export saves the scorer of alinfik, and the method is '{chosen.name}'. Add --method alinfik."
        )
    check_free(export)


def _check_curve(chosen: Registered, examples: Examples, goal: Examples | None, out: Path | None) -> None:
    """Whether --curve can be followed, before anything is valued. Raises MethodError."""
    if goal is None or out is None:
        raise MethodError("--curve measures the loss on --on and shows it in the report of --out; give both.")
    if examples.kind not in ("arrays", "table"):
        raise MethodError(
            f"--curve trains an estimator on a table or arrays, and the data are of kind '{examples.kind}'. Use "
            "assay.evaluate.curves with a Recipe in Python."
        )
    if getattr(chosen, "by", "example") != "example":
        raise MethodError("--curve removes rows, and --by gives values to groups of them; leave one of the two out.")
