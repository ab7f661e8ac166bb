"""KNN-Shapley by pyDVL or cleanlab, for `benchmarks.neighbors`; runs in the peers' own environment and imports nothing of ours.

PYTHON benchmarks/peers/neighbors_values.py pydvl|cleanlab DATA.npz
"""

import json
import resource
import sys
import time

import numpy as np


def pydvl(data, k: int) -> np.ndarray:
    from pydvl.valuation import Dataset, KNNShapleyValuation
    from sklearn.neighbors import KNeighborsClassifier

    train, test = Dataset(data["x"], data["y"]), Dataset(data["xq"], data["yq"])
    model = KNeighborsClassifier(n_neighbors=k)
    started = time.perf_counter()
    valuation = KNNShapleyValuation(model, test, progress=False)
    found = valuation.fit(train)
    result = getattr(found, "result", None) or getattr(valuation, "result", None) or valuation.values()
    seconds = time.perf_counter() - started
    values = np.empty(len(data["x"]))
    values[np.asarray(result.indices)] = np.asarray(result.values)
    return seconds, values


def cleanlab(data, k: int) -> np.ndarray:
    from cleanlab.data_valuation import data_shapley_knn

    started = time.perf_counter()
    values = data_shapley_knn(data["y"], features=data["x"], metric=str(data["metric"]), k=k)
    return time.perf_counter() - started, values


if __name__ == "__main__":
    name, path = sys.argv[1:]
    with np.load(path) as data:
        arrays = dict(data)
    seconds, values = {"pydvl": pydvl, "cleanlab": cleanlab}[name](arrays, int(arrays["k"]))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": seconds, "peak": peak, "values": np.asarray(values).tolist()}))
