"""KNN-Shapley against pyDVL (for queries) and cleanlab (valued on itself), classic utility: time, memory, agreement.

    python -m benchmarks.neighbors [--pydvl PYTHON] [--rows 5000] [--queries 500] [--own 20000] [--repeat 5]

`--pydvl`: the Python of an environment with pyDVL and cleanlab; without it only our side runs. Made-up data: ten Gaussian
classes in 32 dimensions, a tenth of the labels wrong. Each contender runs in a process of its own, in turn; the valuation is
timed, imports and data are not; the peak is that of the whole process. Cleanlab sorts the K nearest alone and takes the others to
be worth nothing, so its time grows with K; its default distance is the cosine. Ours are exact. Writes
`benchmarks/results/neighbors.json`.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import contend, medians, parser, save, timed

WIDTH, CLASSES = 32, 10
PEER = Path(__file__).parent / "peers" / "neighbors_values.py"


def make(rows: int, queries: int, k: int, metric: str, path: Path) -> Path:
    rng = np.random.default_rng(0)
    centres = 1.2 * rng.normal(size=(CLASSES, WIDTH))
    y, yq = rng.integers(0, CLASSES, rows), rng.integers(0, CLASSES, queries)
    x, xq = (centres[labels] + rng.normal(size=(len(labels), WIDTH)) for labels in (y, yq))
    wrong = rng.random(rows) < 0.1
    np.savez(path, x=x, y=np.where(wrong, (y + 1) % CLASSES, y), wrong=wrong, xq=xq, yq=yq, k=k, metric=metric)
    return path


def ours(path: str) -> dict[str, Any]:
    """One valuation; on the data themselves where there are no queries."""
    import assay

    with np.load(path) as data:
        arrays = dict(data)
    metric: Any = str(arrays["metric"])
    method = assay.methods.KNNShapley(k=int(arrays["k"]), utility="classic", metric=metric, scale=False)
    train, on = (arrays["x"], arrays["y"]), (arrays["xq"], arrays["yq"])
    assay.value(None, (train[0][:50], train[1][:50]), method=method)  # what a process does once
    found: list[Any] = []
    result = timed(lambda: found.append(assay.value(None, train, on if len(on[0]) else None, method)))
    return result | {"values": found[0].array.tolist()}


def compare(path: Path, peer: str, python: str | None, repeat: int) -> dict[str, Any]:
    from sklearn.metrics import roc_auc_score

    commands = {"assay": [sys.executable, "-m", "benchmarks.neighbors", "--contender", str(path)]}
    if python:
        commands[peer] = [python, str(PEER), peer, str(path)]
    runs = contend(commands, repeat)
    with np.load(path) as data:
        wrong = data["wrong"]
    values = {name: np.array(next(row["values"] for row in rows)) for name, rows in runs.items()}
    for row in (row for rows in runs.values() for row in rows):
        del row["values"]
    result: dict[str, Any] = {"runs": runs, "seconds": medians(runs), "peak_bytes": medians(runs, "peak")}
    result["auc_of_wrong_labels"] = {name: float(roc_auc_score(wrong, -found)) for name, found in values.items()}
    if python:
        result["ratio"] = result["seconds"]["assay"] / result["seconds"][peer]
        result["correlation"] = float(np.corrcoef(values["assay"], values[peer])[0, 1])
    return result


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--pydvl", help="the Python of an environment with pyDVL and cleanlab")
    for name, value in {"rows": 5_000, "queries": 500, "own": 20_000, "repeat": 5}.items():
        arguments.add_argument(f"--{name}", type=int, default=value)
    arguments.add_argument("--contender", help="a data file: value it once and print one line")
    args = arguments.parse_args()
    if args.contender:
        import json

        print(json.dumps(ours(args.contender)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch) / "data.npz"
        result = {}
        for name, rows, queries, k, metric, peer in (
            (f"{args.rows:,} rows for {args.queries} queries, K = 10, euclidean", args.rows, args.queries, 10, "euclidean", "pydvl"),
            (f"{args.own:,} rows on themselves, K = 100, cosine", args.own, 0, 100, "cosine", "cleanlab"),
            (f"{args.own:,} rows on themselves, K = 10, euclidean", args.own, 0, 10, "euclidean", "cleanlab"),
        ):  # fmt: skip
            make(rows, queries, k, metric, data)
            result[name] = compare(data, peer, args.pydvl, args.repeat)
    sizes = f"--rows {args.rows} --queries {args.queries} --own {args.own} --repeat {args.repeat}"
    save("neighbors", f"python -m benchmarks.neighbors --pydvl PYTHON {sizes}", {"settings": result})


if __name__ == "__main__":
    main()
