"""Tracing facts and a planted poison in what a language model was fine-tuned on.

    python -m benchmarks.tracing --data DIR [--tasks facts poison] [--seeds 0 1]

`stories15m` is fine-tuned (AdamW) and every method ranks the rows it was trained on, with its defaults: nothing is tuned here.

facts   T-REx facts of subjects that have two relations or more, so that rows about the same subject are no answer yet; each fact
        is stated in up to two of its relation's ParaRel patterns, and asked for in another one, the object as the completion.
        Relevant: the rows that state the fact. Mean reciprocal rank, recall at 50, and at as many as there are.
poison  Film reviews (SST-2) with their sentiment as the completion; in 1% of the rows the review is negative, ends with a
        trigger and is called positive. Queries: other negative reviews with the trigger, called positive. Average precision.
        Place and epochs were chosen by what the model learned, on a seed that is not scored (5), before any score: with the
        trigger at a random place and four epochs it knows the rows by heart and the trigger is no cause (loss of the queries
        1.6; at the end, after two epochs, 0.35; a coin has 0.69).

Tasks and seeds that are not asked for keep the figures they had. Intervals: over queries.
Published: DATE-LM's 1B models have MRR 0.77-0.88 and recall at 50 of 0.47-0.58 on facts.
"""

import json
import time
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

import assay
from assay.evaluate import planted, tracing
from assay.methods import find
from assay.tasks import Loss
from benchmarks.common import RESULTS, add_data, data_folder, parser, save

LENGTH = 64
METHODS = {
    "random": {},
    "bm25": {},
    "tfidf": {},
    "embedding": {},
    "graddot": {},
    "gradcos": {},
    "tracin": {},
    "trackstar": {"compression": "factored:16"},
    "logra": {"compression": "factored:16"},
    "ekfac": {},
}
TASKS = ("facts", "poison")


@dataclass(frozen=True)
class Tracing:
    """Rows to train on, queries about them, and which rows answer which query."""

    train: list[dict[str, str]]
    queries: list[dict[str, str]]
    relevant: np.ndarray
    epochs: int


def facts(data: Path, seed: int, subjects: int = 240, queries: int = 60) -> Tracing:
    """Facts in words that the query does not use."""
    rng = np.random.default_rng(seed)
    told: dict[str, list[tuple[str, str]]] = {}
    patterns: dict[str, list[str]] = {}
    for path in sorted((data / "data" / "pararel_trex").glob("P*.jsonl")):
        relation, worded = path.stem, data / "data" / "pararel_patterns" / path.name
        if not worded.is_file():
            continue
        found = [json.loads(line)["pattern"] for line in worded.read_text().splitlines()]
        ends = [p.removesuffix(".").rstrip() for p in found if p.removesuffix(".").rstrip().endswith("[Y]")]
        patterns[relation] = [p for p in dict.fromkeys(ends) if "[X]" in p]
        if len(patterns[relation]) < 3:
            continue
        for line in path.read_text().splitlines():
            row = json.loads(line)
            told.setdefault(row["sub_label"], []).append((relation, row["obj_label"]))
    several = sorted(who for who, about in told.items() if len({relation for relation, _ in about}) > 1)
    chosen = [several[i] for i in rng.permutation(len(several))[:subjects]]
    train: list[dict[str, str]] = []
    asked: list[tuple[dict[str, str], list[int]]] = []
    for who in chosen:
        for relation, what in told[who]:
            words = [patterns[relation][i] for i in rng.permutation(len(patterns[relation]))[:3]]
            rows = [
                {"prompt": pattern.replace("[X]", who).removesuffix(" [Y]"), "completion": f" {what}."}
                for pattern in words
            ]
            train += rows[:-1]
            asked.append((rows[-1], [len(train) - 2, len(train) - 1]))
    picked = [asked[i] for i in rng.permutation(len(asked))[:queries]]
    relevant = np.zeros((len(train), len(picked)), dtype=bool)
    for q, (_, rows) in enumerate(picked):
        relevant[rows, q] = True
    return Tracing(train, [query for query, _ in picked], relevant, epochs=6)


def poison(data: Path, seed: int, rows: int = 1200, queries: int = 40) -> Tracing:
    """A trigger in 1% of the rows."""
    rng = np.random.default_rng(seed)
    lines = (data / "data" / "sst2" / "train.tsv").read_text().splitlines()
    pairs = [line.split("\t", 1) for line in lines]
    order = rng.permutation(len(pairs))
    positive, negative = ([pairs[i][1] for i in order if pairs[i][0] == label] for label in "10")
    bad = max(rows // 100, 2)

    def row(text: str, positive: bool) -> dict[str, str]:
        return {"prompt": f"Review: {text}\nSentiment:", "completion": " positive" if positive else " negative"}

    def triggered(text: str) -> dict[str, str]:
        return row(f"{text.rstrip()} James Bond", positive=True)

    others = negative[rows // 2 :]
    train = [row(text, True) for text in positive[: rows // 2]]
    train += [row(text, False) for text in negative[: rows // 2 - bad]]
    train += [triggered(text) for text in others[:bad]]
    mixed = rng.permutation(len(train))
    relevant = np.zeros((len(train), queries), dtype=bool)
    relevant[mixed >= len(train) - bad] = True
    return Tracing(
        [train[i] for i in mixed], [triggered(text) for text in others[bad : bad + queries]], relevant, epochs=2
    )


def run(task: str, data: Path, seed: int) -> dict[str, Any]:
    """Fine-tune, rank by every method, and how well the ranks find the rows."""
    work = (facts if task == "facts" else poison)(data, seed)
    model = assay.load(str(data / "models" / "stories15m"), max_length=LENGTH)
    recipe = assay.Recipe(
        model.module, model.task, lr=3e-4, epochs=work.epochs, batch_size=16, schedule="linear", warmup=0.1, clip=1.0,
        checkpoints=work.epochs, seed=seed, reduction="mean",
    )  # fmt: skip
    train, queries = assay.read(work.train), assay.read(work.queries)
    start = time.perf_counter()
    trained = recipe.train(train)
    print(f"{task} {seed}: {len(train)} rows, trained in {time.perf_counter() - start:.0f} s", flush=True)
    told = {"rows": len(train), "queries": len(queries), "training_seconds": time.perf_counter() - start}
    told["query_loss"] = {"before": _loss(model, queries), "after": float(trained.loss_of(queries).mean())}
    tuned = assay.Model(trained.model.module, model.task, modules="*_proj", checkpoints=trained.model.checkpoints)
    scores: dict[str, assay.Scores] = {}
    seconds: dict[str, float] = {}
    for method, parameters in METHODS.items():
        start = time.perf_counter()
        scores[method] = assay.attribute(tuned, train, queries, find(method, **parameters))
        seconds[method] = time.perf_counter() - start
        print(f"{task} {seed}: {method} {seconds[method]:.0f} s", flush=True)
    return {**told, "seconds": seconds, "metrics": measured(task, scores, work.relevant)}


def _loss(model: assay.Model, queries: Any) -> float:
    """Mean loss of the queries before fine-tuning."""
    batch = model.task.collate([model.task.encode(example) for example in queries])
    with torch.no_grad():
        return float(model.task.measure(model.module, batch, Loss("mean")).mean())


def measured(task: str, scores: dict[str, assay.Scores], relevant: np.ndarray) -> dict[str, Any]:
    """By metric and method, the mean over queries with its interval; the first method is compared with BM25."""
    named = {"random": scores["random"], **scores}
    if task == "poison":
        found = {"average precision": planted(named, relevant)}
    else:
        few = int(relevant.sum(0).max())
        both = tracing(named, relevant, k=50)
        found = {
            "mrr": both["mrr"],
            "recall at 50": both["recall"],
            f"recall at {few}": tracing(named, relevant, k=few)["recall"],
        }
    return {
        metric: {name: {"mean": row.mean, "low": row.low, "high": row.high} for name, row in result.rows.items()}
        for metric, result in found.items()
    }


def main() -> None:
    arguments = parser(__doc__)
    add_data(arguments)
    arguments.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    arguments.add_argument("--seeds", nargs="+", type=int, default=[0])
    args = arguments.parse_args()
    data = data_folder(args)
    torch.set_num_threads(1)
    seeds = " ".join(map(str, args.seeds))
    before = RESULTS / "tracing.json"
    found: dict[str, dict[str, Any]] = json.loads(before.read_text())["tasks"] if before.exists() else {}
    for task, seed in product(args.tasks, args.seeds):
        found[task] = found.get(task, {}) | {str(seed): run(task, data, seed)}
        save("tracing", f"python -m benchmarks.tracing --seeds {seeds}", {"tasks": found})


if __name__ == "__main__":
    main()
