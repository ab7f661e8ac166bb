"""What scorers know of LinFiK on rows they were not fitted to, and what selections came to; `benchmarks/results/linfik.json`."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

import assay
from assay.methods.student.distil import distil
from benchmarks.common import save
from benchmarks.linfik.__main__ import CANDIDATES, ORDER, PLANTED, RECIPE, SHARE, TAUGHT, fitted, measured, taught
from benchmarks.linfik.data import PLANTS, Row, poisoned, pool_of

SIZES = (50, 150)
SEEDS = 3


def report(folder: Path, work: Path) -> None:
    """From what `measure`, `clock` and `select` have left in the work folder."""
    pool = pool_of(folder)
    values, loss = measured(work, len(pool))
    found: dict[str, Any] = {
        "pool": {"rows": len(pool), "domains": list(ORDER)},
        "known": known(folder, work, pool, values),
        "by loss": {name: rank(values[:, k], loss) for k, name in enumerate(ORDER)},
        "by domain": {name: rank(values[:, k], levels(pool, values[:, k])) for k, name in enumerate(ORDER)},
        "domain": unseen(pool, values),
        "settings": {"share": SHARE, "candidates": CANDIDATES, "sample": TAUGHT, "recipe": RECIPE},
    }
    if (work / "clock.json").exists():
        found["clock"] = json.loads((work / "clock.json").read_text())
    if planted := poison(folder, work):
        found["poisoned"] = planted
    if chosen := selection(work):
        found["selection"] = chosen
    if again := reordered(work):
        found["other orders"] = again
    save("linfik", "python -m benchmarks.linfik measure, clock, select, report --data DIR --work WORK", found)


def known(folder: Path, work: Path, pool: list[Row], values: np.ndarray) -> dict[str, Any]:
    """Rank correlation on the pool, which scorers were not fitted to, by target and size of the sample, taught by token and by
    row; also within a domain, and coverage of intervals.
    """
    texts, sources = [row["text"] for row in pool], np.array([row["source"] for row in pool])
    found: dict[str, Any] = {}
    for k, name in enumerate(ORDER):
        rows, told = taught(folder, work, name)
        for m in SIZES:
            for way in ("by row", "by token"):
                lines = []
                for seed in range(SEEDS):
                    some = np.random.default_rng(seed).permutation(len(rows))[:m]
                    scorer, held = fitted([rows[i] for i in some], [told[i] for i in some], way == "by row")
                    said, right = scorer.predict(texts), values[:, k]
                    inside = [rank(said.value[mine], right[mine]) for mine in (sources == one for one in ORDER)]
                    covered = float(((said.low <= right) & (right <= said.high)).mean())
                    lines.append([rank(said.value, right), float(np.mean(inside)), covered, held.spearman])
                mean, sd = np.mean(lines, 0), np.std(lines, 0, ddof=1)
                numbers = dict(zip(("spearman", "within", "coverage", "told"), mean.tolist(), strict=True))
                found[f"{name}, {m}, {way}"] = {**numbers, "sd": float(sd[0])}
    return found


def levels(pool: list[Row], values: np.ndarray) -> np.ndarray:
    """The mean value of each row's domain."""
    sources = np.array([row["source"] for row in pool])
    return np.sum([(sources == one) * values[sources == one].mean() for one in ORDER], 0)


def unseen(pool: list[Any], values: np.ndarray) -> dict[str, Any]:
    """With one domain left out of the sample: how much of it is said to be unlike the sample, and of the rest."""
    texts, sources = [row["text"] for row in pool], np.array([row["source"] for row in pool])
    found: dict[str, Any] = {}
    for name in ORDER:
        order = np.random.default_rng(0).permutation(np.flatnonzero(sources != name))
        sample, rest, out = order[: len(order) // 2], order[len(order) // 2 :], np.flatnonzero(sources == name)
        scorer, _ = distil([texts[i] for i in sample], values[sample, 1], sources[sample].tolist())
        novelty = [scorer.predict([texts[i] for i in rows]) for rows in (rest, out)]
        labels = np.repeat([0, 1], [len(rest), len(out)])
        auc = float(roc_auc_score(labels, np.concatenate([said.novelty for said in novelty])))
        found[name] = {
            "auc": auc, "told of it": float((~novelty[1].in_domain).mean()), "of the rest": float((~novelty[0].in_domain).mean()),
        }  # fmt: skip
    return found


def poison(folder: Path, work: Path) -> dict[str, Any]:
    """ROC AUC of finding poisoned rows by their value for targets with the same behaviour, mean and least over seeds; the scorer's on
    rows it was not fitted to, from samples of two sizes.
    """
    found: dict[str, Any] = {}
    for plant in PLANTS:
        each: dict[str, list[float]] = {}
        seeds = [seed for name, seed in PLANTED if name == plant and (work / f"poison-{name}-{seed}.npz").exists()]
        for seed in seeds:
            marked, targets = poisoned(folder, plant, seed)
            bad, train = np.array([row["label"] for row in marked]), assay.read(marked)
            values = np.load(work / f"poison-{plant}-{seed}.npz")["values"].astype(float).reshape(len(marked), -1)
            linfik = {name: values[:, k] for k, name in enumerate(("linfik", "linfik, contrast")[: values.shape[1]])}
            ways = {by: assay.value(None, train, targets, by).array for by in ("random", "bm25")} | linfik
            for by, scores in ways.items():
                each.setdefault(by, []).append(float(roc_auc_score(bad, scores)))
            texts, order = list(train.texts), np.random.default_rng(seed).permutation(len(marked))
            for m in (60, 120):
                sample, rest = order[:m], order[m:]
                scorer, _ = distil([texts[i] for i in sample], values[sample, -1], [None] * m)
                said = scorer.predict([texts[i] for i in rest]).value
                each.setdefault(f"scorer of {m} rows", []).append(float(roc_auc_score(bad[rest], said)))
        if seeds:
            means = {by: {"mean": float(np.mean(auc)), "least": min(auc)} for by, auc in each.items()}
            found[plant] = {
                "what": PLANTS[plant],
                "seeds": seeds,
                "rows": len(marked),
                "poisoned": int(bad.sum()),
                **means,
            }
    return found


def selection(work: Path) -> dict[str, Any]:
    """Fall of the targets' loss by way of choosing: mean over seeds, standard error, and the share of LinFiK's."""
    place = work / "trainings.jsonl"
    every = [json.loads(line) for line in place.read_text().splitlines()] if place.exists() else []
    lines = [line for line in every if line.get("order") is None]
    found: dict[str, Any] = {}
    for target in dict.fromkeys(line["target"] for line in lines):
        mine = [line for line in lines if line["target"] == target]
        loss = {(line["seed"], line["by"]): line["loss"] for line in mine}
        ways = [by for by in dict.fromkeys(line["by"] for line in mine) if by != "before"]
        seeds = [
            seed
            for seed in sorted({line["seed"] for line in mine})
            if all((seed, by) in loss for by in [*ways, "before"])
        ]
        if not seeds or not {"linfik", "alinfik"} <= set(ways):
            continue
        falls = {by: np.array([loss[seed, "before"] - loss[seed, by] for seed in seeds]) for by in ways}
        found[target] = {"seeds": len(seeds), "before": float(np.mean([loss[seed, "before"] for seed in seeds]))}
        for by, fall in falls.items():
            error = float(fall.std(ddof=1) / np.sqrt(len(fall))) if len(fall) > 1 else None
            apart = falls["alinfik"] - fall
            wins = float(apart.std(ddof=1) / np.sqrt(len(apart))) if len(apart) > 1 else None
            found[target][by] = {
                "fall": float(fall.mean()), "stderr": error, "of linfik": float(fall.mean() / falls["linfik"].mean()),
                "alinfik beyond": float(apart.mean()), "alinfik beyond stderr": wins,
            }  # fmt: skip
    return found


def reordered(work: Path) -> dict[str, dict[str, float]]:
    """The same selections trained on in another order: mean fall of the loss by target and way of choosing."""
    place = work / "trainings.jsonl"
    lines = [json.loads(line) for line in place.read_text().splitlines()] if place.exists() else []
    before = {line["target"]: line["loss"] for line in lines if line["by"] == "before"}
    each: dict[str, dict[str, list[float]]] = {}
    for line in lines:
        if line.get("order") is not None:
            ways = each.setdefault(f"{line['target']}, order {line['order']}", {})
            ways.setdefault(line["by"], []).append(before[line["target"]] - line["loss"])
    return {name: {by: float(np.mean(falls)) for by, falls in ways.items()} for name, ways in each.items()}


def rank(one: np.ndarray, other: np.ndarray) -> float:
    return float(spearmanr(one, other).statistic)
