"""`assay clean`: the training data without the examples of least value."""

from pathlib import Path
from typing import Any, cast

import rich_click as click

from assay import Values, read
from assay.act.clean import flag, write_without
from assay.cli.options import DATA, OUTPUT
from assay.cli.render import json_line, page, print_side, remark
from assay.errors import InputError
from assay.results import Result
from assay.run_directory import replacing


class Share(click.ParamType):  # pyright: ignore[reportMissingTypeArgument] - generic since click 8.4
    """`10%` or `0.1`."""

    name = "SHARE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """A share above 0 and at most 1."""
        text = str(value).strip()
        try:
            number = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
        except ValueError:
            number = -1.0
        if not 0 < number <= 1:
            self.fail(f"{value!r} is no share; expected something like 10% or 0.1.", param, ctx)
        return number


@click.command()
@click.argument("run", type=click.Path(path_type=Path), metavar="RUN")
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="FILE", panel=OUTPUT, help="The cleaned file, a new one."
)
@click.option(
    "--share",
    type=Share(),
    default="10%",
    show_default=True,
    metavar="SHARE",
    panel="What is left out",
    help="The lowest share of the values.",
)
@click.option(
    "--below", type=float, metavar="VALUE", panel="What is left out", help="Only values below this, such as 0."
)
@click.option(
    "--train", metavar="FILE", panel=DATA, help="The training data, if they are no longer where the run has them from."
)
@click.option(
    "--json", "as_json", is_flag=True, panel=OUTPUT, help="JSON lines on standard output, nothing else there."
)
def clean(run: Path, out: Path | None, share: float, below: float | None, train: str | None, as_json: bool) -> None:
    """Flag the examples of least value in a run of `assay value`, say why, and write the data without them.

    Nothing is overwritten. Without --out it only shows what it would leave out. Beside FILE it writes FILE.flagged.csv.
    """
    values = Values.load(run)
    source, examples = data_of(values, run, train)
    found = flag(values, examples, share, below)
    records = cast(list[dict[str, Any]], found.astype(object).to_dict("records"))
    if out is not None:
        listed = out.with_name(out.name + ".flagged.csv")
        if listed.exists():
            raise InputError(f"'{listed}' exists; nothing is overwritten. Give another name, or remove it.")
        write_without(source, out, set(found["row"].tolist()))
        with replacing(listed) as temporary:
            found.to_csv(temporary, index=False)
        remark(f"Wrote {out} without {len(found):,} of {len(examples):,} rows, and what they are to {listed}.")
    if as_json:
        for record in records:
            json_line(record)
        json_line({"run": str(run), "train": str(source), "flagged": len(found), "of": len(examples), "out": out})
        return
    console = page()
    print_side(console, "lowest", [_shown(record, values) for record in records[:SHOWN]], "value")
    if len(records) > SHOWN:
        console.print(f"and {len(records) - SHOWN:,} more")


SHOWN = 20


def _shown(record: dict[str, Any], values: Values) -> dict[str, Any]:
    """A row of the table; `like it` is the share of its nearest examples that have its label."""
    like = record.get("same_label")
    return {**record, "like it": None if like is None else f"{like:.0%}", "text": values.texts[record["row"]]}


def data_of(values: Result, run: Path, train: str | None) -> tuple[Path, Any]:
    """The training data as the run read them. Raises InputError if they are gone, or other ones."""
    origin: dict[str, Any] = dict(values.evidence.get("origin") or {})
    if not origin and train is None:
        raise InputError(f"{run} does not say where its training data are; name them with --train FILE.")
    if values.train.columns.get("examples") is not None:
        raise InputError(f"{run} holds values of groups, not of examples; value the examples first (--by example).")
    source = Path(train or origin["train"])
    if not source.is_file():
        raise InputError(f"The training data are no longer at '{source}'; name them with --train FILE.")
    examples = read(source, limit=origin.get("limit"), **origin.get("columns", {}))
    if examples.fingerprint() != values.provenance.train_fingerprint:
        raise InputError(f"'{source}' is not, or no longer, what {run} was computed on. Value it again.")
    return source, examples
