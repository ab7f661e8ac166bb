"""`assay evaluate lds`: runs against retrained truth."""

from collections.abc import Sequence
from pathlib import Path

import rich_click as click

from assay import explore
from assay.cli.options import OUTPUT, json_option
from assay.cli.render import comparison_page, json_line
from assay.cli.runs import Runs
from assay.evaluate import Truth, lds
from assay.run_directory import annotate


@click.command("lds")
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUN...")
@click.option(
    "--truth", required=True, type=click.Path(path_type=Path), metavar="DIR", panel=OUTPUT,
    help="What assay evaluate truth made.",
)  # fmt: skip
@json_option
def evaluate_lds(runs: Sequence[Path], truth: Path, as_json: bool) -> None:
    """The linear datamodeling score of runs: do their scores rank subsets as retraining on them does?

    It is added to each run and its report.
    """
    opened, stored = Runs.open(runs), Truth.open(truth)
    found = lds(opened.scores, stored)
    for name, place in opened.paths.items():
        ordered = {name: opened.scores[name], **{n: s for n, s in opened.scores.items() if n != name}}
        annotate(place, {"lds": lds(ordered, stored).evidence()})
        explore.report(place, place / "report.html")
    if as_json:
        for name, row in found.rows.items():
            json_line({"method": name, "run": opened.paths[name], "lds": row.mean, "low": row.low, "high": row.high})
        json_line({"lds": {"text": found.text, **found.facts}})
    else:
        comparison_page(found)
