"""`assay reasoning`: what taught a language model to reason, by example, token class, sentence role and difficulty."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import rich_click as click

from assay import evaluate
from assay.act.reweight import BY
from assay.cli.options import (
    DATA,
    DataOptions,
    ModelOptions,
    absolute,
    check_out,
    count,
    data_options,
    json_option,
    model_options,
    out_options,
    top_option,
    train_options,
)
from assay.cli.parameters import Choice, method_options
from assay.cli.render import remark, saved, tables_page, values_json, values_page
from assay.errors import DataError, MethodError
from assay.examples import Examples
from assay.explore import report
from assay.methods import Infra
from assay.models import Model

TAKEN = "What is taken apart"


@click.command()
@model_options
@train_options
@click.option(
    "--on", required=True, metavar="FILE", panel=DATA,
    help="Problems with their right answers that the model solves; with a field 'solved', those where it is true.",
)  # fmt: skip
@click.option(
    "--check", is_flag=True, panel=DATA, help="Let the model answer each of --on, and take those that it answers right."
)
@data_options
@click.option(
    "--rows", type=count, default=200, show_default=True, metavar="N", panel=TAKEN,
    help="Training examples, drawn at random, whose tokens are looked at.",
)  # fmt: skip
@click.option(
    "--difficulty", type=click.Choice(BY), default="auto", show_default=True, panel=TAKEN,
    help="Of a training example: its label, the length of its solution, or the label if all have numbers.",
)  # fmt: skip
@click.option(
    "--bins", type=click.IntRange(min=2), default=4, show_default=True, panel=TAKEN, help="Of difficulty, a domain."
)
@top_option
@out_options
@json_option
@method_options([Infra], "infra")
def reasoning(
    model: ModelOptions,
    train: str,
    limit: int | None,
    on: str,
    check: bool,
    data: DataOptions,
    method: Choice,
    rows: int,
    difficulty: str,
    bins: int,
    top: int,
    out: Path | None,
    with_report: bool,
    as_json: bool,
) -> None:
    """Attribute a model's reasoning to its training examples, and to their sentences and tokens.

    Domains are the 'source' of the rows, such as math and code. RUN is a run of values, for `assay reweight` and `assay report`.
    """
    chosen = method.method()
    model.check(chosen)
    check_out(out)
    examples, problems = data.read(train, limit), _marked(data, on)
    loaded = model.loaded()
    if check:
        problems = _answered(loaded, problems)
    found = evaluate.reasoning(loaded, examples, problems, chosen, rows=rows, difficulty=difficulty, bins=bins)  # pyright: ignore[reportArgumentType]
    origin = {"train": absolute(train), "limit": limit, "columns": data.columns()}
    values = found.values.with_evidence(origin=origin, **found.evidence())
    facts: dict[str, Any] = {}
    if out is not None:
        found = replace(found, values=values)
        found.save(out)
        page = report(values, out / "report.html", top=top) if with_report else None
        saved(out, page)
        facts = {"out": out, "report": page}
    if as_json:
        values_json(values, top, **facts)
        return
    values_page(values, top)
    tables_page({name: values.evidence[name] for name in found.evidence()})


def _marked(data: DataOptions, on: str) -> Examples:
    """The problems, of which those that are marked as not solved are left out."""
    try:
        marked = replace(data, label_field="solved").read(on)
    except DataError:
        return data.queries(on)
    wrong = sorted({str(label) for label in marked.labels if not isinstance(label, bool)})
    if wrong:
        raise DataError(f"{on}: the field 'solved' holds {wrong[0]}; expected true or false in every row.")
    rows = np.flatnonzero(list(marked.labels))
    if not len(rows):
        raise MethodError(
            f"None of the {len(marked)} problems in {on} is solved, and infra explains solved ones. Give others."
        )
    remark(f"{len(rows):,} of {len(marked):,} problems are marked as solved.")
    return data.queries(on).select(rows)


def _answered(model: Model, problems: Examples) -> Examples:
    """Those that the model solves. Raises MethodError for none."""
    rows = np.flatnonzero(evaluate.solved(model, problems))
    if not len(rows):
        raise MethodError(
            f"The model solves none of the {len(problems)} problems, and infra explains the likelihood of solved ones. Give easier "
            "ones, or a better model."
        )
    remark(f"The model solves {len(rows):,} of {len(problems):,} problems.")
    return problems.select(rows)
