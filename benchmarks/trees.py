"""Attribution in gradient-boosted trees: time, label noise, and BoostIn's claim to replace leave-one-out.

    python -m benchmarks.trees time [--peer PYTHON] [--repeat 3]
    python -m benchmarks.trees leaf-influence --peer PYTHON         (and leaf-refit)
    python -m benchmarks.trees noise NAME --data DIR --rows 1000
    python -m benchmarks.trees claim NAME --data DIR

time: on data made here, BoostIn with 100 queries on 10,000 rows; LeafInfluence and LeafRefit of all rows on 1,000 rows; 100
LightGBM trees each, against tree_influence where `--peer` names the Python of an environment with it (LeafInfluence and
LeafRefit take it minutes, and are parts of their own, run once); and LeafInfluence on 100 trees of CatBoost, against
CatBoost's own object importance (AllPoints) of the same model. Every contender runs in a process of its own, in turn, and ours
and CatBoost once on few rows before.

noise: see benchmarks/tree_noise.py.

claim: on adult, phoneme, mammography, german or wine, BoostIn (fit, and scores for 100 queries) against leave-one-out. The
refits without a row are done for a sample of rows, and their seconds times the rows are the cost of all. Agreement: for each
query the Spearman correlation of both over the sampled rows, half of them drawn at random, half among BoostIn's largest.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import RESULTS, add_data, contend, data_folder, medians, parser, save, timed
from benchmarks.tree_noise import noise

SLOW = ("leaf-influence", "leaf-refit")
OURS = ("boostin", *SLOW)
CATBOOST = ("leaf-influence, CatBoost", "CatBoost AllPoints")
MADE = ("made clean", "made overlapping")
PEER = str(Path(__file__).parent / "peers" / "tree_influence_all.py")
SETS = {"adult": ("adult-train.csv", None), "phoneme": ("phoneme.csv", None), "mammography": ("mammography.csv", None),
        "german": ("german.csv", None), "wine": ("winequality-red.csv", 5)}  # fmt: skip


FEW = 60


Rows = tuple[np.ndarray, np.ndarray]


def made(rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Ten features, of which three make the label, with noise."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(rows, 10))
    return X, (X[:, 0] + X[:, 1] * X[:, 2] + 0.5 * rng.normal(size=rows) > 0).astype(int)


def contender(name: str, rows: int) -> dict[str, Any]:
    """One of `OURS` and `CATBOOST`, after a first call on few rows, in which a process loads what it does once."""
    action(name, FEW)()
    return measured(action(name, rows))


def action(name: str, rows: int) -> Callable[[], Any]:
    """What is timed: a method's scores of a fitted model of 100 trees."""
    import assay

    X, y = made(rows)
    Xq, yq = made(100, 1)
    if name in OURS:
        import lightgbm

        model = lightgbm.LGBMClassifier(n_estimators=100, verbose=-1).fit(X.astype(np.float32), y)
        return lambda: assay.attribute(model, (X.astype(np.float32), y), (Xq.astype(np.float32), yq), name)
    import catboost

    model = catboost.CatBoostClassifier(n_estimators=100, verbose=0, allow_writing_files=False).fit(X, y)
    if name == CATBOOST[0]:
        return lambda: assay.attribute(model, (X, y), (Xq, yq), "leaf-influence")
    train, queries = catboost.Pool(X, y), catboost.Pool(Xq, yq)
    return lambda: model.get_object_importance(
        queries, train, type="PerObject", update_method="AllPoints", verbose=False
    )


def measured(action: Callable[[], Any]) -> dict[str, Any]:
    """Seconds, peak memory, and the processor's seconds, which a busy machine disturbs less."""
    before = time.process_time()
    return timed(action) | {"cpu": time.process_time() - before}


def compare(peer: str | None, repeat: int) -> dict[str, Any]:
    """Median seconds and ratios of what takes seconds."""
    commands = {name: ours(name, 10_000 if name == "boostin" else 1000) for name in OURS + CATBOOST}
    if peer:
        commands["tree_influence boostin"] = [peer, PEER, "boostin", "10000"]
    runs = contend(commands, repeat)
    seconds = medians(runs)
    ratios = {" / ".join(CATBOOST): seconds[CATBOOST[0]] / seconds[CATBOOST[1]]}
    if peer:
        ratios["boostin / tree_influence boostin"] = seconds["boostin"] / seconds["tree_influence boostin"]
    return {"median_seconds": seconds, "median_cpu": medians(runs, "cpu"), "ratios": ratios, "runs": runs}


def ours(name: str, rows: int) -> list[str]:
    """The command of a contender."""
    return [sys.executable, "-m", "benchmarks.trees", "contender", name, "--rows", str(rows)]


def compare_slow(peer: str, method: str, rows: int) -> dict[str, Any]:
    """One run each of a method that takes tree_influence minutes."""
    runs = contend({method: ours(method, rows), f"tree_influence {method}": [peer, PEER, method, str(rows)]}, 1)
    seconds = medians(runs)
    ratio = seconds[method] / seconds[f"tree_influence {method}"]
    ratios = {f"{method} / tree_influence {method}": ratio}
    return {"rows": rows, "median_seconds": seconds, "median_cpu": medians(runs, "cpu"), "ratios": ratios, "runs": runs}


def table(folder: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Features as numbers, categories as codes, and a binary label, which is the last column."""
    import pandas as pd

    file, above = SETS[name]
    frame = pd.read_csv(folder / file, header=None, skipinitialspace=True)
    label = frame.pop(frame.columns[-1])
    X = np.stack([c if c.dtype.kind in "if" else pd.factorize(c)[0] for _, c in frame.items()], 1).astype(float)
    codes = label.to_numpy() > above if above is not None else pd.factorize(label, sort=True)[0]
    return X, np.asarray(codes).astype(int)


def claim(folder: Path, name: str, refits: int, queries: int = 100) -> dict[str, float]:
    """Seconds of BoostIn and of leave-one-out on a data set, and their agreement."""
    import lightgbm
    from scipy.stats import spearmanr

    import assay

    X, y = table(folder, name)
    order = np.random.default_rng(0).permutation(len(y))
    held, (X, y) = (X[order[:queries]], y[order[:queries]]), (X[order[queries:]], y[order[queries:]])
    make = lambda: lightgbm.LGBMClassifier(n_estimators=100, verbose=-1, deterministic=True, n_jobs=1)  # noqa: E731
    model = make().fit(X, y)
    assay.attribute(model, (X, y), held, "boostin")  # imports are nobody's cost
    start = time.perf_counter(), time.process_time()
    scores = assay.attribute(model, (X, y), held, "boostin").array
    boostin, boostin_cpu = time.perf_counter() - start[0], time.process_time() - start[1]
    rng = np.random.default_rng(1)
    largest = np.argsort(-np.abs(scores).mean(1))[: max(refits, len(y) // 20)]
    rows = np.unique(np.r_[rng.permutation(len(y))[: refits // 2], rng.permutation(largest)[: refits - refits // 2]])
    before, changed, start = log_loss(model, held), list[np.ndarray](), (time.perf_counter(), time.process_time())
    for row in rows:
        changed.append(log_loss(make().fit(np.delete(X, row, 0), np.delete(y, row)), held) - before)
    refit, refit_cpu = (
        (now - then) / len(rows) for now, then in zip((time.perf_counter(), time.process_time()), start, strict=True)
    )
    loo = np.stack(changed)
    each = [spearmanr(scores[rows, q], loo[:, q]).statistic for q in range(queries)]
    return {
        "rows": len(y), "refits": len(rows), "boostin": boostin, "leave-one-out": refit * len(y),
        "ratio": refit * len(y) / boostin, "ratio of processor seconds": refit_cpu * len(y) / boostin_cpu,
        "agreement": float(np.nanmean(each)),
        "agreement of means": float(spearmanr(scores[rows].mean(1), loo.mean(1)).statistic),
    }  # fmt: skip


def log_loss(model: Any, queries: Rows) -> np.ndarray:
    """Of each query, from the model's probabilities."""
    X, y = queries
    return -np.log(np.maximum(model.predict_proba(X)[np.arange(len(y)), y], 1e-15))


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("part", choices=("time", *SLOW, "noise", "claim", "contender"))
    arguments.add_argument(
        "name", nargs="?", choices=(*SETS, *MADE, *OURS, *CATBOOST), help="data set, for claim and noise"
    )
    add_data(arguments)
    arguments.add_argument("--peer", help="Python of an environment with tree_influence")
    arguments.add_argument("--repeat", type=int, default=3)
    arguments.add_argument("--rows", type=int, default=1000, help="for noise, and for leaf-influence and leaf-refit")
    arguments.add_argument("--refits", type=int, default=30)
    args = arguments.parse_args()
    if args.part == "contender":
        print(json.dumps(contender(args.name, args.rows)))
        return
    folder = data_folder(args) / "data" / "tabular" if args.part in ("noise", "claim") else Path()
    if args.part == "time":
        options, result = f"--peer PYTHON --repeat {args.repeat}", compare(args.peer, args.repeat)
    elif args.part in SLOW:
        options, result = f"--peer PYTHON --rows {args.rows}", compare_slow(args.peer, args.part, args.rows)
    elif args.part == "noise":
        options = "NAME --data DIR --rows ROWS"
        result = {"auc": {f"{args.name}, {args.rows:,}": noise(folder, args.name, args.rows)}}
    else:
        options = f"NAME --data DIR --refits {args.refits}"
        result = {"sets": {args.name: claim(folder, args.name, args.refits)}}
    path = RESULTS / "trees.json"
    parts = json.loads(path.read_text())["parts"] if path.exists() else {}
    for kind in {"auc", "sets"} & set(result):  # each run has one of them
        result[kind] = parts.get(args.part, {}).get(kind, {}) | result[kind]
    parts |= {args.part: {"command": f"python -m benchmarks.trees {args.part} {options}", **result}}
    save("trees", "python -m benchmarks.trees PART", {"parts": parts})


if __name__ == "__main__":
    main()
