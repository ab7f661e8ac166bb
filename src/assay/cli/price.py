"""`assay price`: rank offers and split a budget among them."""

from pathlib import Path
from typing import Any, cast

import rich_click as click

from assay.act.price import Checked, Offer, Split, check, load_offer, split
from assay.act.price.check import delivered
from assay.cli.options import DATA, MODEL, OUTPUT, DataOptions, ModelOptions, data_options, json_option
from assay.cli.render import ID, inline, json_line, page, plain_table, remark
from assay.errors import InputError
from assay.explore import format
from assay.methods.student.scorer_file import load_scorer
from assay.run_directory import replacing
from assay.training.recipe_file import read_recipe

CHECK = "Check by training again"


@click.command()
@click.argument("offers", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="OFFER...")
@click.option("--budget", required=True, type=float, metavar="AMOUNT", help="What is split, in any currency.")
@click.option(
    "--scorer",
    type=click.Path(path_type=Path),
    metavar="DIR",
    panel=DATA,
    help="Your scorer: offers made with another one are refused. --data needs it.",
)
@click.option(
    "--data",
    "files",
    multiple=True,
    metavar="FILE",
    panel=DATA,
    help="Data that were delivered, one file an offer, in any order: scored again, and refused if they are not what was offered.",
)
@click.option(
    "--check",
    "recipe",
    type=click.Path(path_type=Path),
    metavar="RECIPE",
    panel=CHECK,
    help="A recipe (JSON): train --model on coalitions of the delivered --data, measure the loss on --on, and compare.",
)
@click.option("--model", metavar="MODEL", panel=MODEL, help="Where training starts, unless the recipe says.")
@click.option("--max-length", type=click.IntRange(min=2), metavar="N", panel=MODEL, help="Longest example in tokens.")
@click.option("--on", metavar="FILE", panel=DATA, help="The examples that should be predicted well.")
@click.option(
    "--cache",
    type=click.Path(file_okay=False),
    metavar="DIR",
    panel=CHECK,
    help="Keeps every training; an interrupted check goes on from it.",
)
@data_options
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    panel=OUTPUT,
    help="Also write the table as CSV.",
)
@json_option
def price(
    offers: tuple[Path, ...],
    budget: float,
    scorer: Path | None,
    files: tuple[str, ...],
    recipe: Path | None,
    model: str | None,
    max_length: int | None,
    on: str | None,
    cache: str | None,
    data: DataOptions,
    out: Path | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Rank the offers of data providers by what their data are worth, and split a budget among them.

    An offer is what `assay value --scorer` wrote. Prices are Shapley values of the rows, cut off at 0.
    """
    if files and scorer is None:
        raise InputError("--data scores the delivered data again, which takes the scorer; name it with --scorer.")
    if recipe is not None and (not files or on is None):
        raise InputError(
            "--check trains on the data that were delivered and measures on targets; give --data and --on."
        )
    start = read_recipe(recipe) if recipe is not None else None
    found = [load_offer(place) for place in offers]
    ours, checksum = (None, None) if scorer is None else load_scorer(scorer)
    if checksum is not None and (other := [offer.provider for offer in found if offer.scorer != checksum]):
        raise InputError(
            f"The offer of {', '.join(other)} was not made with the scorer '{scorer}'; ask for one made with it."
        )
    result = split(found, budget)
    examples = [] if ours is None or not files else delivered(found, ours, [data.read(file) for file in files])
    checked = None
    if start is not None:
        base = ModelOptions(str(start.model) if start.model else model, max_length=max_length).loaded()
        checked = check(result, found, examples, start.recipe(base), data.queries(on), cache)
    if out is not None:
        with replacing(out) as temporary:
            result.frame.to_csv(temporary, index=False)
        remark(f"Wrote {out}.")
    (_json if as_json else _page)(result, checked, found)


def _json(found: Split, checked: Checked | None, offers: list[Offer]) -> None:
    for record in cast(list[dict[str, Any]], found.frame.astype(object).to_dict("records")):
        json_line(record)
    json_line({"split": {"budget": found.budget, "scorer": found.scorer, "notes": found.notes, "offers": len(offers)}})
    if checked is not None:
        rows = cast(list[dict[str, Any]], checked.frame.astype(object).to_dict("records"))
        json_line({"check": {"providers": rows, "agreement": checked.agreement, "notes": checked.notes}})


def _page(found: Split, checked: Checked | None, offers: list[Offer]) -> None:
    console, table = page(), plain_table()
    for column in ("provider", "rows", "paid", "mean", "total (95%)", "first", "price (95%)"):
        table.add_column(column, justify="left" if column == "provider" else "right")
    for row in cast(list[dict[str, Any]], found.frame.to_dict("records")):
        table.add_row(
            inline(row["provider"], ID),
            f"{row['rows']:,}",
            f"{row['counted']:,}",
            f"{row['mean']:+.3g}",
            f"{row['total']:+.4g} ({row['low']:+.3g} to {row['high']:+.3g})",
            format.percent(row["first"]),
            f"{row['price']:,.2f} ({row['price_low']:,.0f} to {row['price_high']:,.0f})",
        )
    console.print(table)
    for note in found.notes:
        console.print(inline(note, 1000))
    if checked is not None:
        _check_page(checked)


def _check_page(checked: Checked) -> None:
    console, table = page(), plain_table()
    for column in ("provider", "total", "price", "trained again (nats)", "price then"):
        table.add_column(column, justify="left" if column == "provider" else "right")
    for row in cast(list[dict[str, Any]], checked.frame.to_dict("records")):
        error = f" ± {row['stderr']:.2g}" if "stderr" in row else ""
        table.add_row(
            inline(row["provider"], ID), f"{row['total']:+.4g}", f"{row['price']:,.2f}", f"{row['retrained']:+.4g}{error}",
            f"{row['retrained_price']:,.2f}",
        )  # fmt: skip
    console.print()
    console.print(table)
    told = "" if checked.agreement != checked.agreement else f"Correlation of the two: {checked.agreement:.2f}. "
    console.print(inline(told + " ".join(checked.notes), 1000))
