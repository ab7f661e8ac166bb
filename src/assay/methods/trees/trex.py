"""TREX: a kernel model over leaves as a surrogate, whose prediction is a sum over training rows.

    z(x) = one-hot leaves of all trees, each over the training rows of the leaf
    W minimises  (1/N) sum_i s_i L(f0 + W^T z_i, y_i) + m |W|^2
    alpha_i = -s_i g_i / (2 m N),   W = sum_i z_i alpha_i^T                             (representer theorem)
    score(i, q) = L_q(f_q - alpha_i <z_i, z_q>) - L_q(f_q)

f is the surrogate's prediction, f0 where the boosting started (for a forest, the best constant), and L the ensemble's
own loss with the true labels. What is
scored is therefore how much i's term holds up the surrogate's answer, not a removal from the ensemble: the unit is
arbitrary. How well the surrogate agrees with the ensemble on the training rows is told with every result.

Paper: representer points, Yeh et al. 2018 (1811.09720); as TREX for trees, Brophy, Hammoudeh and Lowd 2023 (2205.00359).
Cost: one convex problem, by Newton's method with conjugate gradients on sparse products; then sparse products. Random
forests will do as well. Deviations: the paper has no f0; released code uses half the alpha that the squared loss needs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float64

from assay.errors import MethodError
from assay.methods.base import option
from assay.methods.trees.base import Scorer, TreeMethod, over_leaves, same_leaf
from assay.methods.trees.ensemble import Read
from assay.methods.trees.losses import Array, Loss
from assay.methods.trees.tree_similarity import tree_columns

TOLERANCE = 1e-10
"""Largest entry of the gradient at the end."""


@dataclass(frozen=True)
class TREX(TreeMethod):
    """Representer points of a kernel model over leaves."""

    name: ClassVar[str] = "trex"
    unit: ClassVar[str] = "arbitrary"
    summary: ClassVar[str] = "representer points of a surrogate over leaves; for forests too"
    paper: ClassVar[str] = "Yeh et al. 2018 (1811.09720); Brophy, Hammoudeh and Lowd 2023 (2205.00359)"

    penalty: float = option(0.003, "m, the weight of the surrogate's squared norm")

    def check(self) -> None:
        """A penalty above zero."""
        self.expect(0 < self.penalty < np.inf, "penalty", "a number above 0")

    def prepare(self, read: Read) -> tuple[Scorer, Callable[[], tuple[str, ...]]]:
        """Fit the surrogate."""
        columns, size = tree_columns(read)
        share = 1 / np.maximum(np.bincount(columns.ravel(), minlength=size), 1)
        Z = over_leaves(columns, share[columns], size)
        target = read.ensemble.margin(read.output)
        fit = surrogate(read.ensemble.loss, Z, read.y, read.weight, target, self.penalty, _start(read, len(target)))

        def score(queries: Read) -> Float64[np.ndarray, "n_train n_query"]:
            theirs, _ = tree_columns(queries)
            z = over_leaves(theirs, share[theirs], size)
            f, kernel, loss = fit.predict(z), same_leaf(z, Z), read.ensemble.loss
            without = f[:, :, None] - kernel[None] * fit.alpha[:, None, :]
            return (loss.value(without, queries.y) - loss.value(f[:, :, None], queries.y)).T

        return score, lambda: (
            f"The surrogate's predictions correlate {fit.agreement:.3f} with the ensemble's on the training rows.",
        )


@dataclass(frozen=True, eq=False)
class Surrogate:
    """W [leaves, outputs], the constant f0, alpha [outputs, n], and the correlation with the ensemble."""

    W: Float64[np.ndarray, "leaves outputs"]
    f0: Float64[np.ndarray, " outputs"]
    alpha: Float64[np.ndarray, "outputs n"]
    agreement: float

    def predict(self, z: Any) -> Float64[np.ndarray, "outputs n"]:
        """f0 + W^T z."""
        return (z @ self.W).T + self.f0[:, None]


def surrogate(loss: Loss, Z: Any, y: Array, weight: Array, target: Array, m: float, f0: Array) -> Surrogate:
    """Minimise to a gradient of `TOLERANCE` from the constant f0; `target` [outputs, n] is only compared with.

    Raises MethodError if that is not reached.
    """
    s, w = weight / len(y), np.zeros((Z.shape[1], len(f0)))

    def objective(W: Array) -> float:
        return float(s @ loss.value((Z @ W).T + f0[:, None], y)) + m * float((W * W).sum())

    for _ in range(100):
        f = (Z @ w).T + f0[:, None]
        gradient = Z.T @ (s * loss.gradient(f, y)).T + 2 * m * w
        if np.abs(gradient).max() <= TOLERANCE:
            break
        still = np.zeros_like(f)
        step = _solve(lambda V, f=f, v=still: Z.T @ (s * loss.change(f, y, v, (Z @ V).T)).T + 2 * m * V, gradient)
        size, now, slope = 1.0, objective(w), float((gradient * step).sum())
        while objective(w - size * step) > now - 1e-4 * size * slope + 1e-14 * abs(now) and size > 1e-6:
            size /= 2
        w = w - size * step
    else:
        raise MethodError(f"TREX's surrogate did not converge with penalty={m}; give a larger penalty.")
    f = (Z @ w).T + f0[:, None]
    agreement = float(np.corrcoef(f.ravel(), target.ravel())[0, 1]) if np.std(target) > 0 else 1.0
    return Surrogate(w, f0, -s * loss.gradient(f, y) / (2 * m), agreement)


def _start(read: Read, outputs: int) -> Array:
    """f0, [outputs]; 0 where the best constant is infinite (a class without rows)."""
    ensemble = read.ensemble
    if ensemble.boosting is not None and not ensemble.boosting.folded:
        return ensemble.start
    with np.errstate(divide="ignore"):
        found = ensemble.loss.constant(read.y, read.weight, outputs)
    return found if np.isfinite(found).all() else np.zeros(outputs)


def _solve(times: Callable[[Array], Array], right: Array) -> Array:
    """Conjugate gradients for a positive definite system, to a residual of 1e-6, which Newton's method corrects."""
    x, r = np.zeros_like(right), right.copy()
    p, rho = r.copy(), float((r * r).sum())
    stop = 1e-12 * rho
    for _ in range(10 * right.size):
        if rho <= stop:
            break
        q = times(p)
        a = rho / float((p * q).sum())
        x, r = x + a * p, r - a * q
        rho, before = float((r * r).sum()), rho
        p = r + (rho / before) * p
    return x
