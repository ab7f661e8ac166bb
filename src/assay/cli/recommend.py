"""`assay recommend`: the method to use on this model and data, with the evidence."""

from pathlib import Path

import rich_click as click

from assay.cli.options import (
    DATA,
    MODEL,
    OUTPUT,
    DataOptions,
    ModelOptions,
    data_options,
    json_option,
    limit_queries,
    model_options,
    train_options,
)
from assay.cli.render import inline, json_line, page, trust_page
from assay.evaluate import recommend as find_method
from assay.explore import format
from assay.training.recipe_file import read_recipe


@click.command()
@model_options
@train_options
@click.option("--queries", required=True, metavar="FILE", panel=DATA, help="Examples of what will be asked.")
@limit_queries
@data_options
@click.option(
    "--minutes", type=click.FloatRange(min=0, min_open=True), default=5.0, show_default=True, panel=OUTPUT,
    help="Time that all of it may take.",
)  # fmt: skip
@click.option(
    "--recipe", type=click.Path(path_type=Path), metavar="FILE", panel=MODEL,
    help="How the model was trained, as JSON: also retrains on subsets of the sample.",
)  # fmt: skip
@json_option
def recommend(
    model: ModelOptions,
    train: str,
    limit: int | None,
    queries: str,
    limit_queries: int | None,
    data: DataOptions,
    minutes: float,
    recipe: Path | None,
    as_json: bool,
) -> None:
    """Name the attribution method to use: tries those that are affordable on a sample, and checks them.

    Prints what each took and would take on all the data, how it fared, and the method to use.
    """
    described = None if recipe is None else read_recipe(recipe)
    examples, asked = data.read(train, limit), data.read(queries, limit_queries)
    loaded = model.loaded()
    start = None
    if described is not None:
        from assay import load

        start = described.recipe(loaded if described.model is None else load(described.model))
    found = find_method(loaded, examples, asked, minutes, recipe=start)
    if as_json:
        for row in found.trust.rows():
            name = row["method"]
            json_line({**row, "seconds": found.seconds[name], "whole": found.whole[name]})
        json_line({"recommendation": {"method": found.method, "text": found.text, "left_out": found.left_out,
                                      "notes": found.trust.notes}})  # fmt: skip
        return
    trust_page(found.trust, {})
    console = page()
    for name, seconds in found.whole.items():
        console.print(f"{name}: {format.seconds(seconds)} on all the data, by prediction")
    for name, why in found.left_out.items():
        console.print(inline(f"Not tried: {name} ({why})", 400))
    console.print(inline(found.text, 2000), style="bold")
