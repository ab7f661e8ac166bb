"""Numbers out of tables: indicators for categories, standardised columns, medians for what is missing."""

from typing import Any, cast

import numpy as np
from jaxtyping import Float64


def encoder(X: Any) -> Any:
    """A transformer, not fitted yet, for rows like these, which may be a DataFrame: categories become indicators (a
    missing one too, an unknown one none), numbers lose their mean and spread, and missing ones become the median.
    """
    from sklearn import compose, impute, pipeline, preprocessing

    numbers: Any = pipeline.make_pipeline(
        cast(Any, impute).SimpleImputer(strategy="median", keep_empty_features=True), preprocessing.StandardScaler()
    )
    if not hasattr(X, "iloc"):
        return numbers
    plain = [name for name in X.columns if X[name].dtype.kind in "biuf"]
    others = [name for name in X.columns if name not in plain]
    indicators = preprocessing.OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    return cast(Any, compose).ColumnTransformer([("numbers", numbers, plain), ("categories", indicators, others)])


def numbers_of(X: Any) -> Float64[np.ndarray, "n d"]:
    """Training rows, encoded."""
    flat = X if hasattr(X, "iloc") else np.asarray(X, dtype=np.float64).reshape(len(X), -1)
    return np.asarray(encoder(flat).fit_transform(flat), dtype=np.float64)
