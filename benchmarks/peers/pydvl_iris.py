"""Permutation Shapley on iris with pyDVL; run by its own interpreter: python pydvl_iris.py PROCESSES."""

import json
import sys
import time

import numpy as np
from joblib import parallel_config
from pydvl.valuation import (
    Dataset,
    MaxUpdates,
    ModelUtility,
    NoTruncation,
    PermutationSampler,
    ShapleyValuation,
    SupervisedScorer,
)
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

X, y = load_iris(return_X_y=True)
order = np.random.default_rng(0).permutation(150)
names = [f"x{k}" for k in range(X.shape[1])]
train = Dataset(X[order[:90]], y[order[:90]], feature_names=names, target_names=["y"])
valid = Dataset(X[order[90:]], y[order[90:]], feature_names=names, target_names=["y"])
model = LogisticRegression(max_iter=1000)
utility = ModelUtility(model, SupervisedScorer("accuracy", valid, default=0.0))
valuation = ShapleyValuation(utility, PermutationSampler(NoTruncation(), seed=0), MaxUpdates(51), progress=False)
start = time.perf_counter()
with parallel_config(n_jobs=int(sys.argv[1])):
    valuation.fit(train)
print(json.dumps({"seconds": round(time.perf_counter() - start, 2)}))
