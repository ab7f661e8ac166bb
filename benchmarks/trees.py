"""Attribution in gradient-boosted trees: time, label noise, and BoostIn's claim to replace leave-one-out.

    python -m benchmarks.trees time [--peer PYTHON] [--repeat 3]
    python -m benchmarks.trees leaf-influence --peer PYTHON         (and leaf-refit)
    python -m benchmarks.trees noise --data DIR
    python -m benchmarks.trees claim --data DIR

time: on data made here, BoostIn with 100 queries on 10,000 rows; LeafInfluence and LeafRefit of all rows on 1,000 rows; 100
LightGBM trees each, against tree_influence where `--peer` names the Python of an environment with it (LeafInfluence and
LeafRefit take it minutes, and are parts of their own, run once); and LeafInfluence on 100 trees of CatBoost, against
CatBoost's own object importance (AllPoints) of the same model. Every contender runs in a process of its own, in turn.

noise: see benchmarks/tree_noise.py.

claim: on adult, phoneme, mammography, german and wine, BoostIn (fit, and scores for 100 queries) against leave-one-out. The
refits without a row are done for a sample of rows, and their seconds times the rows are the cost of all. Agreement: for each
query the Spearman correlation of both over the sampled rows, half of them drawn at random, half among BoostIn's largest.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import RESULTS, add_data, contend, data_folder, medians, parser, save, timed

SLOW = ("leaf-influence", "leaf-refit")
OURS = ("boostin", *SLOW)
CATBOOST = ("leaf-influence, CatBoost", "CatBoost AllPoints")
PEER = str(Path(__file__).parent / "peers" / "tree_influence_all.py")
SETS = {"adult": ("adult-train.csv", None), "phoneme": ("phoneme.csv", None), "mammography": ("mammography.csv", None),
        "german": ("german.csv", None), "wine": ("winequality-red.csv", 5)}  # fmt: skip


Rows = tuple[np.ndarray, np.ndarray]


def made(rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Ten features, of which three make the label, with noise."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(rows, 10))
    return X, (X[:, 0] + X[:, 1] * X[:, 2] + 0.5 * rng.normal(size=rows) > 0).astype(int)


def contender(name: str) -> dict[str, Any]:
    """One of `OURS` and `CATBOOST`, on 10,000 rows for BoostIn and 1,000 for the others."""
    import assay

    X, y = made(10_000 if name == "boostin" else 1_000)
    Xq, yq = made(100, 1)
    if name in OURS:
        import lightgbm

        model = lightgbm.LGBMClassifier(n_estimators=100, verbose=-1).fit(X.astype(np.float32), y)
        return measured(lambda: assay.attribute(model, (X.astype(np.float32), y), (Xq.astype(np.float32), yq), name))
    import catboost

    model = catboost.CatBoostClassifier(n_estimators=100, verbose=0, allow_writing_files=False).fit(X, y)
    if name == CATBOOST[0]:
        return measured(lambda: assay.attribute(model, (X, y), (Xq, yq), "leaf-influence"))
    train, queries = catboost.Pool(X, y), catboost.Pool(Xq, yq)
    return measured(
        lambda: model.get_object_importance(queries, train, type="PerObject", update_method="AllPoints", verbose=False)
    )


def measured(action: Callable[[], Any]) -> dict[str, Any]:
    """Seconds, peak memory, and the processor's seconds, which a busy machine disturbs less."""
    before = time.process_time()
    return timed(action) | {"cpu": time.process_time() - before}


def compare(peer: str | None, repeat: int) -> dict[str, Any]:
    """Median seconds and ratios of what takes seconds."""
    commands = {name: [sys.executable, "-m", "benchmarks.trees", "contender", name] for name in OURS + CATBOOST}
    if peer:
        commands["tree_influence boostin"] = [peer, PEER, "boostin"]
    runs = contend(commands, repeat)
    seconds = medians(runs)
    ratios = {" / ".join(CATBOOST): seconds[CATBOOST[0]] / seconds[CATBOOST[1]]}
    if peer:
        ratios["boostin / tree_influence"] = seconds["boostin"] / seconds["tree_influence boostin"]
    return {"median_seconds": seconds, "median_cpu": medians(runs, "cpu"), "ratios": ratios, "runs": runs}


def compare_slow(peer: str, method: str) -> dict[str, Any]:
    """One run each of a method that takes tree_influence minutes."""
    ours = [sys.executable, "-m", "benchmarks.trees", "contender", method]
    runs = contend({method: ours, f"tree_influence {method}": [peer, PEER, method]}, 1)
    seconds = medians(runs)
    ratio = seconds[method] / seconds[f"tree_influence {method}"]
    return {
        "median_seconds": seconds,
        "median_cpu": medians(runs, "cpu"),
        "ratios": {f"{method} / tree_influence": ratio},
        "runs": runs,
    }


def table(folder: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Features as numbers, categories as codes, and a binary label, which is the last column."""
    import pandas as pd

    file, above = SETS[name]
    frame = pd.read_csv(folder / file, header=None, skipinitialspace=True)
    label = frame.pop(frame.columns[-1])
    X = np.stack([c if c.dtype.kind in "if" else pd.factorize(c)[0] for _, c in frame.items()], 1).astype(float)
    codes = label.to_numpy() > above if above is not None else pd.factorize(label, sort=True)[0]
    return X, np.asarray(codes).astype(int)


def claim(folder: Path, refits: int, queries: int = 100) -> dict[str, dict[str, dict[str, float]]]:
    """Seconds of BoostIn and of leave-one-out, and their agreement, for the models of two libraries."""
    import catboost
    import lightgbm

    makes = {
        "LightGBM": lambda: lightgbm.LGBMClassifier(n_estimators=100, verbose=-1, deterministic=True),
        "CatBoost": lambda: catboost.CatBoostClassifier(n_estimators=100, verbose=0, allow_writing_files=False),
    }
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name in SETS:
        X, y = table(folder, name)
        order = np.random.default_rng(0).permutation(len(y))
        held, rest = order[:queries], order[queries:]
        found[name] = {
            library: against_loo(make, (X[rest], y[rest]), (X[held], y[held]), refits)
            for library, make in makes.items()
        }
        print(name, found[name], file=sys.stderr, flush=True)
    return found


def against_loo(make: Any, train: Rows, queries: Rows, refits: int) -> dict[str, float]:
    """One data set and library."""
    from scipy.stats import spearmanr

    import assay

    X, y = train
    model = make().fit(X, y)
    start = time.perf_counter()
    scores = assay.attribute(model, train, queries, "boostin").array
    boostin = time.perf_counter() - start
    rng = np.random.default_rng(1)
    largest = np.argsort(-np.abs(scores).mean(1))[: max(refits, len(y) // 20)]
    rows = np.unique(np.r_[rng.permutation(len(y))[: refits // 2], rng.permutation(largest)[: refits - refits // 2]])
    before, changed, start = log_loss(model, queries), [], time.perf_counter()
    for row in rows:
        changed.append(log_loss(make().fit(np.delete(X, row, 0), np.delete(y, row)), queries) - before)
    one = (time.perf_counter() - start) / len(rows)
    loo = np.stack(changed)
    each = [spearmanr(scores[rows, q], loo[:, q]).statistic for q in range(loo.shape[1])]
    return {
        "rows": len(y), "boostin": boostin, "refits": len(rows), "refit": one, "leave-one-out": one * len(y),
        "ratio": one * len(y) / boostin, "agreement": float(np.nanmean(each)),
        "agreement of means": float(spearmanr(scores[rows].mean(1), loo.mean(1)).statistic),
    }  # fmt: skip


def log_loss(model: Any, queries: Rows) -> np.ndarray:
    """Of each query, from the model's probabilities."""
    X, y = queries
    return -np.log(np.maximum(model.predict_proba(X)[np.arange(len(y)), y], 1e-15))


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("part", choices=("time", *SLOW, "noise", "claim", "contender"))
    arguments.add_argument("name", nargs="?", help=argparse.SUPPRESS)
    add_data(arguments)
    arguments.add_argument("--peer", help="Python of an environment with tree_influence")
    arguments.add_argument("--repeat", type=int, default=3)
    arguments.add_argument("--refits", type=int, default=30)
    args = arguments.parse_args()
    if args.part == "contender":
        print(json.dumps(contender(args.name)))
        return
    options, result = "", dict[str, Any]()
    if args.part == "time":
        options, result = f"--peer PYTHON --repeat {args.repeat}", compare(args.peer, args.repeat)
    elif args.part in SLOW:
        options, result = "--peer PYTHON", compare_slow(args.peer, args.part)
    elif args.part == "noise":
        from benchmarks.tree_noise import noise

        options, result = "--data DIR", noise(data_folder(args) / "data" / "tabular")
    else:
        options = f"--data DIR --refits {args.refits}"
        result = {"sets": claim(data_folder(args) / "data" / "tabular", args.refits)}
    path = RESULTS / "trees.json"
    known = json.loads(path.read_text())["parts"] if path.exists() else {}
    parts = known | {args.part: {"command": f"python -m benchmarks.trees {args.part} {options}", **result}}
    save("trees", "python -m benchmarks.trees PART", {"parts": parts})


if __name__ == "__main__":
    main()
