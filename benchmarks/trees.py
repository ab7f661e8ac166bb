"""Attribution in gradient-boosted trees: time, label noise, and BoostIn's claim to replace leave-one-out.

    python -m benchmarks.trees [--data DIR] [--peer PYTHON] [--repeat 3]

Timings, on data made here: BoostIn with 100 queries on 10,000 rows; LeafInfluence and LeafRefit of all rows on 1,000 rows;
100 trees each, against CatBoost's own object importance (AllPoints) on the same model, and against tree_influence where
`--peer` names the Python of an environment with it. Every contender runs in a process of its own, in turn.

With `--data` (a folder with data/tabular/): ROC AUC of finding 10% flipped labels of adult, by the mean score for 1,000
held-out rows and by self-influence; nothing is tuned. And the time of BoostIn against leave-one-out on adult, phoneme,
mammography, german and wine: fit and score for 100 queries against one refit, times the rows.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import add_data, contend, data_folder, medians, parser, save, timed

CONTENDERS = ("boostin", "leaf-influence", "leaf-refit", "catboost AllPoints")
SETS = {"adult": ("adult-train.csv", None), "phoneme": ("phoneme.csv", None), "mammography": ("mammography.csv", None),
        "german": ("german.csv", None), "wine": ("winequality-red.csv", 5)}  # fmt: skip
NOISE = ("boostin", "leaf-influence", "leaf-refit", "trex", "tracin-trees", "tree-similarity")


def made(rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Ten features, of which three make the label, with noise."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(rows, 10))
    return X, (X[:, 0] + X[:, 1] * X[:, 2] + 0.5 * rng.normal(size=rows) > 0).astype(int)


def contender(name: str) -> dict[str, Any]:
    """One of `CONTENDERS`, on 10,000 rows for BoostIn and 1,000 for the others."""
    import assay

    rows = 10_000 if name == "boostin" else 1_000
    X, y = made(rows)
    Xq, yq = made(100, 1)
    if name == "boostin":
        import lightgbm

        model = lightgbm.LGBMClassifier(n_estimators=100, verbose=-1).fit(X, y)
    else:
        import catboost

        model = catboost.CatBoostClassifier(n_estimators=100, verbose=0, allow_writing_files=False).fit(X, y)
    if name == "catboost AllPoints":
        import catboost

        train, queries = catboost.Pool(X, y), catboost.Pool(Xq, yq)
        return timed(
            lambda: model.get_object_importance(
                queries, train, type="PerObject", update_method="AllPoints", verbose=False
            )
        )
    return timed(lambda: assay.attribute(model, (X, y), (Xq, yq), name))


def table(folder: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Features as numbers, categories as codes, and a binary label, which is the last column."""
    import pandas as pd

    file, above = SETS[name]
    frame = pd.read_csv(folder / file, header=None, skipinitialspace=True)
    label = frame.pop(frame.columns[-1])
    X = np.stack([c if c.dtype.kind in "if" else pd.factorize(c)[0] for _, c in frame.items()], 1).astype(float)
    codes = label.to_numpy() > above if above is not None else pd.factorize(label, sort=True)[0]
    return X, np.asarray(codes).astype(int)


def label_noise(folder: Path, rows: int, seeds: int = 3) -> dict[str, float]:
    """Mean AUC over seeds of finding flipped labels on adult: low mean score for held-out rows, and high self-influence.

    Self-influence is the score of a row for itself: a flipped row is one that only it can explain.
    """
    import catboost
    from sklearn.metrics import roc_auc_score

    import assay

    X, y = table(folder, "adult")
    found: dict[str, list[float]] = {}
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(y))
        train, held = order[:rows], order[rows : rows + 1000]
        flipped = rng.random(rows) < 0.1
        noisy = np.where(flipped, 1 - y[train], y[train])
        model = catboost.CatBoostClassifier(
            n_estimators=100, verbose=0, allow_writing_files=False, random_seed=seed).fit(X[train], noisy)  # fmt: skip
        for name in NOISE:
            if rows > 2000 and name in ("leaf-influence", "leaf-refit"):
                continue
            fitted = assay.methods.find(name).fit(model, assay.read((X[train], noisy)))
            mean = fitted.score(assay.read((X[held], y[held]))).array.mean(1)
            own = np.diag(fitted.score(assay.read((X[train], noisy))).array)
            found.setdefault(f"{name}, mean for held-out rows", []).append(float(roc_auc_score(flipped, -mean)))
            found.setdefault(f"{name}, self-influence", []).append(float(roc_auc_score(flipped, own)))
    return {name: float(np.mean(values)) for name, values in found.items()}


def claim(folder: Path) -> dict[str, dict[str, float]]:
    """Seconds of BoostIn, and of leave-one-out as one refit times the rows."""
    import lightgbm

    import assay

    found = {}
    for name in SETS:
        X, y = table(folder, name)
        order = np.random.default_rng(0).permutation(len(y))[:10_000]
        X, y = X[order], y[order]
        make = lambda: lightgbm.LGBMClassifier(n_estimators=100, verbose=-1)  # noqa: E731
        start = time.perf_counter()
        model = make().fit(X, y)
        fit = time.perf_counter() - start
        start = time.perf_counter()
        assay.attribute(model, (X, y), (X[:100], y[:100]), "boostin")
        boostin = time.perf_counter() - start
        found[name] = {
            "rows": len(y),
            "boostin": boostin,
            "leave-one-out": fit * len(y),
            "ratio": fit * len(y) / boostin,
        }
    return found


def main() -> None:
    arguments = parser(__doc__)
    add_data(arguments)
    arguments.add_argument("--peer", help="Python of an environment with tree_influence")
    arguments.add_argument("--repeat", type=int, default=3)
    arguments.add_argument("--contender", help=argparse.SUPPRESS)
    args = arguments.parse_args()
    if args.contender:
        print(json.dumps(contender(args.contender)))
        return
    commands = {name: [sys.executable, "-m", "benchmarks.trees", "--contender", name] for name in CONTENDERS}
    if args.peer:
        script = str(Path(__file__).parent / "peers" / "tree_influence_all.py")
        commands |= {f"tree_influence {name}": [args.peer, script, name] for name in CONTENDERS[:3]}
    runs = contend(commands, args.repeat)
    seconds = medians(runs)
    ratios = {"leaf-influence / catboost AllPoints": seconds["leaf-influence"] / seconds["catboost AllPoints"]}
    ratios |= {
        f"{name} / tree_influence": seconds[name] / seconds[f"tree_influence {name}"]
        for name in CONTENDERS[:3] if f"tree_influence {name}" in seconds
    }  # fmt: skip
    result: dict[str, Any] = {"median_seconds": seconds, "ratios": ratios, "runs": runs}
    if args.data:
        folder = data_folder(args) / "data" / "tabular"
        result["label_noise_auc"] = {str(rows): label_noise(folder, rows) for rows in (1000, 4000)}
        result["claim"] = claim(folder)
    save("trees", f"python -m benchmarks.trees --repeat {args.repeat} --data DIR --peer PYTHON", result)


if __name__ == "__main__":
    main()
