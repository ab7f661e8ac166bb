"""`assay report`: a run as one page that opens in any browser, without a network."""

from pathlib import Path

import rich_click as click

from assay import explore
from assay.cli.options import OUTPUT, count
from assay.cli.render import remark


@click.command()
@click.argument("run", type=click.Path(path_type=Path), metavar="RUN")
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="PAGE", panel=OUTPUT, help="The page; by default RUN/report.html."
)
@click.option(
    "--top", type=count, default=10, show_default=True, metavar="K", panel=OUTPUT, help="Examples shown at both ends."
)
def report(run: Path, out: Path | None, top: int) -> None:
    """Write the report of a run that --out saved."""
    page = explore.report(run, out or run / "report.html", top=top)
    remark(f"Wrote {page}")
