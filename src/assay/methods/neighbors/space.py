"""Where examples lie: representations by the user's model, or their own columns; their labels; distances."""

from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64
from numpy.typing import NDArray
from torch import Tensor

from assay.errors import DataError, NonFiniteError
from assay.examples import Examples
from assay.methods.lexical.embedding import ByModel
from assay.methods.retrain.features import Encoding, flat
from assay.models import Model

Metric = Literal["cosine", "euclidean"]


class Space:
    """Fitted to training examples; places any examples among them.

    A model's representations (`task.features`) are taken as they are. Without a model the examples are arrays or a table:
    with `scale` their columns lose mean and spread, categories become indicators and what is missing the median.
    """

    def __init__(self, model: Model | None, train: Examples, metric: Metric | None, scale: bool) -> None:
        self.model = model
        self.metric: Metric = metric or ("euclidean" if model is None else "cosine")
        self.device = _device() if model is None else model.device
        self._encode = _plain if model is not None or not scale else None
        raw = self._raw(train)
        if self._encode is None:
            self._encode = Encoding(raw)
        rows = self._encode(raw)
        self._mean = rows.mean(0) if self.metric == "euclidean" else np.zeros(rows.shape[1])
        self.rows: Float32[Tensor, "n d"] = self._placed(rows, train.origin)
        self._lengths = self.rows.square().sum(1)

    def place(self, examples: Examples) -> Float32[Tensor, "q d"]:
        """Rows of other examples. Raises DataError if they have other columns."""
        assert self._encode is not None
        rows = self._encode(self._raw(examples))
        if rows.shape[1] != self.rows.shape[1]:
            raise DataError(
                f"{examples.origin} has {rows.shape[1]} features a row and the training data {self.rows.shape[1]}; "
                "they must be the same."
            )
        return self._placed(rows, examples.origin)

    def distances(self, rows: Float32[Tensor, "q d"]) -> Float32[Tensor, "q n"]:
        """Squared Euclidean distance of each row to each training row, or 1 - cosine; float32, at least 0."""
        product = rows @ self.rows.T
        if self.metric == "cosine":
            return product.neg_().add_(1).clamp_(min=0.0).abs_()
        return product.mul_(-2).add_(rows.square().sum(1)[:, None]).add_(self._lengths).clamp_(min=0.0).abs_()

    def _raw(self, examples: Examples) -> Any:
        return examples.matrix().X if self.model is None else ByModel(self.model)(examples)

    def _placed(self, rows: NDArray[Any], origin: str) -> Float32[Tensor, "m d"]:
        if not np.isfinite(rows).all():
            bad = int((~np.isfinite(rows)).any(1).argmax())
            raise NonFiniteError(
                f"{origin}, row {bad + 1}: its representation holds NaN or infinity; expected finite numbers. Fill "
                "missing values, or let columns be scaled (scale=True), which fills them with the median."
            )
        rows = rows - self._mean  # near the origin, so that squares cancel little
        if self.metric == "cosine":
            rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-30)
        return torch.as_tensor(rows.astype(np.float32)).to(self.device)


class Labels:
    """Labels of training examples: `codes` of classes 0 ... `classes` - 1, or `targets`, whose mean is taken off."""

    def __init__(self, train: Examples, regression: bool | None) -> None:
        y = labels_of(train)
        numbers = y.dtype.kind == "f"
        self.regression = numbers if regression is None else regression
        if self.regression:
            if y.dtype.kind not in "biuf" or y.ndim != 1:
                raise DataError(f"{train.origin}: the labels are no numbers, one a row; choose a utility of classes.")
            self._mean = float(y.mean(dtype=np.float64))
            self.values: NDArray[Any] = y.astype(np.float64) - self._mean
            self.classes = 0
            return
        self._known = np.unique(self._as_class(y))
        self.classes, self.values = len(self._known), self.of(train)

    def of(self, examples: Examples) -> Float64[np.ndarray, " m"] | Int64[np.ndarray, " m"]:
        """Targets, or codes; -1 for a label that no training example has."""
        y = labels_of(examples)
        if self.regression:
            return y.astype(np.float64) - self._mean
        y = self._as_class(y)
        place = np.minimum(np.searchsorted(self._known, y), len(self._known) - 1)
        return np.where(self._known[place] == y, place, -1).astype(np.int64)

    def _as_class(self, y: NDArray[Any]) -> NDArray[Any]:
        if y.dtype.kind == "f" and (y.ndim != 1 or (y != np.round(y)).any()):
            raise DataError("The labels are numbers with fractions; expected classes. Choose utility='regression'.")
        if y.ndim != 1:
            raise DataError(f"The labels have shape {y.shape}; expected one class a row.")
        y = y.astype(np.int64) if y.dtype.kind in "biuf" else y
        return y.astype(str)


def labels_of(examples: Examples) -> NDArray[Any]:
    """Y of arrays and tables, else the examples' labels. Raises DataError where there is none."""
    y = examples.matrix().y if examples.kind in ("arrays", "table") else list(examples.labels)
    if y is None or any(label is None for label in y):
        raise DataError(
            f"{examples.origin}: examples have no label, and this method compares labels. Give y beside X, or name the "
            "label's column (label=, --label)."
        )
    return np.asarray(y)


def _plain(rows: Any) -> NDArray[Any]:
    """As they are; a DataFrame must hold numbers."""
    if not hasattr(rows, "iloc"):
        return rows if rows.ndim == 2 else flat(rows)
    try:
        return rows.to_numpy(dtype=np.float64)
    except (ValueError, TypeError) as error:
        raise DataError("The table has columns that are no numbers; let them be encoded (scale=True).") from error


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
