"""`assay demo`: the whole flow on text that every Python interpreter carries."""

from pathlib import Path

import rich_click as click

from assay.cli.render import remark, scores_page
from assay.demo import run_demo


@click.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("assay-demo"),
    show_default=True,
    metavar="DIR",
    help="A new directory.",
)
@click.option(
    "--queries",
    type=click.IntRange(1, 60),
    default=24,
    show_default=True,
    metavar="N",
    help="Paragraphs held out and asked about.",
)
@click.option(
    "--show",
    type=click.IntRange(1),
    default=3,
    show_default=True,
    metavar="N",
    help="Queries printed; the report has all.",
)
def demo(out: Path, queries: int, show: int) -> None:
    """Train a small language model on Python's own reference, and ask which paragraphs taught it what.

    Takes about two minutes on two cores and needs no network. Then do the same on your own data.
    """
    made = run_demo(out, queries)
    scores_page(made.scores, 5, queries=show)
    remark(
        f"The report with all queries: {made.report} (open it in a browser). The same by the commands:\n"
        f"  assay attribute {made.model} --train {made.train} --queries {made.queries} --check 5 --out my-run\n"
        f'  assay query {made.index} --text "The with statement wraps the execution of a block."\n'
        "On your own data: give your model directory, and JSON lines with a field text (or prompt and completion)."
    )
