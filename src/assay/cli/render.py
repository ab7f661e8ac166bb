"""What the commands print: tables for people, JSON lines for programs, messages on standard error.

Texts, ids and sources are strangers': control and invisible characters are shown by their code, and nothing in them is
taken for markup.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from rich.console import Console
from rich.table import Table
from rich.text import Text

from assay.evaluate import Comparison, Trust
from assay.explore import format
from assay.explore.evidence import TITLES
from assay.explore.text import plain
from assay.grain import Parts
from assay.jsonable import jsonable
from assay.provenance import Provenance
from assay.runtime import Plan
from assay.scores import SIDES, Scores
from assay.values import Values

ID, SOURCE, TEXT, QUERY = 28, 16, 400, 240
"""Characters shown at most of each; a text is cut further to the width of the page."""
STRONGEST = 5
"""Parts of a score that are printed."""
STYLES = {"helpful": "green", "harmful": "red", "highest": "green", "lowest": "red"}


class _Console(Console):
    """Standard output; a reader that has gone is the caller's to handle."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def page() -> Console:
    """Standard output as a page: the terminal's width, 80 columns when piped."""
    return _Console(highlight=False, markup=False, emoji=False)


def tell(label: str, message: str) -> None:
    """A message on standard error."""
    console = _Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)
    console.print(Text.assemble((f"{label}: ", "bold red"), plain(message)))


def remark(message: str) -> None:
    """A line on standard error about what was done."""
    _Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True).print(Text(plain(message)))


def inline(text: str, limit: int = TEXT) -> Text:
    """The start of a text on one line, harmless."""
    cut = text[: 4 * limit]  # white space goes below; a text of megabytes is not worked on
    line = plain(" ".join(cut.split()))
    short = line[:limit]
    return Text(short if short == line and cut == text else f"{short}…")


def json_line(record: Mapping[str, Any]) -> None:
    """One JSON object on standard output, in ASCII so that no text in it can steer a terminal."""
    sys.stdout.write(json.dumps(jsonable(record)) + "\n")


# -- results -----------------------------------------------------------------------------------------------------------


def scores_json(scores: Scores, top: int, **facts: Any) -> None:
    """A line for each query, side and rank, one for each way in which a score was taken apart, then how they were made."""
    names = ("query_id", "rank", "train_id", "score", "side", "source", "text")
    verdicts = {
        entry["query_id"]: entry["verdict"] for entry in scores.evidence.get("reliability", {}).get("queries", [])
    }
    for record in _records(scores.top(top)):
        verdict = verdicts.get(record["query_id"])
        json_line({name: record[name] for name in names} | ({} if verdict is None else {"reliability": verdict}))
    for fold in scores.parts or ():
        pair = {"query_id": fold.query_id, "train_id": fold.train_id, "by": fold.by}
        json_line({"parts": {**pair, "names": fold.names, "scores": fold.scores, "total": fold.total}})
    json_line({"run": {**scores.provenance.entries(), "evidence": scores.evidence, **facts}})


def values_json(values: Values, top: int, **facts: Any) -> None:
    """A line for each side and rank, then one with how they were made."""
    for record in _records(values.top(top)):
        json_line(record)
    json_line({"run": {**values.provenance.entries(), "evidence": values.evidence, **facts}})


def scores_page(scores: Scores, top: int, queries: int | None = None) -> None:
    """Every query (or the first so many) with its most helpful and most harmful examples; then how they were made."""
    console = page()
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for record in _records(scores.top(top)):
        found.setdefault((record["query_id"], record["side"]), []).append(record)
    losses = scores.queries.columns.get("loss")
    for number, query in enumerate(scores.query_ids[:queries]):
        loss = "" if losses is None else f"  loss {float(losses[number]):.3f} nats"
        console.print(Text.assemble(("Query ", "bold"), inline(query, ID), loss))
        console.print(inline(scores.queries.texts[number], QUERY), style="italic")
        for side in SIDES.values():
            print_side(console, side, found.get((query, side), []), "score")
        _print_parts(console, scores.parts, query)
        console.print()
    _print_evidence(console, scores.evidence)
    data = f"{format.counted(scores.train.total, 'training example')}, {format.counted(len(scores.queries), 'query')}"
    _print_origin(console, scores.provenance, data)


def values_page(values: Values, top: int) -> None:
    """The most and the least valuable examples; then how the values were made."""
    console, records = page(), _records(values.top(top))
    for side in ("highest", "lowest"):
        print_side(console, side, [record for record in records if record["side"] == side], "value")
    console.print()
    _print_origin(console, values.provenance, format.counted(values.train.total, "training example"))


def tables_page(tables: Mapping[str, Mapping[str, Any]]) -> None:
    """Evidence as tables: each row's name, mean and interval, and how many it is of."""
    console = page()
    for name, content in tables.items():
        table = plain_table()
        for column in (TITLES[name], "mean", "95% interval", "n"):
            table.add_column(column, justify="left" if column == TITLES[name] else "right")
        for row in content["rows"]:
            table.add_row(
                inline(str(row["set"])),
                f"{row['mean']:+.3g}",
                f"{row['low']:+.2g} to {row['high']:+.2g}",
                str(row["n"]),
            )
        console.print(table)
        console.print(inline(str(content["unit"])), style="dim")


def print_side(console: Console, side: str, records: Sequence[Mapping[str, Any]], number: str) -> None:
    """One end as a table; columns that nothing fills are left out."""
    if not records:
        console.print(f"{side:>7}  none")
        return
    table = plain_table(expand=True)
    table.add_column(side, justify="right", no_wrap=True, min_width=7, style=STYLES[side])
    columns = {number: 0, "stderr": 0, "source": SOURCE, "train_id": ID, "label": SOURCE, "like it": SOURCE}
    kept = {name: width for name, width in columns.items() if any(record.get(name) is not None for record in records)}
    for name, width in kept.items():
        justify = "left" if width else "right"
        table.add_column("id" if name == "train_id" else name, justify=justify, no_wrap=True, max_width=width or None)
    table.add_column("text", no_wrap=True, overflow="ellipsis", ratio=1)
    for record in records:
        cells = [_cell(record.get(name), width) for name, width in kept.items()]
        table.add_row(str(record["rank"]), *cells, inline(str(record["text"])))
    console.print(table)


def _print_parts(console: Console, parts: Parts | None, query: str) -> None:
    """The strongest tokens of the examples that were taken apart, or their strongest modules where there are no tokens."""
    folds = [fold for fold in parts or () if fold.query_id == query]
    by = "loss-token" if any(fold.by == "loss-token" for fold in folds) else "module"
    for fold in (fold for fold in folds if fold.by == by):
        told = (f"{plain(name)!r} {score:+.3g}" for _, name, score in fold.top(STRONGEST).itertuples(index=False))
        console.print(
            Text.assemble(("  by token " if by == "loss-token" else "  by module ", "bold"), inline(fold.train_id, ID))
        )
        console.print(inline(", ".join(told), 1000))


def _cell(value: Any, width: int) -> Text:
    if value is None:
        return Text("")
    return inline(str(value), width) if width else Text(f"{value:+.4g}")


CHECKS = {
    "agreement": ("same source as the query", "share"),
    "agreement_label": ("same label as the query", "share"),
    "one_step": ("one-step check", "change of loss"),
    "tail_patch": ("tail patch", "change of loss"),
    "lds": ("retraining on subsets", "correlation"),
    "reliability": ("reliability", "share that stays"),
}
"""Evidence that is printed: what it is called, and what its numbers are."""


def _print_evidence(console: Console, evidence: Mapping[str, Any]) -> None:
    """The checks that were made, each as a table and in words."""
    for name, (title, number) in CHECKS.items():
        if name not in evidence:
            continue
        table = plain_table()
        for column in (title, number, "95% interval", "queries"):
            table.add_column(column, justify="left" if column == title else "right", no_wrap=True)
        for row in evidence[name]["rows"]:
            table.add_row(row["set"], f"{row['mean']:+.4f}", f"{row['low']:+.4f} to {row['high']:+.4f}", str(row["n"]))
        console.print(table)
        console.print(inline(evidence[name]["text"], 1000))
        console.print()


def _print_origin(console: Console, provenance: Provenance, data: str) -> None:
    """Method, sign, unit, coverage, cost and notes, in a few lines."""
    covered = "" if provenance.coverage is None else f", {format.percent(provenance.coverage)} of the parameters"
    cost = f"{format.seconds(provenance.seconds)}, peak memory {format.size(provenance.peak_memory)}"
    console.print(f"{provenance.method}: {data}{covered}; {provenance.sign}; unit: {provenance.unit}; {cost}")
    for note in provenance.notes:
        console.print(inline(note, 1000))


def plan_page(plan: Plan) -> None:
    """What is predicted, a line each."""
    console, table = page(), plain_table(show_header=False)
    for step in plan.steps:
        table.add_row(step.name, format.seconds(step.seconds))
    table.add_row("time", format.seconds(plan.seconds), style="bold")
    table.add_row("peak memory", format.size(plan.peak_memory), style="bold")
    table.add_row("disk", format.size(plan.disk) if plan.disk else "none", style="bold")
    if plan.coverage is not None:
        table.add_row("coverage", f"{format.percent(plan.coverage)} of the parameters", style="bold")
    console.print(f"{plan.method}, predicted:")
    console.print(table)
    for note in plan.notes:
        console.print(note)


def plain_table(**options: Any) -> Table:
    """A table without lines."""
    return Table(box=None, show_edge=False, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold", **options)


def saved(out: Path, report: Path | None) -> None:
    """Say where a run lies and how to make its report."""
    if report is None:
        remark(f"Saved to {out}. Its report: assay report {out} --out page.html")
    else:
        remark(f"Saved to {out}, with its report: {report}. Another: assay report {out} --top 50 --out page.html")


def _records(frame: Any) -> list[dict[str, Any]]:
    return cast(list[dict[str, Any]], frame.astype(object).to_dict("records"))


def trust_page(found: Trust, runs: Mapping[str, Path]) -> None:
    """The methods, best first, each check's number with its interval, and what it comes to."""
    console, table = page(), plain_table()
    table.add_column("method")
    for check in found.checks:
        table.add_column(CHECKS[check][0], justify="right")
    for name in ("stable", "verdict"):
        table.add_column(name)
    for row in found.rows():
        cells = [Text("not measured") if row[check] is None else _interval(row[check]) for check in found.checks]
        stable = "" if row["stable"] is None else format.percent(row["stable"])
        table.add_row(inline(row["method"], ID), *cells, stable, row["verdict"])
    console.print(table)
    console.print(inline(found.text, 2000))
    for name, known in found.reliability.items():
        console.print(inline(f"{name}: {known.text}", 2000))
    for note in found.notes:
        console.print(inline(note, 1000))
    for name, run in runs.items():
        remark(f"Added to {run} ({name})")


def _interval(row: Mapping[str, Any]) -> Text:
    return Text(f"{row['mean']:+.3g} ({row['low']:+.2g} to {row['high']:+.2g})")


def comparison_page(found: Comparison) -> None:
    """A metric of every method."""
    console, table = page(), plain_table()
    for column in ("method", found.metric, "95% interval"):
        table.add_column(column, justify="left" if column == "method" else "right")
    for name, row in found.rows.items():
        table.add_row(inline(name, ID), f"{row.mean:+.4f}", f"{row.low:+.4f} to {row.high:+.4f}")
    console.print(table)
    console.print(inline(found.text, 2000))
