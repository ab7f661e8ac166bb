"""`assay evaluate RUN...`: which of these runs to trust. With `truth` and `lds` behind it: the parts of retraining."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import rich_click as click

from assay import explore
from assay.cli.evaluate_lds import evaluate_lds
from assay.cli.evaluate_truth import evaluate_truth
from assay.cli.options import DATA, DEBUG, MODEL, OUTPUT, json_option
from assay.cli.render import json_line, trust_page
from assay.cli.runs import Runs, processes_option
from assay.evaluate import trust
from assay.run_directory import annotate
from assay.training.recipe_file import read_recipe


class WithDefault(click.RichGroup):
    """A group that is `run` where no other of its commands is named; each takes `--debug`."""

    def add_command(self, cmd: click.Command, *args: Any, **options: Any) -> None:
        """With `--debug`."""
        cmd.params.append(DEBUG)
        super().add_command(cmd, *args, **options)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """`assay evaluate RUN` is `assay evaluate run RUN`."""
        named = [word for word in args if not word.startswith("-")]
        if args and not {"--help", "-h"} & {args[0]} and not (named and args[0] in self.commands):
            args = ["run", *args]
        return super().parse_args(ctx, args)


@click.group(cls=WithDefault, context_settings={"help_option_names": ["-h", "--help"]})
def evaluate() -> None:
    """Does a run predict what training would do? `assay evaluate RUN...` judges one or several runs.

    The commands below are its parts: `run` (the default), `truth` (retrain on subsets), `lds` (compare runs with them).
    """


@click.command("run")
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUN...")
@click.option(
    "--minutes", type=click.FloatRange(min=0, min_open=True), default=10.0, show_default=True, panel=OUTPUT,
    help="Time that the checks may take together.",
)  # fmt: skip
@click.option(
    "--recipe", type=click.Path(path_type=Path), metavar="FILE", panel=MODEL,
    help="How the model was trained, as JSON: retrains on subsets.",
)  # fmt: skip
@click.option(
    "--truth", type=click.Path(path_type=Path), metavar="DIR", panel=OUTPUT,
    help="Where retrained losses are kept and found again; by default RUN/truth of the first run.",
)  # fmt: skip
@click.option("--k", type=click.IntRange(min=1), default=10, show_default=True, panel=OUTPUT, help="Of each top.")
@click.option("--model", metavar="DIR", panel=MODEL, help="The model, where a run does not say or it has moved.")
@click.option("--train", metavar="FILE", panel=DATA, help="The training examples, likewise.")
@click.option("--queries", metavar="FILE", panel=DATA, help="The queries, likewise.")
@processes_option
@json_option
def run(
    runs: Sequence[Path],
    minutes: float,
    recipe: Path | None,
    truth: Path | None,
    k: int,
    model: str | None,
    train: str | None,
    queries: str | None,
    processes: int,
    as_json: bool,
) -> None:
    """Judge runs on the same examples and queries, within a budget of minutes: which method to trust?

    Takes one small step and a few training steps on what each method ranks first, varies seed, data and damping, and with
    --recipe trains again on subsets. What is found is added to each run and its report.
    """
    described = None if recipe is None else read_recipe(recipe)
    opened = Runs.open(runs)
    examples, asked, loaded = opened.load(model, train, queries)
    chosen = None if described is None else described.recipe(opened.initial(described.model, loaded))
    kept = None if chosen is None else truth or runs[0] / "truth"
    found = trust(loaded, examples, asked, opened.scores, minutes, chosen, kept, k, processes=processes)
    places = {name: opened.paths[name] for name in found.methods}
    for name, place in places.items():
        annotate(place, found.evidence(name))
        explore.report(place, place / "report.html")
    if not as_json:
        trust_page(found, places)
        return
    for row in found.rows():
        json_line({**row, "run": places[row["method"]]})
    for name, known in found.reliability.items():
        for entry in known.evidence()["queries"]:
            json_line({"method": name, **entry})
    json_line({"evaluation": {"decided_by": found.decided_by, "text": found.text, "notes": found.notes}})


for _command in (run, evaluate_truth, evaluate_lds):
    evaluate.add_command(_command)
