"""tree_influence on the data of benchmarks/trees.py; run by an environment that has it: PEER script METHOD."""

import json
import resource
import sys
import time

import lightgbm
import numpy as np
from tree_influence import explainers


def made(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(rows, 10))
    return X.astype(np.float32), (X[:, 0] + X[:, 1] * X[:, 2] + 0.5 * rng.normal(size=rows) > 0).astype(np.int32)


def main() -> None:
    name = sys.argv[1]
    X, y = made(10_000 if name == "boostin" else 1_000, 0)
    Xq, yq = made(100, 1)
    model = lightgbm.LGBMClassifier(n_estimators=100, verbose=-1).fit(X, y)
    make = {
        "boostin": explainers.BoostIn,
        "leaf-influence": lambda: explainers.LeafInfluence(update_set=-1),
        "leaf-refit": lambda: explainers.LeafRefit(update_set=-1),
    }[name]
    start = time.perf_counter()
    make().fit(model, X, y).get_local_influence(Xq, yq)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": time.perf_counter() - start, "peak": peak}))


if __name__ == "__main__":
    main()
