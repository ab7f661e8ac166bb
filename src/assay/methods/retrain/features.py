"""Numbers out of tables: indicators for categories, standardised columns, medians for what is missing."""

from typing import Any, cast

import numpy as np
from jaxtyping import Float64

from assay.errors import DataError


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


class Encoding:
    """Rows as numbers, as the training rows ask for, to which it is fitted."""

    def __init__(self, X: Any) -> None:
        rows = flat(X)
        self._columns: list[str] | None = list(rows.columns) if hasattr(rows, "iloc") else None
        self._fitted = encoder(rows).fit(rows)

    def __call__(self, X: Any) -> Float64[np.ndarray, "m d"]:
        """These rows. Raises DataError if they have other columns."""
        rows = flat(X)
        if self._columns is not None:
            missing = [name for name in self._columns if name not in getattr(rows, "columns", ())]
            if missing:
                raise DataError(
                    f"The validation rows have no column '{missing[0]}', which the training rows have; add it."
                )
            rows = rows[self._columns]
        try:
            return np.asarray(self._fitted.transform(rows), dtype=np.float64)
        except ValueError as error:
            reason = str(error).strip().splitlines()[0]
            raise DataError(f"The validation rows cannot be read like the training rows: {reason}.") from error


def encoded(X: Any, Xv: Any) -> tuple[Float64[np.ndarray, "n d"], Float64[np.ndarray, "q d"]]:
    """Training and other rows, encoded as the training rows ask for."""
    encoding = Encoding(X)
    return encoding(X), encoding(Xv)


def flat(X: Any) -> Any:
    """Rows of arrays as vectors, float64; a DataFrame stays one."""
    return X if hasattr(X, "iloc") else np.asarray(X, dtype=np.float64).reshape(len(X), -1)


def numbers_of(X: Any) -> Float64[np.ndarray, "n d"]:
    """Training rows, encoded."""
    return Encoding(X)(X)
