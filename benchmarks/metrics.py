"""Metrics beside those of dattri and quanda: the same arrays, the same number, the seconds of each.

    python -m benchmarks.metrics [--dattri PYTHON] [--quanda PYTHON] [--rows 20000] [--repeat 3]

20,000 training examples, 50 queries, 100 half-subsets, 10% of the examples with a wrong label, all drawn. Two threads. Ours is
what a user calls, checks and intervals included, which peers lack; `number only` leaves the intervals out. The numbers of all must
agree to 1e-4, or the benchmark stops.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from assay.evaluate import Truth, cardinality, lds, mislabelled, tracing
from assay.evaluate.metrics.lds import predictions, spearman
from assay.evaluate.metrics.mislabelled import measures
from assay.evaluate.metrics.ranks import top_mask
from assay.evaluate.metrics.retrieval import reciprocal_rank
from assay.provenance import Provenance
from assay.scores import Scores
from assay.tables import Table
from assay.values import Values
from benchmarks.common import parser, save

QUERIES, SUBSETS, WRONG, TOP = 50, 100, 0.1, 10
SCRIPT = Path(__file__).parent / "peers" / "metrics_scores.py"


def draw(n: int) -> dict[str, np.ndarray]:
    """Scores with some truth in them."""
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(n, QUERIES)).astype(np.float32)
    subsets = np.stack([rng.permutation(n)[: n // 2] for _ in range(SUBSETS)])
    sums = np.stack([scores[rows].sum(0) for rows in subsets])
    wrong = rng.random(n) < WRONG
    return {
        "scores": scores,
        "subsets": subsets,
        "losses": -(sums / sums.std(0) + rng.normal(size=sums.shape)),
        "wrong": wrong,
        "values": rng.normal(size=n) - wrong,
        "relevant": rng.random((n, QUERIES)) < 10 / n,
        "k": np.array(TOP),
    }


def table(kind: str, count: int) -> Table:
    """Examples that are nothing but their ids."""
    ids = [f"{kind}:{row}" for row in range(count)]
    return Table(ids, [None] * count, ids, np.arange(count), count)


def ours(arrays: dict[str, np.ndarray]) -> tuple[dict[str, Callable[[], float]], dict[str, Callable[[], float]]]:
    """Each metric as a user calls it, and without its interval."""
    n, losses = len(arrays["values"]), arrays["losses"]
    train, queries = table("train", n), table("query", QUERIES)
    how = Provenance(method="drawn", parameters={}, unit="arbitrary")
    scores, values = Scores.of(arrays["scores"], train, queries, how), Values.of(arrays["values"], train, how)
    masks = np.zeros((SUBSETS, n), dtype=bool)
    np.put_along_axis(masks, arrays["subsets"], True, axis=1)
    truth = Truth(
        masks,
        losses[None],
        losses[:1],
        tuple(map(str, range(SUBSETS))),
        tuple(train.ids),
        tuple(queries.ids),
        "half",
        Path(),
    )
    wrong, by_query, relevant = arrays["wrong"], arrays["scores"].T.copy(), arrays["relevant"].T.copy()
    bare = {
        "mislabelled": lambda: float(measures(arrays["values"], wrong, int(wrong.sum()))[0]),
        "lds": lambda: float(spearman(predictions(arrays["scores"], truth), -truth.losses).mean()),
        "cardinality": lambda: float(top_mask(scores, TOP).any(0).sum() / (QUERIES * TOP)),
        "tracing": lambda: float(np.mean([reciprocal_rank(*pair) for pair in zip(by_query, relevant, strict=True)])),
    }
    return bare, {
        "mislabelled": lambda: mislabelled(values, wrong)["auc"].mean,
        "lds": lambda: lds(scores, truth).mean,
        "cardinality": lambda: cardinality(scores, TOP).facts["distinct"]["drawn"],
        "tracing": lambda: tracing(scores, arrays["relevant"], TOP)["mrr"].mean,
    }


def measure(metrics: dict[str, Callable[[], float]], repeat: int) -> dict[str, dict[str, float]]:
    """The median seconds and the value of each."""
    found: dict[str, dict[str, float]] = {}
    for name, metric in metrics.items():
        seconds: list[float] = []
        for _ in range(repeat):
            start = time.perf_counter()
            value = metric()
            seconds.append(time.perf_counter() - start)
        found[name] = {"seconds": statistics.median(seconds), "value": value}
    return found


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--dattri", help="the Python of an environment that has it")
    arguments.add_argument("--quanda", help="likewise")
    arguments.add_argument("--rows", type=int, default=20_000)
    arguments.add_argument("--repeat", type=int, default=3)
    args = arguments.parse_args()
    torch.set_num_threads(2)
    arrays = draw(args.rows)
    bare, whole = ours(arrays)
    found: dict[str, Any] = {"assay": measure(whole, args.repeat), "assay, number only": measure(bare, args.repeat)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "arrays.npz"
        np.savez(path, **arrays)
        for peer in ("dattri", "quanda"):
            if (python := getattr(args, peer)) is not None:
                command = [python, str(SCRIPT), peer, str(path), str(args.repeat)]
                done = subprocess.run(command, capture_output=True, text=True)
                if done.returncode:
                    sys.exit(f"{peer} failed:\n{done.stderr[-3000:]}")
                found[peer] = json.loads(done.stdout.splitlines()[-1])
    for peer, rows in found.items():
        for name, row in rows.items():
            if abs(row["value"] - found["assay"][name]["value"]) > 1e-4:
                sys.exit(f"{name}: {peer} has {row['value']}, assay {found['assay'][name]['value']}.")
    save(
        "metrics",
        f"python -m benchmarks.metrics --rows {args.rows} --repeat {args.repeat}",
        {"rows": args.rows, "found": found},
    )


if __name__ == "__main__":
    main()
