"""The losses that boosters minimise, with the derivatives that their leaves and our recursions need.

A prediction is raw (before any link) and output-first: f [C, n, ...]; trailing axes are counterfactual worlds. `scale`
multiplies the curvature that the library puts into its leaves (XGBoost's softmax 2, LightGBM's C/(C-1)); with `unit` it
is 1, which makes a leaf's value a mean gradient. The derivative of the gradient is always the true one, cross terms of
the softmax included. All in float64.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class Loss(ABC):
    """One loss. `y` [n] holds numbers, or class numbers; it broadcasts over trailing axes."""

    name: ClassVar[str]
    scale: float = 1.0
    unit: bool = False

    @abstractmethod
    def value(self, f: Array, y: Array) -> Array:
        """The loss of each row, [n, ...]."""

    @abstractmethod
    def gradient(self, f: Array, y: Array) -> Array:
        """G = dL/df, [C, n, ...]."""

    @abstractmethod
    def curvature(self, f: Array, y: Array) -> Array:
        """What the library sums in a leaf's denominator, [C, n, ...]."""

    def both(self, f: Array, y: Array) -> tuple[Array, Array]:
        """Gradient and curvature."""
        return self.gradient(f, y), self.curvature(f, y)

    @abstractmethod
    def change(self, f: Array, y: Array, v: Array, u: Array) -> Array:
        """Derivative of g + curvature * v along u, with v fixed, [C, n, ...]."""

    def change_transposed(self, f: Array, y: Array, v: Array, u: Array) -> Array:
        """The transpose of that derivative times u; the same where the curvature is the Hessian's."""
        return self.change(f, y, v, u)

    @abstractmethod
    def constant(self, y: Array, weight: Array, outputs: int) -> Array:
        """The best prediction that is the same for all rows, [C]."""


class _Single(Loss):
    """One output: everything follows from g and its derivatives h and k, all [1, n, ...]."""

    @abstractmethod
    def derivatives(self, f: Array, y: Array) -> tuple[Array, Array, Array]:
        """Of the loss in f: first, second, third."""

    def gradient(self, f: Array, y: Array) -> Array:
        return self.derivatives(f, y)[0]

    def curvature(self, f: Array, y: Array) -> Array:
        return np.ones_like(f) if self.unit else self.scale * self.derivatives(f, y)[1]

    def both(self, f: Array, y: Array) -> tuple[Array, Array]:
        g, h, _ = self.derivatives(f, y)
        return g, np.ones_like(f) if self.unit else self.scale * h

    def slope(self, f: Array, y: Array, v: Array) -> Array:
        """H + v k: the factor of u in `change`."""
        _, h, k = self.derivatives(f, y)
        return h if self.unit else h + self.scale * v * k

    def change(self, f: Array, y: Array, v: Array, u: Array) -> Array:
        return self.slope(f, y, v) * u


@dataclass(frozen=True)
class Squared(_Single):
    """(f - y)^2 / 2."""

    name: ClassVar[str] = "squared error"

    def value(self, f: Array, y: Array) -> Array:
        return 0.5 * (f[0] - _like(y, f)) ** 2

    def derivatives(self, f: Array, y: Array) -> tuple[Array, Array, Array]:
        return f - _like(y, f), np.ones_like(f), np.zeros_like(f)

    def constant(self, y: Array, weight: Array, outputs: int) -> Array:
        return np.array([np.average(y, weights=weight)])


@dataclass(frozen=True)
class Logistic(_Single):
    """log(1 + exp(f)) - y f, with y 0 or 1."""

    name: ClassVar[str] = "logistic"

    def value(self, f: Array, y: Array) -> Array:
        return np.logaddexp(0, f[0]) - _like(y, f) * f[0]

    def gradient(self, f: Array, y: Array) -> Array:
        return _sigmoid(f) - _like(y, f)

    def both(self, f: Array, y: Array) -> tuple[Array, Array]:
        p = _sigmoid(f)
        return p - _like(y, f), np.ones_like(f) if self.unit else p * (1 - p)

    def derivatives(self, f: Array, y: Array) -> tuple[Array, Array, Array]:
        p = _sigmoid(f)
        h = p * (1 - p)
        return p - _like(y, f), h, h * (1 - 2 * p)

    def constant(self, y: Array, weight: Array, outputs: int) -> Array:
        p = np.average(y, weights=weight)
        return np.array([np.log(p / (1 - p))])


@dataclass(frozen=True)
class Poisson(_Single):
    """exp(f) - y f."""

    name: ClassVar[str] = "Poisson"

    def value(self, f: Array, y: Array) -> Array:
        return np.exp(f[0]) - _like(y, f) * f[0]

    def derivatives(self, f: Array, y: Array) -> tuple[Array, Array, Array]:
        mean = np.exp(f)
        return mean - _like(y, f), mean, mean

    def constant(self, y: Array, weight: Array, outputs: int) -> Array:
        return np.array([np.log(np.average(y, weights=weight))])


@dataclass(frozen=True)
class Softmax(Loss):
    """log(sum exp(f)) - f_y, with y a class number; the library's curvature is the diagonal scale p (1 - p)."""

    name: ClassVar[str] = "softmax"

    def value(self, f: Array, y: Array) -> Array:
        top = f.max(0)
        return top + np.log(np.exp(f - top).sum(0)) - np.take_along_axis(f, _index(y, f), 0)[0]

    def gradient(self, f: Array, y: Array) -> Array:
        p = softmax(f)
        np.put_along_axis(p, _index(y, f), np.take_along_axis(p, _index(y, f), 0) - 1, 0)
        return p

    def curvature(self, f: Array, y: Array) -> Array:
        p = softmax(f)
        return np.ones_like(f) if self.unit else self.scale * p * (1 - p)

    def change(self, f: Array, y: Array, v: Array, u: Array) -> Array:
        p = softmax(f)
        dp = p * (u - (p * u).sum(0))
        return dp if self.unit else dp * (1 + self.scale * v * (1 - 2 * p))

    def change_transposed(self, f: Array, y: Array, v: Array, u: Array) -> Array:
        p = softmax(f)
        u = u if self.unit else u * (1 + self.scale * v * (1 - 2 * p))
        return p * (u - (p * u).sum(0))

    def constant(self, y: Array, weight: Array, outputs: int) -> Array:
        counts = np.bincount(y.astype(np.int64), weight, outputs)
        return np.log(counts / counts.sum())


@dataclass(frozen=True)
class CoupledSoftmax(Softmax):
    """The softmax with its whole Hessian diag(p) - p p^T, as CatBoost's leaves of several outputs have it."""

    def times(self, f: Array, v: Array) -> Array:
        """Hessian times v, [C, n, ...]."""
        p = softmax(f)
        return p * (v - (p * v).sum(0))

    def matrices(self, f: Array) -> Array:
        """The Hessians, [n, C, C]."""
        p = softmax(f).T
        return p[:, :, None] * np.eye(p.shape[1]) - p[:, :, None] * p[:, None, :]

    def change(self, f: Array, y: Array, v: Array, u: Array) -> Array:
        p = softmax(f)
        dp = p * (u - (p * u).sum(0))
        mean, dmean = (p * v).sum(0), (dp * v).sum(0)
        return dp + dp * (v - mean) - p * dmean

    def change_transposed(self, f: Array, y: Array, v: Array, u: Array) -> Array:
        return self.change(f, y, v, u)


def softmax(f: Array) -> Array:
    """Probabilities along the first axis."""
    e = np.exp(f - f.max(0))
    return e / e.sum(0)


def _sigmoid(f: Array) -> Array:
    from scipy.special import expit

    return expit(f)


def _like(y: Array, f: Array) -> Array:
    """Y [n] with the trailing axes of f [C, n, ...]."""
    return y.reshape(y.shape + (1,) * (f.ndim - 2))


def _index(y: Array, f: Array) -> Array:
    shape = (1, len(y)) + (1,) * (f.ndim - 2)
    return np.broadcast_to(y.astype(np.int64).reshape(shape), (1, *f.shape[1:]))
