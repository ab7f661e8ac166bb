"""`assay evaluate truth`: models retrained on subsets, kept in a directory."""

from pathlib import Path

import rich_click as click

from assay.cli.options import (
    DATA,
    MODEL,
    OUTPUT,
    DataOptions,
    ModelOptions,
    count,
    data_options,
    json_option,
    limit_queries,
    model_options,
    train_options,
)
from assay.cli.render import json_line, page
from assay.cli.runs import processes_option
from assay.evaluate import truth
from assay.training.recipe_file import read_recipe

TRUTH = "Subsets"


@click.command("truth")
@model_options
@train_options
@click.option("--queries", required=True, metavar="FILE", panel=DATA, help="Whose losses are measured.")
@limit_queries
@data_options
@click.option(
    "--recipe", required=True, type=click.Path(path_type=Path), metavar="FILE", panel=MODEL,
    help="How MODEL is trained, as JSON: optimizer, lr, epochs, batch_size and so on.",
)  # fmt: skip
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), metavar="DIR", panel=OUTPUT,
    help="The directory; what is there is not trained again.",
)  # fmt: skip
@click.option("--subsets", type=count, default=100, show_default=True, metavar="N", panel=TRUTH, help="How many.")
@click.option(
    "--fraction", type=click.FloatRange(0, 1, min_open=True, max_open=True), default=0.5, show_default=True, panel=TRUTH,
    help="Of the examples in each.",
)  # fmt: skip
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, panel=TRUTH, help="Of the draw.")
@click.option(
    "--seeds", type=count, default=1, show_default=True, metavar="N", panel=TRUTH,
    help="Trainings of each subset; two or more measure the noise.",
)  # fmt: skip
@click.option("--rebatch", is_flag=True, panel=TRUTH, help="Make new batches of each subset.")
@processes_option
@json_option
def evaluate_truth(
    model: ModelOptions,
    train: str,
    limit: int | None,
    queries: str,
    limit_queries: int | None,
    data: DataOptions,
    recipe: Path,
    out: Path,
    subsets: int,
    fraction: float,
    seed: int,
    seeds: int,
    rebatch: bool,
    processes: int,
    as_json: bool,
) -> None:
    """Train MODEL on random subsets of the examples, and measure the queries' losses.

    MODEL is the initialisation. A run that was interrupted goes on when the same command is given again; more subsets and
    seeds are added to what is there.
    """
    described = read_recipe(recipe)
    examples, asked = data.read(train, limit), data.read(queries, limit_queries)
    made = described.recipe(model.loaded())
    found = truth(made, examples, asked, out, subsets, fraction, seed, seeds, processes, rebatch)
    if as_json:
        json_line({"truth": {"out": out, "family": found.family, "subsets": len(found), "seeds": found.seeds,
                             "queries": len(found.query_ids), "full": found.full.tolist()}})  # fmt: skip
    else:
        page().print(
            f"{out}: {len(found)} subsets ({found.family}), {found.seeds} seeds each, losses of {len(found.query_ids)} "
            f"queries; with all examples their mean loss is {found.full.mean():.3f} nats"
        )
