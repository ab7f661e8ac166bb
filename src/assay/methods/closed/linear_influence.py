"""Leave-one-out of linear models in closed form: what each example's removal does to each query's loss.

    score(i, q) = L_q(without i) - L_q(with i)

Ridge regression, exact, with A = X'X + alpha I (an intercept is a column of ones without penalty), residual r_i and
leverage h_i = x_i' A^-1 x_i:

    w_-i = w - A^-1 x_i r_i / (1 - h_i),        L = squared error / 2

Logistic regression, one Newton step of the objective without i, from the optimum with it (exact up to third derivatives), with
e_i = p_i - onehot(y_i), M_i = diag(p_i) - p_i p_i', B_i = I (x) x_i, H the Hessian with all, G_i = B_i' H^-1 B_i:

    W_-i = W + (H - B_i M_i B_i')^-1 B_i e_i = W + H^-1 B_i (I - M_i G_i)^-1 e_i,      L = log loss in nats

and L_q is computed anew at w_-i, so nothing is linearised in the query.

Sources: Cook 1977 (leave-one-out residuals); Pregibon 1981, Annals of Statistics 9 (one-step deletion); Koh and Liang 2017
(1703.04730) is the same without the i in the Hessian. Cost: O((dC)^3 + N (dC)^2) to fit and O(dC) a score; dC numbers for
each training example in memory. Assumes an unpenalised loss summed over rows of weight 1, as scikit-learn minimises.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np
from jaxtyping import Float64
from numpy.typing import NDArray

from assay.errors import DataError, MethodError
from assay.examples import Examples
from assay.methods.base import Fitted, Method
from assay.methods.closed.estimators import Table, called, table_of
from assay.methods.retrain.utilities import seeded
from assay.methods.streamed import Streamed
from assay.provenance import measured

LARGEST = 5_000
"""Unknowns of a logistic regression; its Hessian has their square."""
SINGULAR = 1e-10
"""Leverage closer to 1 than this: the example alone decides a direction of the weights."""


@dataclass(frozen=True)
class LinearInfluence(Method):
    """Exact leave-one-out of ridge regression; one Newton step of logistic regression."""

    name: ClassVar[str] = "linear-influence"
    family: ClassVar[str] = "closed"
    unit: ClassVar[str] = "nats of query loss per removed example"
    summary: ClassVar[str] = "leave-one-out of ridge (exact) and logistic regression (one Newton step), in closed form"
    paper: ClassVar[str] = "Cook 1977; Pregibon 1981"

    def fit(self, model: Any, train: Examples) -> Fitted:
        """Fit the estimator to all rows, and find what each removal does to its weights."""
        with measured() as cost:
            table = table_of(model, train)
            solved = _logistic(table) if table.classes is not None else _ridge(table)

        def score(queries: Examples) -> NDArray[Any]:
            X, y = table.rows(queries)
            return solved.scores(_matrix(X), y)

        note = f"{called(table.estimator)}, {solved.told}."
        return Streamed(self, train, score, cost.seconds, notes=lambda queries: (note,))


@dataclass(frozen=True)
class Solved:
    """Weights W [outputs, d] and their changes when an example is removed, [n, outputs, d]."""

    W: Float64[np.ndarray, "c d"]
    change: Float64[np.ndarray, "n c d"]
    intercept: bool
    classes: NDArray[Any] | None
    told: str

    def scores(self, X: Float64[np.ndarray, "q k"], y: NDArray[Any]) -> Float64[np.ndarray, "n q"]:
        """Loss without each training example less that with it."""
        A = _with_ones(X, self.intercept)
        if A.shape[1] != self.W.shape[1]:
            raise DataError(f"Queries have {X.shape[1]} features; expected {self.W.shape[1] - self.intercept}.")
        with_all = A @ self.W.T
        without = with_all + np.einsum("ncd,qd->nqc", self.change, A)
        if self.classes is None:
            target = y.reshape(len(y), -1)
            return 0.5 * (np.square(without - target).sum(2) - np.square(with_all - target).sum(1))
        place = np.searchsorted(self.classes, y).clip(max=len(self.classes) - 1)
        if (self.classes[place] != y).any():
            raise DataError(f"A query has the label {y[self.classes[place] != y][0]!r}, which no training example has.")
        return _log_loss(without, place) - _log_loss(with_all, place)


def _ridge(table: Table) -> Solved:
    """Ridge and LinearRegression."""
    estimator, kind = table.estimator, type(table.estimator).__name__
    alpha = {"Ridge": getattr(estimator, "alpha", None), "LinearRegression": 0.0}.get(kind)
    if not isinstance(alpha, int | float) or getattr(estimator, "positive", False):
        raise _refused(estimator)
    A = _with_ones(_matrix(table.X), estimator.fit_intercept)
    penalty = np.full(A.shape[1], float(alpha))
    if estimator.fit_intercept:
        penalty[-1] = 0.0
    y = table.y.reshape(len(table.y), -1)
    gram = A.T @ A + np.diag(penalty)
    if np.linalg.cond(gram) > 1e14:
        raise MethodError("The columns depend on each other, so the weights are not unique; give Ridge(alpha=...).")
    half = np.linalg.solve(gram, A.T).T  # A^-1 x_i
    W = (half.T @ y).T
    left = 1 - np.einsum("nd,nd->n", half, A)
    if left.min() < SINGULAR:
        raise MethodError(
            f"Without training row {int(left.argmin()) + 1} the weights are not unique; give Ridge(alpha=...), or drop it."
        )
    residual = y - A @ W.T
    change = -(residual / left[:, None])[:, :, None] * half[:, None, :]
    return Solved(W, change, bool(estimator.fit_intercept), None, f"exact; largest leverage {1 - left.min():.3f}")


def _logistic(table: Table) -> Solved:
    """LogisticRegression with an L2 penalty."""
    estimator = table.estimator
    if type(estimator).__name__ != "LogisticRegression":
        raise _refused(estimator)
    given = cast(dict[str, Any], estimator.get_params())
    l2 = given.get("penalty") in ("l2", "deprecated") and given.get("l1_ratio") in (None, 0, 0.0)
    if not l2 or given.get("class_weight") is not None or not 0 < given["C"] < np.inf or given["solver"] == "liblinear":
        raise _refused(estimator)
    X = _matrix(table.X)
    twin = seeded(estimator, 0).set_params(solver="newton-cholesky", tol=1e-10, max_iter=1_000, warm_start=False)
    twin.fit(X, table.y)
    intercept = bool(estimator.fit_intercept)
    A = _with_ones(X, intercept)
    W = np.hstack([twin.coef_, twin.intercept_[:, None]]) if intercept else np.asarray(twin.coef_)
    c, d = W.shape
    if c * d > LARGEST:
        raise MethodError(
            f"linear-influence takes at most {LARGEST:,} weights, and these are {c * d:,}; use fewer columns."
        )
    logits = A @ W.T
    P = 1 / (1 + np.exp(-logits)) if c == 1 else _softmax(logits)
    error = P - (table.codes[:, None] if c == 1 else np.eye(c)[table.codes])
    M = (P * (1 - P))[:, :, None] if c == 1 else P[:, :, None] * np.eye(c) - P[:, :, None] * P[:, None, :]
    inverse = np.linalg.inv(_hessian(A, M, 1 / given["C"], intercept)).reshape(c, d, c, d)
    moved = np.einsum("adbe,ne->ndab", inverse, A)  # H^-1 B_i, [n, d, row, column]
    G = np.einsum("ndab,nd->nab", moved, A)
    pushed: Float64[np.ndarray, "n c"] = cast(Any, np.linalg).solve(np.eye(c) - M @ G, error[:, :, None])[:, :, 0]
    change = np.einsum("ndab,nb->nad", moved, pushed)
    return Solved(W, change, intercept, table.classes, "one Newton step from the optimum")


def _hessian(
    A: Float64[np.ndarray, "n d"], M: Float64[np.ndarray, "n c c"], penalty: float, intercept: bool
) -> Float64[np.ndarray, "cd cd"]:
    """Of the objective; moving all intercepts alike, which changes no probability, is made steep."""
    c, d = M.shape[1], A.shape[1]
    H = np.empty((c, d, c, d))
    for a in range(c):
        for b in range(a + 1):
            H[a, :, b] = H[b, :, a] = (A.T * M[:, a, b]) @ A
    ridge = np.full(d, penalty)
    if intercept:
        ridge[-1] = 0.0
        if c > 1:
            H[:, -1, :, -1] += 1.0
    return H.reshape(c * d, c * d) + np.diag(np.tile(ridge, c))


def _log_loss(logits: Float64[np.ndarray, "*n q c"], place: NDArray[np.int64]) -> Float64[np.ndarray, "*n q"]:
    """Nats; one column is the log odds of the second class."""
    if logits.shape[-1] == 1:
        logits = np.concatenate([np.zeros_like(logits), logits], axis=-1)
    top = logits.max(-1, keepdims=True)
    total = (top + np.log(np.exp(logits - top).sum(-1, keepdims=True)))[..., 0]
    return total - logits[..., np.arange(len(place)), place]


def _softmax(logits: Float64[np.ndarray, "n c"]) -> Float64[np.ndarray, "n c"]:
    odds = np.exp(logits - logits.max(1, keepdims=True))
    return odds / odds.sum(1, keepdims=True)


def _matrix(X: Any) -> Float64[np.ndarray, "n d"]:
    """Numbers; raises DataError for categories and missing values."""
    try:
        rows = np.asarray(X, dtype=np.float64)
    except (ValueError, TypeError) as error:
        raise DataError(
            "The table has columns that are no numbers; name the model (--model ridge) to encode them."
        ) from error
    if not np.isfinite(rows).all():
        raise DataError(
            "Rows hold missing or infinite values; fill them, or name the model (--model ridge), which does."
        )
    return rows


def _with_ones(X: Float64[np.ndarray, "n k"], intercept: bool) -> Float64[np.ndarray, "n d"]:
    return np.hstack([X, np.ones((len(X), 1))]) if intercept else X


def _refused(estimator: Any) -> MethodError:
    return MethodError(
        f"linear-influence has closed forms for Ridge (one alpha), LinearRegression and LogisticRegression (L2 penalty, no "
        f"class weights), and was given {estimator!r}. Choose one of these, or a method that trains again, such as loo."
    )
