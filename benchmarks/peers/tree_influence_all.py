"""tree_influence on the data of benchmarks/trees.py; run by an environment that has it: PEER script METHOD ROWS.

Seen with tree_influence 0.1.7 on Python 3.9, LightGBM 3.3.5, scikit-learn 1.2.2, numpy 1.26. Its TREX alone needs torch,
which is stood in for where it is absent.
"""

import importlib.util
import json
import resource
import sys
import time
import types

import lightgbm
import numpy as np


def without_torch() -> None:
    """Names that tree_influence's TREX imports and BoostIn, LeafInfluence and LeafRefit never use."""
    for name in ("torch", "torch.nn", "torch.optim", "torch.autograd"):
        sys.modules[name] = types.ModuleType(name)
    sys.modules["torch"].nn, sys.modules["torch"].optim = sys.modules["torch.nn"], sys.modules["torch.optim"]
    sys.modules["torch.nn"].Module, sys.modules["torch.autograd"].Variable = object, object


def made(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(rows, 10))
    return X.astype(np.float32), (X[:, 0] + X[:, 1] * X[:, 2] + 0.5 * rng.normal(size=rows) > 0).astype(np.int32)


def main() -> None:
    if importlib.util.find_spec("torch") is None:
        without_torch()
    from tree_influence import explainers

    name = sys.argv[1]
    X, y = made(int(sys.argv[2]), 0)
    Xq, yq = made(100, 1)
    model = lightgbm.LGBMClassifier(n_estimators=100, verbose=-1).fit(X, y)
    make = {
        "boostin": explainers.BoostIn,
        "leaf-influence": lambda: explainers.LeafInfluence(update_set=-1),
        "leaf-refit": lambda: explainers.LeafRefit(update_set=-1),
    }[name]
    start, cpu = time.perf_counter(), time.process_time()
    explainer = make().fit(model, X, y)
    fitted = time.perf_counter()
    explainer.get_local_influence(Xq, yq)
    done = time.perf_counter()
    cpu = time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(
        json.dumps({"seconds": done - start, "fit": fitted - start, "score": done - fitted, "cpu": cpu, "peak": peak})
    )


if __name__ == "__main__":
    main()
