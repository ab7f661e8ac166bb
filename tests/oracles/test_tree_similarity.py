"""Tree similarity against loops over rows, queries and trees."""

from typing import Any

import numpy as np
import pytest
from sklearn.ensemble import GradientBoostingRegressor, RandomForestClassifier

import assay
from assay.methods import TreeSimilarity


@pytest.mark.parametrize("weight", ["equal", "count"])
@pytest.mark.parametrize("kind", ["forest", "booster"])
def test_it_counts_shared_leaves(kind: str, weight: str) -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 3))
    y: Any = np.digitize(X[:, 0], [-0.5, 0.5]) if kind == "forest" else X[:, 0]
    model = RandomForestClassifier(15, max_depth=3, random_state=0) if kind == "forest" else GradientBoostingRegressor(
        n_estimators=15, max_depth=2, random_state=0)  # fmt: skip
    model.fit(X, y)
    found = assay.attribute(model, (X, y), (X[:6] + 0.1, y[:6]), TreeSimilarity(kernel=weight)).array
    leaves, theirs = (np.asarray(model.apply(part)).reshape(len(part), -1) for part in (X, X[:6] + 0.1))
    predicted = model.predict(X[:6] + 0.1)
    for i in range(60):
        for q in range(6):
            total = 0.0
            for t in range(15):
                if leaves[i, t] == theirs[q, t]:
                    total += 1 if weight == "equal" else 1 / (leaves[:, t] == leaves[i, t]).sum()
            agree = y[i] == y[q] if kind == "forest" else (y[i] > predicted[q]) == (y[q] > predicted[q])
            sign = 1 if agree else -1
            np.testing.assert_allclose(found[i, q], sign * total / 15, rtol=1e-5, atol=1e-8)


def test_a_row_is_most_like_itself_in_a_forest() -> None:
    rng = np.random.default_rng(1)
    X = rng.normal(size=(50, 3))
    y = (X[:, 0] > 0).astype(int)
    model = RandomForestClassifier(30, random_state=0).fit(X, y)
    array = assay.attribute(model, (X, y), (X, y), TreeSimilarity(kernel="equal")).array
    np.testing.assert_allclose(np.diag(array), 1, rtol=1e-6)
