"""The object for scikit-learn."""

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tests.methods.retrain import games

import assay
from assay.errors import MethodError
from assay.methods import Shapley
from assay.sklearn import Valuer

(X, Y), (XV, YV) = games.data(20)
METHOD = Shapley(stop="updates:4")


def test_it_gives_what_the_function_gives() -> None:
    valuer = Valuer(METHOD, LogisticRegression()).fit(X, Y)
    found = valuer.score(XV, YV)
    expected = assay.value(LogisticRegression(), (X, Y), (XV, YV), METHOD)
    np.testing.assert_array_equal(found, expected.array)
    np.testing.assert_array_equal(valuer.values_.stderr, expected.stderr)


def test_pandas_in_and_out() -> None:
    index = [f"r{k}" for k in range(20)]
    frame = pd.DataFrame(X, columns=list("abcde"), index=index)
    found = (
        Valuer(METHOD, "logistic")
        .fit(frame, pd.Series(Y, index=index))
        .score(pd.DataFrame(XV, columns=list("abcde")), YV)
    )
    assert isinstance(found, pd.Series)
    assert list(found.index) == index
    groups = ["north", "south"] * 10
    by_group = Valuer(METHOD).fit(frame, Y, groups).score(pd.DataFrame(XV, columns=list("abcde")), YV)
    assert list(by_group.index) == ["north", "south"]


def test_at_the_end_of_a_pipeline_and_cloned() -> None:
    pipeline = make_pipeline(StandardScaler(), Valuer(METHOD, LogisticRegression()))
    found = pipeline.fit(X, Y).score(XV, YV)
    scaler = StandardScaler().fit(X)
    expected = assay.value(LogisticRegression(), (scaler.transform(X), Y), (scaler.transform(XV), YV), METHOD)
    np.testing.assert_array_equal(found, expected.array)
    twin = clone(Valuer("banzhaf", "knn"))
    assert twin.get_params() == {"method": "banzhaf", "estimator": "knn"}


def test_what_is_refused() -> None:
    with pytest.raises(MethodError, match="not fitted"):
        Valuer().score(XV, YV)
    with pytest.raises(MethodError, match="values rows, not groups"):
        Valuer("random").fit(X, Y, ["a"] * 20).score(XV, YV)
