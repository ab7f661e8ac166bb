"""Valuation: permutation Shapley on iris beside pyDVL, and finding mislabelled rows on adult as OpenDataVal measures it.

    python -m benchmarks.valuation iris [--peer-python PATH]      # PATH: an interpreter with pydvl
    python -m benchmarks.valuation adult --data DIR [--rows 1000] [--methods shapley,beta-shapley,banzhaf,loo]

The F1 is OpenDataVal's: the values are split in two by k-means, and the rows of the lower cluster are taken for mislabelled.
"""

import argparse
import json
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.cluster import KMeans
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, roc_auc_score

import assay
from assay.methods import Shapley, find

UPDATES = 51
PEER = Path(__file__).parent / "peers" / "pydvl_iris.py"
NAMES = [
    "age", "workclass", "fnlwgt", "education", "education-num", "marital-status", "occupation", "relationship", "race",
    "sex", "capital-gain", "capital-loss", "hours-per-week", "native-country", "income",
]  # fmt: skip
STOPS = {"shapley": "updates:{}", "beta-shapley": "updates:{}", "banzhaf": "updates:{}"}


def iris() -> tuple[Any, Any]:
    """90 rows to value, 60 to score them."""
    X, y = load_iris(return_X_y=True)
    order = np.random.default_rng(0).permutation(150)
    return (X[order[:90]], y[order[:90]]), (X[order[90:]], y[order[90:]])


def time_iris(peer: str | None) -> dict[str, Any]:
    train, valid = iris()
    found: dict[str, Any] = {"updates": UPDATES}
    for processes in (1, 2):
        for name, model in (("warm", LogisticRegression(max_iter=1000)), ("plain", Plain(max_iter=1000))):
            method = Shapley(sampler="permutation", stop=f"updates:{UPDATES}", tolerance=0, processes=processes)
            start = time.perf_counter()
            values = assay.value(model, train, valid, method)
            found[f"assay {name}, {processes} processes"] = round(time.perf_counter() - start, 2)
            found[f"sum {name} {processes}"] = float(values.array.sum())
    if peer is not None:
        for processes in (1, 2):
            done = subprocess.run([peer, str(PEER), str(processes)], capture_output=True, text=True, check=True)
            found[f"pydvl, {processes} processes"] = json.loads(done.stdout.splitlines()[-1])["seconds"]
    return found


class Plain(LogisticRegression):
    """Of another class, so that every fit is scikit-learn's own."""


def adult(folder: Path, rows: int, flips: float, seed: int) -> tuple[Any, Any, np.ndarray]:
    """Encoded rows with a share of the labels flipped, clean validation rows, and which were flipped."""
    frame = pd.read_csv(
        folder / "data" / "tabular" / "adult-train.csv", header=None, names=NAMES, skipinitialspace=True
    )
    frame = frame.sample(rows + 200, random_state=seed).reset_index(drop=True)
    y = (frame.pop("income") == ">50K").astype(int).to_numpy()
    X = pd.get_dummies(frame).astype(float)
    spread = X[:rows].std()
    X = ((X - X[:rows].mean()) / spread.where(spread > 0, 1.0)).to_numpy()
    flipped = np.random.default_rng(seed).permutation(rows) < round(flips * rows)
    labels = np.where(flipped, 1 - y[:rows], y[:rows])
    return (X[:rows], labels), (X[rows:], y[rows:]), flipped


def detection(values: np.ndarray, flipped: np.ndarray) -> dict[str, float]:
    cluster = KMeans(2, n_init=10, random_state=0).fit(values[:, None])
    low = int(cluster.cluster_centers_[:, 0].argmin())
    return {"f1": float(f1_score(flipped, cluster.labels_ == low)), "auc": float(roc_auc_score(flipped, -values))}


def detect(folder: Path, rows: int, methods: list[str], updates: int, processes: int) -> list[dict[str, Any]]:
    train, valid, flipped = adult(folder, rows, 0.2, 0)
    lines = []
    for name in methods:
        count = updates * (20 if name == "banzhaf" else 1)
        options = {"stop": STOPS[name].format(count)} if name in STOPS else {}
        method = find(name, processes=processes, **options)
        start = time.perf_counter()
        values = assay.value(LogisticRegression(max_iter=1000), train, valid, method)
        seconds = round(time.perf_counter() - start, 1)
        line = {"method": name, **options, **detection(values.array, flipped), "seconds": seconds}
        lines.append({**line, "notes": list(values.provenance.notes)})
        print(json.dumps(lines[-1]), flush=True)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["iris", "adult"])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--peer-python")
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--updates", type=int, default=100)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--methods", default="shapley,beta-shapley,banzhaf,loo")
    given = parser.parse_args()
    if given.what == "iris":
        print(json.dumps(time_iris(given.peer_python), indent=1))
    else:
        detect(given.data, given.rows, given.methods.split(","), given.updates, given.processes)


if __name__ == "__main__":
    main()
