"""Valuation: permutation Shapley on iris beside pyDVL, and finding mislabelled rows on adult as OpenDataVal measures it.

    python -m benchmarks.valuation iris [--pydvl PYTHON] [--repeat 3]      # PYTHON: of an environment with pyDVL
    python -m benchmarks.valuation adult --data DIR [--seeds 20 21 22 23 24] [--methods data-oob knn-shapley ...]

The F1 is OpenDataVal's: the values are split in two by k-means, and the rows of the lower cluster are taken for mislabelled.
1,000 training rows with a fifth of the labels flipped, 200 clean validation rows. What stands in `METHODS` was chosen on the seeds
0 to 4; the figures are of others. Writes `benchmarks/results/iris.json` and `mislabelled.json`.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

import numpy as np
import pandas as pd
from sklearn.cluster import KMeans
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, roc_auc_score

import assay
from assay.methods import Shapley, find
from assay.methods.retrain.features import encoded
from benchmarks.common import RESULTS, add_data, data_folder, parser, save

UPDATES = 51
PEER = Path(__file__).parent / "peers" / "pydvl_iris.py"
NAMES = [
    "age", "workclass", "fnlwgt", "education", "education-num", "marital-status", "occupation", "relationship", "race",
    "sex", "capital-gain", "capital-loss", "hours-per-week", "native-country", "income",
]  # fmt: skip
Fit = Callable[[Any], Any]
LOGISTIC: Fit = lambda train: LogisticRegression(C=0.1, max_iter=1000)  # noqa: E731
FOREST: Fit = lambda train: RandomForestClassifier(  # noqa: E731
    400, max_depth=6, max_features=0.3, min_samples_leaf=5, random_state=0
).fit(*train)
METHODS: dict[str, tuple[str, Fit | None, dict[str, Any]]] = {
    "data-oob": ("data-oob", LOGISTIC, {"bags": 200}),
    "data-oob of a forest": ("data-oob", FOREST, {}),
    "knn-shapley": ("knn-shapley", None, {"k": 3, "scale": False}),
    "knn-shapley on itself": ("knn-shapley", None, {"k": 3, "scale": False}),
    "lava": ("lava", None, {}),
    "loo": ("loo", LOGISTIC, {}),
    "banzhaf": ("banzhaf", LOGISTIC, {"stop": "updates:1000"}),
    "shapley": ("shapley", LOGISTIC, {"stop": "updates:100"}),
    "beta-shapley": ("beta-shapley", LOGISTIC, {"stop": "updates:20"}),
}
"""Row of the table: method, model, parameters. The forest is fitted first, and its own bags are used."""
PUBLISHED = {"data-oob": 0.631, "knn-shapley": 0.561, "shapley": 0.478, "lava": 0.019}
ALONE = ("data-oob", "data-oob of a forest", "knn-shapley on itself")
"""Rows that look at no validation rows."""


def iris() -> tuple[Any, Any]:
    """90 rows to value, 60 to score them."""
    X, y = load_iris(return_X_y=True)
    order = np.random.default_rng(0).permutation(150)
    return (X[order[:90]], y[order[:90]]), (X[order[90:]], y[order[90:]])


def time_iris(peer: str | None, repeat: int) -> dict[str, Any]:
    """Seconds of `UPDATES` permutations; `plain` fits by scikit-learn alone."""
    train, valid = iris()
    found: dict[str, list[float]] = {}
    for _ in range(repeat):
        for processes in (1, 2):
            for name, model in (("", LogisticRegression(max_iter=1000)), (" plain", Plain(max_iter=1000))):
                method = Shapley(sampler="permutation", stop=f"updates:{UPDATES}", tolerance=0, processes=processes)
                start = time.perf_counter()
                assay.value(model, train, valid, method)
                found.setdefault(f"assay{name}, {processes} processes", []).append(time.perf_counter() - start)
    if peer is not None:  # minutes each, so once
        for processes in (1, 2):
            done = subprocess.run([peer, str(PEER), str(processes)], capture_output=True, text=True, check=True)
            found[f"pydvl, {processes} processes"] = [json.loads(done.stdout.splitlines()[-1])["seconds"]]
    return {"updates": UPDATES, "median_seconds": {name: median(times) for name, times in found.items()}, "runs": found}


class Plain(LogisticRegression):
    """Of another class, so that every fit is scikit-learn's own."""


def adult(folder: Path, rows: int, flips: float, seed: int) -> tuple[Any, Any, np.ndarray]:
    """Encoded rows with a share of the labels flipped, clean validation rows, and which were flipped."""
    frame = pd.read_csv(
        folder / "data" / "tabular" / "adult-train.csv", header=None, names=NAMES, skipinitialspace=True
    )
    frame = frame.sample(rows + 200, random_state=seed).reset_index(drop=True)
    y = (frame.pop("income") == ">50K").astype(int).to_numpy()
    X, Xv = encoded(frame[:rows], frame[rows:])
    flipped = np.random.default_rng(seed).permutation(rows) < round(flips * rows)
    labels = np.where(flipped, 1 - y[:rows], y[:rows])
    return (X, labels), (Xv, y[rows:]), flipped


def detection(values: np.ndarray, flipped: np.ndarray) -> dict[str, float]:
    cluster = KMeans(2, n_init=10, random_state=0).fit(values[:, None])
    low = int(cluster.cluster_centers_[:, 0].argmin())
    return {"f1": float(f1_score(flipped, cluster.labels_ == low)), "auc": float(roc_auc_score(flipped, -values))}


def detect(folder: Path, rows: int, names: list[str], seeds: list[int], processes: int) -> dict[str, Any]:
    """Each method's F1 and AUC, seed by seed."""
    found: dict[str, Any] = {name: {"runs": []} for name in names}
    for seed in seeds:
        train, valid, flipped = adult(folder, rows, 0.2, seed)
        for name in names:
            kind, fit, options = METHODS[name]
            shared = {} if fit is None else {"processes": processes}
            start = time.perf_counter()
            model = None if fit is None else fit(train)
            values = assay.value(model, train, None if name in ALONE else valid, find(kind, **shared, **options))
            line = {"seed": seed, **detection(values.array, flipped), "seconds": time.perf_counter() - start}
            found[name]["runs"].append(line)
            print(name, json.dumps(line), file=sys.stderr, flush=True)
    for name, row in found.items():
        for measure in ("f1", "auc", "seconds"):
            each = [run[measure] for run in row["runs"]]
            row[measure] = fmean(each)
            row[f"{measure}_stderr"] = stdev(each) / len(each) ** 0.5 if len(each) > 1 else None
        row["method"] = " ".join([name, *(f"{key}={value}" for key, value in METHODS[name][2].items())])
        row["published_f1"] = PUBLISHED.get(name)
    return found


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("what", choices=["iris", "adult"])
    add_data(arguments)
    arguments.add_argument("--pydvl", help="the Python of an environment with pyDVL")
    arguments.add_argument("--repeat", type=int, default=3)
    arguments.add_argument("--rows", type=int, default=1000)
    arguments.add_argument("--seeds", type=int, nargs="+", default=[20, 21, 22, 23, 24])
    arguments.add_argument("--processes", type=int, default=2)
    arguments.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    given = arguments.parse_args()
    if given.what == "iris":
        save("iris", "python -m benchmarks.valuation iris --pydvl PYTHON", time_iris(given.pydvl, given.repeat))
        return
    found = detect(data_folder(given), given.rows, given.methods, given.seeds, given.processes)
    command = f"python -m benchmarks.valuation adult --data DIR --seeds {' '.join(map(str, given.seeds))}"
    setting = {"rows": given.rows, "flips": 0.2, "seeds": given.seeds}
    earlier = json.loads(path.read_text()) if (path := RESULTS / "mislabelled.json").exists() else {}
    if all(earlier.get(key) == value for key, value in setting.items()):  # other methods of the same run in parts
        found = earlier["methods"] | found
    save("mislabelled", command, {**setting, "methods": found})


if __name__ == "__main__":
    main()
