"""Scores by tree_influence for `benchmarks.fidelity`: `tree_influence_scores.py METHOD FOLDER OUT.safetensors`.

FOLDER holds `data.npz` (X, y, Xq, yq). The model is LightGBM's with 100 trees and its defaults, trained here, as the library
reads LightGBM up to 3 only. Stores [train, query] scores in which higher is more helpful.
"""

import importlib.util
import json
import resource
import sys
import time
from importlib.metadata import version
from pathlib import Path

import lightgbm
import numpy as np
from safetensors.numpy import save_file
from tree_influence_all import without_torch

if __name__ == "__main__":
    if importlib.util.find_spec("torch") is None:
        without_torch()
    from tree_influence import explainers

    name, folder, out = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    make = {
        "boostin": explainers.BoostIn,
        "leaf-influence": lambda: explainers.LeafInfluence(update_set=-1),
        "leaf-influence-sp": explainers.LeafInfluenceSP,
        "leaf-refit": lambda: explainers.LeafRefit(update_set=-1),
        "tree-similarity": explainers.TreeSim,
    }[name]
    with np.load(folder / "data.npz") as data:
        X, y, Xq, yq = (data[part] for part in ("X", "y", "Xq", "yq"))
    X, Xq, y, yq = X.astype(np.float32), Xq.astype(np.float32), y.astype(np.int32), yq.astype(np.int32)
    model = lightgbm.LGBMClassifier(n_estimators=100, verbose=-1, n_jobs=1, deterministic=True).fit(X, y)
    start, cpu = time.perf_counter(), time.process_time()
    scores = make().fit(model, X, y).get_local_influence(Xq, yq)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    save_file({"scores": np.ascontiguousarray(scores, np.float32)}, out)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(
        json.dumps(
            {"seconds": seconds, "cpu": cpu, "peak": peak, "version": f"tree_influence {version('tree-influence')}"}
        )
    )
