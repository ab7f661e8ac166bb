"""Metrics as dattri or quanda compute them, on arrays of a file. Printed: the seconds of each, and its value.

PYTHON metrics_scores.py {dattri,quanda} ARRAYS.npz REPEAT
"""

import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

torch.set_num_threads(2)
warnings.simplefilter("ignore")


def dattri(arrays: dict[str, torch.Tensor], _: dict[str, list[Any]]) -> dict[str, Callable[[], float]]:
    from dattri.metric import lds, mislabel_detection_auc

    return {
        "mislabelled": lambda: float(mislabel_detection_auc(-arrays["values"], arrays["wrong"])[0]),
        "lds": lambda: float(lds(arrays["scores"], (-arrays["losses"], arrays["subsets"]))[0].mean()),
    }


def quanda(arrays: dict[str, torch.Tensor], lists: dict[str, list[Any]]) -> dict[str, Callable[[], float]]:
    from quanda.metrics.downstream_eval import MislabelingDetectionMetric
    from quanda.metrics.downstream_eval.mrr import MRRMetric
    from quanda.metrics.ground_truth import LinearDatamodelingMetric
    from quanda.metrics.heuristics import TopKCardinalityMetric

    n, explanations = len(arrays["values"]), arrays["scores"].T.contiguous()
    data = torch.utils.data.TensorDataset(arrays["values"])
    model, load = torch.nn.Linear(1, 1), lambda *_: None
    common = {"model": model, "train_dataset": data, "checkpoints": None, "checkpoints_load_func": load}
    at = int(arrays["k"])

    def mislabelled() -> float:
        # Its score is the area under the curve of the share found, without its first half step. It adds 1e-4 times the row's
        # number to every value before it sorts, which at 20,000 rows reorders values of the size of one: scaled out of reach.
        found = MislabelingDetectionMetric(
            mislabeling_indices=lists["wrong"], precomputed_self_influence=-1e9 * arrays["values"], **common
        ).compute()
        wrong = len(lists["wrong"])
        mean_rank = n + 1 - (n * found["score"] + (float(found["curve"][0]) + 1) / 2)
        return 1 - (mean_rank - (wrong + 1) / 2) / (n - wrong)

    def lds() -> float:
        metric = LinearDatamodelingMetric(
            subset_ids=lists["subsets"],
            m=len(lists["subsets"]),
            subset_ckpt_filenames=[""] * len(lists["subsets"]),
            **common,
        )
        outputs = dict(enumerate(-arrays["losses"]))
        queries = torch.zeros(len(explanations), 1)
        metric.update(explanations, queries[:, 0].long(), queries, subset_logits=outputs)
        return metric.compute()["score"]

    def cardinality() -> float:
        metric = TopKCardinalityMetric(top_k=at, **common)
        metric.update(explanations)
        return metric.compute()["score"]

    def tracing() -> float:
        metric = MRRMetric(**common)
        metric.update(explanations, arrays["relevant"].T)
        return metric.compute()["score"]

    return {"mislabelled": mislabelled, "lds": lds, "cardinality": cardinality, "tracing": tracing}


def main() -> None:
    peer, path, repeat = sys.argv[1], sys.argv[2], int(sys.argv[3])
    with np.load(path) as file:
        arrays = {name: torch.from_numpy(file[name]) for name in file.files}
    lists = {"wrong": arrays["wrong"].nonzero()[:, 0].tolist(), "subsets": arrays["subsets"].tolist()}
    found = {}
    for name, measure in (dattri if peer == "dattri" else quanda)(arrays, lists).items():
        seconds = []
        for _ in range(repeat):
            start = time.perf_counter()
            value = measure()
            seconds.append(time.perf_counter() - start)
        found[name] = {"seconds": statistics.median(seconds), "value": value}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
