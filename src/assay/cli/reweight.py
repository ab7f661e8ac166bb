"""`assay reweight`: how often to train on each example next time; from a run of values."""

from pathlib import Path
from typing import Any

import rich_click as click

from assay import Values
from assay.act.reweight import BY, Flip, flip, grade, read_weights, write_weights
from assay.cli.clean import data_of
from assay.cli.options import DATA, OUTPUT, json_option
from assay.cli.render import inline, json_line, page, plain_table, remark

HOW = "Weights"


@click.command()
@click.argument("run", type=click.Path(path_type=Path), metavar="RUN")
@click.option(
    "--with", "action", type=click.Choice(["flip"]), default="flip", show_default=True, panel=HOW,
    help="flip: reverse the counts of the bins of difficulty, in each domain where the values say that this helps.",
)  # fmt: skip
@click.option(
    "--difficulty", type=click.Choice(BY), default="auto", show_default=True, panel=HOW,
    help="Of a training example: its label, the length of its solution, or the label if all have numbers.",
)  # fmt: skip
@click.option(
    "--bins", type=click.IntRange(min=2), default=4, show_default=True, panel=HOW, help="Of difficulty, a domain."
)
@click.option("--all", "everywhere", is_flag=True, panel=HOW, help="Flip every domain, whatever the values say.")
@click.option(
    "--weights", type=click.Path(path_type=Path), metavar="FILE", panel=DATA,
    help="Weights that hold now, as this command wrote them; by default 1 each.",
)  # fmt: skip
@click.option(
    "--train", metavar="FILE", panel=DATA, help="The training data, if they are no longer where the run has them from."
)
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="FILE", panel=OUTPUT,
    help="A new file with a line for each example: its id and how often to draw it on average.",
)  # fmt: skip
@json_option
def reweight(
    run: Path,
    action: str,
    difficulty: str,
    bins: int,
    everywhere: bool,
    weights: Path | None,
    train: str | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Turn the values of a run into sampling weights for the next training.

    RUN comes from `assay reasoning` or `assay value`. Domains are the 'source' of the rows. Without --out it only shows what would change.
    """
    values = Values.load(run)
    _, examples = data_of(values, run, train)
    graded = grade(examples, bins, difficulty)
    now = None if weights is None else read_weights(weights, examples.ids)
    found = flip(graded, None if everywhere else values.array, now)
    if out is not None:
        write_weights(examples.ids, found.weights, out)
        remark(f"Wrote the weights of {len(examples):,} examples to {out}.")
    facts: dict[str, Any] = {"run": str(run), "with": action, "difficulty": graded.by, "flipped": list(found.flipped)}
    if as_json:
        for row in found.rows:
            json_line(row)
        json_line({**facts, "out": out})
        return
    _show(found, graded.by)


def _show(found: Flip, by: str) -> None:
    console, table = page(), plain_table()
    for column in ("domain", f"difficulty ({by})", "examples", "weight before", "after", "mean value"):
        table.add_column(column, justify="left" if column == "domain" else "right")
    for row in found.rows:
        span = f"{row['from']:g}" if row["from"] == row["to"] else f"{row['from']:g} to {row['to']:g}"
        mean = "" if row["mean"] is None else f"{row['mean']:+.3g}"
        cells = (str(row["domain"]), span, str(row["examples"]), f"{row['before']:g}", f"{row['after']:g}", mean)
        table.add_row(*(inline(cell) for cell in cells))
    console.print(table)
    told = ", ".join(found.flipped) or "none: the values speak for the counts as they are"
    console.print(inline(f"Flipped: {told}.", 400))
