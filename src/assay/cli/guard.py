"""`assay guard`: answers from labelled documents, each with the smallest label that it needs."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import rich_click as click

import assay
from assay.act.guard import LAMBDA, Guarded
from assay.cli.options import DATA, OUTPUT, DataOptions, ModelOptions, data_options, json_option, model_options
from assay.cli.render import ID, inline, json_line, page, plain_table, remark
from assay.errors import InputError
from assay.explore import format

LABELS = "Labels"


@click.command()
@model_options
@click.option("--documents", required=True, metavar="FILE", panel=DATA, help="Texts with a label each (or a source).")
@click.option(
    "--queries", required=True, metavar="FILE", panel=DATA,
    help="Questions: text, or prompt; with a completion that is the output to be labelled.",
)  # fmt: skip
@data_options
@click.option(
    "--lattice", default="powerset", show_default=True, metavar="ORDER", panel=LABELS,
    help="powerset (of sources), steps such as 'public < internal < secret', or a JSON file.",
)  # fmt: skip
@click.option(
    "--lam", type=float, default=LAMBDA, show_default=True, panel=LABELS,
    help="Nats that no token of the output may lose.",
)  # fmt: skip
@click.option(
    "--search", type=click.Choice(["descent", "exact", "greedy"]), default="descent", show_default=True, panel=LABELS,
    help="Down through similar labels; all labels; or one way down.",
)  # fmt: skip
@click.option(
    "--visits", type=click.IntRange(min=1), default=512, show_default=True, panel=LABELS,
    help="Labels looked at for one question at most.",
)  # fmt: skip
@click.option(
    "--mode", type=click.Choice(["prompt", "neighbours"]), default="prompt", show_default=True, panel=LABELS,
    help="Documents in the prompt, or in the datastore of a nearest-neighbour model.",
)  # fmt: skip
@click.option(
    "--retrieve", type=click.IntRange(min=1), default=8, show_default=True, panel=LABELS,
    help="Documents for each question, the best by BM25.",
)  # fmt: skip
@click.option(
    "--document", "template", default="{document}\n\n", panel=LABELS,
    help="What a document is in the prompt; {document} stands for its text.",
)  # fmt: skip
@click.option(
    "--output-tokens",
    type=click.IntRange(min=1),
    default=64,
    show_default=True,
    panel=LABELS,
    help="Of an output at most.",
)
@click.option("--introspect", is_flag=True, panel=LABELS, help="Ask the model as well which documents it used.")
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", panel=OUTPUT,
    help="Save the verdicts as JSON; an earlier file of them there is replaced.",
)  # fmt: skip
@json_option
def guard(
    model: ModelOptions,
    documents: str,
    queries: str,
    data: DataOptions,
    lattice: str,
    output_tokens: int,
    out: Path | None,
    as_json: bool,
    **settings: Any,
) -> None:
    """Answer questions from labelled documents; each answer gets the smallest label that its documents need.

    The answer is made anew from the documents of that label alone, so that nothing with a label above it can flow.
    """
    model.check(None)
    if not model.given:
        raise InputError("No model was given; name its directory, hub id or server behind the command (MODEL).")
    if out is not None and out.exists() and '"assay-guard"' not in out.read_text("utf-8", errors="replace")[:200]:
        raise InputError(f"'{out}' exists and holds no verdicts; nothing is overwritten. Give another name to --out.")
    asked = model.server() if model.served else model.load()
    texts = data.read(documents)
    questions = replace(data, label_field=None, source_field=None, weight_field=None).read(queries)
    found = assay.guard(asked, texts, questions, lattice=lattice, tokens=output_tokens, **settings)
    if out is not None:
        found.save(out)
        remark(f"Saved to {out}.")
    if as_json:
        for verdict in found.verdicts:
            json_line(asdict(verdict))
        json_line(
            {
                "guard": {
                    **found.provenance.entries(),
                    "settings": found.settings,
                    "improved": found.improved,
                    "out": out,
                }
            }
        )
    else:
        _show(found)


def _show(found: Guarded) -> None:
    """A line for each question; then how many labels improved."""
    console, table = page(), plain_table(expand=True)
    asked = any(verdict.introspected is not None for verdict in found.verdicts)
    names = ["question", "label", "of all", *(["by its word"] if asked else []), "documents", "output"]
    for name in names:
        table.add_column(name, no_wrap=name == "output", overflow="ellipsis" if name == "output" else "fold")
    for verdict in found.verdicts:
        said = [inline(verdict.introspected or "", ID)] if asked else []
        documents = inline(", ".join(verdict.documents) or "none", ID)
        cells = (inline(verdict.query_id, ID), inline(verdict.label, ID), inline(verdict.conservative, ID))
        table.add_row(*cells, *said, documents, inline(verdict.output))
    console.print(table)
    console.print(
        f"{sum(verdict.improved for verdict in found.verdicts)} of {len(found.verdicts)} labels are below that of all documents; "
        f"lambda {found.settings['lam']:g} nats; {format.seconds(found.provenance.seconds)}"
    )
    for note in dict.fromkeys(verdict.note for verdict in found.verdicts if verdict.note):
        console.print(inline(note, 1000))
