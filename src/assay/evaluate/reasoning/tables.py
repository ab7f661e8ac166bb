"""What taught a model to reason, in tables: by token class, by sentence role, by difficulty.

For each goal g, a source of solved problems (mathematics, code), with the influence s of `infra`:

    by class        mean over tokens of the class of  s_token,          by role     mean over sentences of the role of  s_sentence
    by difficulty   mean over the examples of a domain and bin of  s_example

with 95% intervals by resampling training examples. Tokens and sentences are of a random sample of the training examples, so that the
tables describe the data; each row's tokens add up to its sentences' and its own influence. Cost: infra, and a forward-mode derivative
a sampled row and goal.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
from jaxtyping import Float64

from assay.errors import MethodError
from assay.evaluate.intervals import RESAMPLES
from assay.evaluate.reasoning.difficulty import Graded, grade
from assay.evaluate.reasoning.words import CLASSES, ROLES, classes_of, is_code, role_of
from assay.examples import read
from assay.folds import by_sentence
from assay.grain import Parts
from assay.methods import Infra, find
from assay.methods.gradient.infra import Traced
from assay.tasks import Token
from assay.training import Recipe
from assay.values import Values


@dataclass(frozen=True)
class Reasoning:
    """Influence on solved problems: of every training example, and of the tokens of some.

    Args:
        values: nats of the solved problems' mean loss per removed example; `raw` by goal, where there are several.
        parts: by token (`loss-token`), of the sampled examples; `query_id` is the goal.
        classes, roles, levels: the tables; `mean` is the influence per token, sentence or example, `low` and `high` its
            95% interval, `total` the sum.
    """

    values: Values
    parts: Parts
    classes: pd.DataFrame
    roles: pd.DataFrame
    levels: pd.DataFrame

    @property
    def goals(self) -> list[str]:
        """Names of the groups of solved problems."""
        return list(dict.fromkeys(fold.query_id for fold in self.parts))

    def evidence(self) -> dict[str, Any]:
        """In terms of JSON, as a run's evidence keeps the tables and the report shows them."""
        unit = self.values.unit
        texts = {
            "token_class": (self.classes, "class", "tokens", "per token"),
            "sentence_role": (self.roles, "role", "sentences", "per sentence"),
            "difficulty": (self.levels, "level", "examples", "per example"),
        }
        count = len({fold.train_id for fold in self.parts})
        return {
            name: {
                "unit": f"{unit}, {per}" if per != "per example" else unit,
                "text": "" if name == "difficulty" else f"Of {count} training examples, drawn at random.",
                "rows": [
                    {"set": f"{row['goal']}: {row[key]}", "mean": row["mean"], "low": row["low"], "high": row["high"],
                     "n": int(row[counted])}
                    for row in table.to_dict("records")
                ],
            }
            for name, (table, key, counted, per) in texts.items()
        }  # fmt: skip

    def save(self, directory: str | Path) -> None:
        """A run of the values with the tables as evidence, and beside it the tables (CSV) and the tokens (tokens.parquet)."""
        folder = Path(directory)
        self.values.with_evidence(**self.evidence()).save(folder)
        for name, table in (("classes", self.classes), ("roles", self.roles), ("levels", self.levels)):
            table.to_csv(folder / f"{name}.csv", index=False)
        self.parts.write(folder / "tokens.parquet")


def reasoning(
    model: Any,
    train: Any,
    on: Any,
    method: str | Infra = "infra",
    *,
    rows: int = 200,
    difficulty: str = "auto",
    bins: int = 4,
    seed: int = 0,
) -> Reasoning:
    """Attribute the likelihood of solved problems to training examples, sentences and tokens.

    Args:
        model: a causal language model, a run or a recipe.
        train, on: training examples, and problems that the model solves (see `solved`); anything that `read` takes. Their
            `source` is the domain.
        method: "infra", or `assay.methods.Infra(...)`.
        rows: training examples that are taken apart, drawn at random.
        difficulty: of a training example: "label", "length" of its solution, or "auto": the label if all have numbers.
        bins: of difficulty, in each domain.
        seed: of the draw.

    Raises:
        MethodError: another method, or no solved problems. InputError: difficulty that cannot be read.
    """
    chosen = find(method)
    if not isinstance(chosen, Infra):
        raise MethodError(
            f"Reasoning is attributed by infra, and '{chosen.name}' was given; give infra or assay.methods.Infra()."
        )
    if rows < 1:
        raise MethodError(f"rows is {rows}; at least 1 was expected.")
    train, on = read(train), read(on)
    graded = grade(train, bins, difficulty)
    fitted = cast(Traced, chosen.fit(model.train(train) if isinstance(model, Recipe) else model, train))
    values = fitted.value(on)
    sample = np.sort(np.random.default_rng(seed).permutation(len(train))[:rows])
    parts = fitted.tokens(fitted.directions(on)[0], sample)
    goals = values.raw or {parts.folds[0].query_id: values.array}
    return Reasoning(values, parts, *_of_tokens(parts), by_difficulty(goals, graded))


def _of_tokens(parts: Parts) -> tuple[pd.DataFrame, pd.DataFrame]:
    """By token class and by sentence role."""
    classes: dict[tuple[str, str], list[tuple[float, int]]] = {}
    roles: dict[tuple[str, str], list[tuple[float, int]]] = {}
    for fold in parts:
        named = np.array(classes_of(fold), dtype=object)
        counted = fold.scores != 0
        for name in CLASSES:
            chosen = counted & (named == name)
            classes.setdefault((fold.query_id, name), []).append((float(fold.scores[chosen].sum()), int(chosen.sum())))
        tokens = [
            Token(*entry, True) for entry in zip(fold.names, fold.starts.tolist(), fold.ends.tolist(), strict=True)
        ]
        wholes, sums = by_sentence(tokens, fold.scores)
        held = by_sentence(tokens, counted.astype(np.float64))[1]
        code = is_code("".join(token.text for token in tokens))
        said = [role_of(whole.text, code) if n else "" for whole, n in zip(wholes, held.tolist(), strict=True)]
        for name in ROLES:
            chosen = np.array([role == name for role in said], bool)
            roles.setdefault((fold.query_id, name), []).append((float(sums[chosen].sum()), int(chosen.sum())))
    return _table(classes, "class", "tokens"), _table(roles, "role", "sentences")


def by_difficulty(goals: Mapping[str, Float64[np.ndarray, " n"]], graded: Graded) -> pd.DataFrame:
    """Mean influence of each domain's bins on each goal; columns goal, domain, bin, level, from, to, examples, mean, low,
    high, total.
    """
    records: list[dict[str, Any]] = []
    for goal, values in goals.items():
        for domain in graded.names():
            rows = graded.rows(domain)
            for number in range(int(graded.bins[rows].max()) + 1):
                inside = values[rows[graded.bins[rows] == number]]
                low, high = graded.span(domain, number)
                records.append({
                    "goal": goal, "domain": domain, "bin": number + 1, "from": low, "to": high,
                    "level": f"{domain}, {low:g} to {high:g}" if low < high else f"{domain}, {low:g}",
                    **_mean([(float(value), 1) for value in inside], "examples"),
                })  # fmt: skip
    return pd.DataFrame(records)


def _table(found: Mapping[tuple[str, str], Sequence[tuple[float, int]]], key: str, counted: str) -> pd.DataFrame:
    """One line a goal and name that occurs."""
    records = [{"goal": goal, key: name, **_mean(pairs, counted)} for (goal, name), pairs in found.items()]
    return pd.DataFrame([record for record in records if record[counted]])


def _mean(pairs: Sequence[tuple[float, int]], counted: str) -> dict[str, Any]:
    """The sum over examples over the count, with a percentile interval over resampled examples."""
    total, count = np.array(pairs, dtype=np.float64).reshape(-1, 2).T
    if not count.sum():
        return {counted: 0, "mean": 0.0, "low": 0.0, "high": 0.0, "total": 0.0}
    drawn = np.random.default_rng(0).multinomial(len(count), np.full(len(count), 1 / len(count)), RESAMPLES // 2)
    counts = drawn @ count
    low, high = np.quantile((drawn @ total)[counts > 0] / counts[counts > 0], [0.025, 0.975])
    return {
        counted: int(count.sum()), "mean": float(total.sum() / count.sum()), "low": float(low), "high": float(high),
        "total": float(total.sum()),
    }  # fmt: skip
