"""`assay plan`: what a command will cost, before it runs."""

from typing import Any, cast

import rich_click as click

from assay.cli.options import (
    DATA,
    OUTPUT,
    DataOptions,
    ModelOptions,
    data_options,
    json_option,
    limit_queries,
    model_options,
    out_options,
    store_option,
    top_option,
    train_options,
)
from assay.cli.parameters import Choice, kinds_of, method_options
from assay.cli.render import json_line, plan_page
from assay.errors import InputError
from assay.methods import Registered
from assay.runtime import plan as predict


@click.command()
@model_options
@train_options
@click.option("--queries", metavar="FILE", panel=DATA, help="Plan `assay attribute`; without it, `assay index`.")
@limit_queries
@data_options
@store_option
@top_option
@out_options
@click.option("--check", type=int, metavar="N", panel=OUTPUT, help="Accepted; its cost is not counted.")
@click.option("--tokens", type=int, metavar="N", panel=OUTPUT, help="Accepted; its cost is not counted.")
@click.option(
    "--append", type=click.Choice(["examples", "checkpoints"]), panel=OUTPUT, help="Accepted; --train counts."
)
@json_option
@method_options(kinds_of(Registered), "gradcos")
def plan(
    model: ModelOptions,
    train: str,
    limit: int | None,
    queries: str | None,
    limit_queries: int | None,
    data: DataOptions,
    store: str,
    method: Choice,
    as_json: bool,
    **ignored: Any,
) -> None:
    """Predict time, memory, disk and coverage of a command, without running the model.

    Takes the arguments of `assay attribute`, or without --queries of `assay index`; those that change no cost (--top,
    --out, --report) are accepted and ignored.
    """
    chosen = method.method()
    if method.given.get("compression") == "none" and queries is None:
        raise InputError("An index of uncompressed gradients is not planned; leave --compression out, or give queries.")
    model.check(chosen)
    examples, asked = data.read(train, limit), None if queries is None else data.read(queries, limit_queries)
    subject = model.server() if model.served else model.load()
    found = predict(subject, examples, asked, chosen, dtype=cast(Any, store))
    if as_json:
        json_line({"plan": found.to_dict()})
    else:
        plan_page(found)
