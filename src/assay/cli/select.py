"""`assay select`: the training data within a budget."""

from pathlib import Path
from typing import Any, cast

import rich_click as click

from assay.act.clean import write_without
from assay.act.select import SELECTORS, find_selector
from assay.act.select import select as choose
from assay.cli.clean import data_of
from assay.cli.options import DATA, OUTPUT, stacked
from assay.cli.parameters import option_of, parameters
from assay.cli.render import inline, json_line, page, plain_table, remark
from assay.errors import InputError, MethodError
from assay.run_directory import replacing
from assay.runs import load_run

SHOWN = 10
NAMES = ", ".join(kind.name for kind in SELECTORS)
KNOWN = parameters(SELECTORS)


@click.command()
@click.argument("run", type=click.Path(path_type=Path), metavar="RUN")
@click.option(
    "--budget",
    required=True,
    metavar="SHARE",
    panel="Selection",
    help="What to keep: 55%, 0.55, or a number of examples.",
)
@click.option(
    "--with",
    "name",
    default="hard",
    show_default=True,
    metavar="NAME",
    panel="Selection",
    help=f"The selector, one of: {NAMES}.",
)
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="FILE", panel=OUTPUT, help="The selected rows, a new file."
)
@click.option(
    "--train", metavar="FILE", panel=DATA, help="The training data, if they are no longer where the run has them from."
)
@click.option(
    "--json", "as_json", is_flag=True, panel=OUTPUT, help="JSON lines on standard output, nothing else there."
)
@stacked([option_of(parameter) for parameter in KNOWN])
def select(run: Path, budget: str, name: str, out: Path | None, train: str | None, as_json: bool, **given: Any) -> None:
    """Keep the training examples that a run says are worth it, within a budget, and say why for each.

    Nothing is overwritten. Without --out it only shows what it would keep. Beside FILE it writes FILE.selected.csv, with a reason for
    every row. Compare with a random selection of the same size before you believe it.
    """
    said = {parameter: value for parameter, value in given.items() if value is not None}
    selector = find_selector(name)
    for parameter in KNOWN:
        if parameter.name in said and name not in parameter.methods:
            raise MethodError(
                f"The selector '{name}' has no {parameter.flag}. Selectors that have it: {', '.join(parameter.methods)}."
            )
    selector, result = find_selector(name, **said), load_run(run)
    source, examples = data_of(result, run, train)
    frame = choose(result, selector, budget, examples)
    records = cast(list[dict[str, Any]], frame.astype(object).to_dict("records"))
    kept = int(frame["kept"].sum())
    if out is not None:
        listed = out.with_name(out.name + ".selected.csv")
        if listed.exists():
            raise InputError(f"'{listed}' exists; nothing is overwritten. Give another name, or remove it.")
        write_without(source, out, set(cast(list[int], frame["row"][~frame["kept"]].tolist())))
        with replacing(listed) as temporary:
            frame.to_csv(temporary, index=False)
        remark(f"Wrote {kept:,} of {len(examples):,} rows to {out}, and the reasons for all to {listed}.")
    notes = cast(list[str], frame.attrs["notes"])
    if as_json:
        for record in records:
            json_line(record)
        facts = {"run": str(run), "train": str(source), "kept": kept, "of": len(examples), "out": out}
        json_line({**facts, "selector": name, "parameters": selector.parameters(), "notes": notes})
        return
    console, table = page(), plain_table()
    for column in ("id", "why", "text"):
        table.add_column(column, overflow="fold" if column == "why" else "ellipsis", no_wrap=column != "why")
    for record in [*records[: min(SHOWN, kept)], *records[max(kept, len(records) - SHOWN) :]]:
        cells = (str(record["train_id"]), str(record["why"]), str(result.train.texts[record["row"]]))
        table.add_row(*(inline(cell, 200) for cell in cells))
    console.print(table)
    console.print(f"{kept:,} of {len(examples):,} examples kept.")
    for note in notes:
        console.print(inline(note, 1000))
