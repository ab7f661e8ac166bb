"""What speaks for or against a run, as its evidence holds it: sets of examples, each with a mean and an interval.

    {"rows": [{"set": "graddot top 10", "mean": -0.12, "low": -0.15, "high": -0.09, "n": 40}, ...],
     "unit": "nats of query loss", "text": "what was done", "k": 10, ...}

`low`, `high` and `n` may be missing. The first row is the method itself, the others its baselines.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from markupsafe import Markup

from assay.errors import InputError
from assay.explore.format import number, unsigned
from assay.explore.plots import Interval, intervals

TITLES = {
    "trust": "Which method to trust",
    "lds": "Retraining on subsets: linear datamodeling score",
    "leave_one_out": "Retraining without single examples",
    "removal": "Retraining without the top examples",
    "one_step": "One-step check",
    "tail_patch": "Tail patch",
    "reliability": "Reliability of each answer",
    "randomised": "Randomised model",
    "agreement": "Agreement with the queries' sources",
    "agreement_label": "Agreement with the queries' labels",
    "agreement_class": "Agreement with the queries' classes",
    "planted": "Planted examples",
    "mrr": "Fact tracing: mean reciprocal rank",
    "recall": "Fact tracing: recall",
    "auc": "Mislabelled examples: area under the curve",
    "average_precision": "Mislabelled examples: average precision",
    "precision": "Mislabelled examples: precision",
    "curves": "Retraining without and with only the highest and lowest values",
    "overlap": "Overlap of the top examples",
    "cardinality": "Do the same examples answer every query?",
    "token_class": "Influence by kind of token",
    "sentence_role": "Influence by role of the sentence",
    "difficulty": "Influence by domain and difficulty",
}
MEANINGS = {
    "trust": "The methods that were compared on these examples and queries, best first, by the strongest check that there was "
    "time for: retraining, else a few training steps, else one. A method is to be trusted if it beats BM25, embeddings and random "
    "examples.",
    "lds": "The model was trained again on random subsets of the examples. The rank correlation, over subsets, between the sum of "
    "a subset's scores and the loss that training on it brought. 1: the scores rank subsets as retraining does; 0: they say nothing.",
    "leave_one_out": "The model was trained again without single examples. The rank correlation between an example's score and "
    "the rise of the query's loss without it.",
    "removal": "The model was trained again without each query's most helpful examples. Higher is better: the query's loss rose.",
    "tail_patch": "Training goes on for a few steps on each query's most helpful examples. Below zero the query's loss fell. "
    "The method should lie further below zero than its baselines.",
    "reliability": "The share of each query's most helpful examples that stays when the method is run with another random seed, "
    "on other halves of the data, or with other damping. A query is stable if enough of it stays under all of them.",
    "randomised": "The rank correlation of the scores with those of the same method on a model of random weights. It should be "
    "low: what survives does not come from what the model learned.",
    "agreement_label": "The share of each query's most helpful examples that have the query's own label. Higher is better.",
    "agreement_class": "The share of each query's most helpful examples that are of the query's own class. Higher is better.",
    "planted": "How far up the examples stand that were planted for these queries. Higher is better; chance is their share.",
    "mrr": "One over the rank of the best example that states the query's fact. Higher is better.",
    "recall": "The share of the examples stating the query's fact that are found. Higher is better.",
    "auc": "The probability that a wrongly labelled example has a lower value than a right one. 0.5 is chance.",
    "average_precision": "How far down the wrongly labelled examples stand. Higher is better; chance is their share.",
    "precision": "The share of wrongly labelled examples among those of lowest value. Higher is better.",
    "curves": "The mean loss after training without, or with only, the examples of highest and of lowest value, less the loss after "
    "the same with random ones; mean over the points of the curve, interval over the queries. Without the highest and with only the "
    "lowest it should be above zero, without the lowest and with only the highest below.",
    "overlap": "The share of the most helpful examples that two results have in common.",
    "cardinality": "The share of other queries that have the same examples in their top. Lower is better: near 1 the method gives "
    "every query one answer.",
    "token_class": "How much predicting a token of this kind in the training data raised the likelihood of the solved problems, on "
    "average; the goal stands before the colon.",
    "sentence_role": "The same for whole sentences of worked solutions, or lines of code; roles are found by simple rules.",
    "difficulty": "The mean influence of the training examples of a domain and a range of difficulty on the solved problems.",
    "one_step": "Take one small gradient step on a set of examples and see how the queries' loss moves. "
    "Below zero the loss fell: the set helped. The method should lie further below zero than its baselines.",
    "agreement": "The share of each query's most helpful examples that come from the query's own source. "
    "Higher is better; a source is only a stand-in for what really taught the model.",
}
UNITS = {"one_step": "nats of query loss"}
SIGNED = ("trust", "curves", "one_step", "tail_patch", "removal", "lds", "leave_one_out", "randomised", "token_class",
          "sentence_role", "difficulty")  # fmt: skip
"""Checks whose numbers can be below zero."""
FACTS = ("rows", "unit", "text", "metric")


@dataclass(frozen=True)
class Row:
    """One set of examples, its numbers as text."""

    name: str
    mean: str
    interval: str | None
    n: int | None


@dataclass(frozen=True)
class Evidence:
    """One check: what it means, its rows as a table and as a plot, and how it was done."""

    title: str
    meaning: str
    text: str
    unit: str
    facts: Mapping[str, Any]
    rows: Sequence[Row]
    plot: Markup


def read_evidence(found: Mapping[str, Any]) -> list[Evidence]:
    """The checks that the report knows, in a fixed order.

    Raises InputError for one that does not look as above.
    """
    return [_read(name, found[name]) for name in TITLES if name in found]


def _read(name: str, content: Any) -> Evidence:
    written = number if name in SIGNED else unsigned
    try:
        known = [row for row in content["rows"] if row["mean"] is not None]
        drawn = [
            Interval(str(row["set"]), float(row["mean"]), _optional(row, "low"), _optional(row, "high"), first=j == 0)
            for j, row in enumerate(known)
        ]
        counts = [row.get("n") for row in known]
        scalars = {key: value for key, value in content.items() if isinstance(value, str | int | float)}
        facts = {
            key: unsigned(value) if isinstance(value, float) else value
            for key, value in scalars.items()
            if key not in FACTS
        }
        unit, text = str(content.get("unit", UNITS.get(name, "share"))), str(content.get("text", ""))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f'The run\'s evidence "{name}" is not in the expected form ({type(error).__name__}: {error}); expected '
            '{"rows": [{"set": ..., "mean": ..., "low": ..., "high": ..., "n": ...}]}. Run the check again.'
        ) from error
    rows = [Row(row.label, written(row.mean), _between(row, written), n) for row, n in zip(drawn, counts, strict=True)]
    told = "; ".join(f"{row.name}: {row.mean}" for row in rows)
    plot = intervals(drawn, f"evidence-{name}", unit, f"{TITLES[name]}, in {unit}. {told}.") if rows else Markup("")
    return Evidence(TITLES[name], MEANINGS[name], text, unit, facts, rows, plot)


def _between(row: Interval, written: Callable[[float], str]) -> str | None:
    return None if row.low is None or row.high is None else f"{written(row.low)} to {written(row.high)}"


def _optional(row: Mapping[str, Any], key: str) -> float | None:
    found = cast(Any, row.get(key))
    return None if found is None else float(found)
