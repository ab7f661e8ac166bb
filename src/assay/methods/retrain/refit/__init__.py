"""Refits that start from the last fit, for models where that is exact: one file each.

None is believed: before a run, each is compared with scikit-learn's own fit (`checked_refit`), and left if they differ.
"""

from typing import Any

import numpy as np

from assay.methods.retrain.refit.base import Data, Refit
from assay.methods.retrain.refit.bayes import GaussianBayes
from assay.methods.retrain.refit.logistic import Logistic
from assay.methods.retrain.refit.neighbors import Neighbors
from assay.methods.retrain.refit.ridge import RidgeRefit

REFITS: tuple[type[Refit], ...] = (Logistic, RidgeRefit, Neighbors, GaussianBayes)
TOLERANCE = 1e-4
"""Largest difference of a probability, or of a prediction relative to the targets' spread."""


def refit_for(estimator: Any, data: Data) -> type[Refit] | None:
    """The refit that gives what this estimator gives, or None."""
    if data.weight is not None:
        return None
    return next((kind for kind in REFITS if kind.fits(estimator, data)), None)


def differs(refit: Refit, estimator: Any, data: Data) -> float:
    """Largest difference to the estimator's own outputs: for all rows, and for half of them reached in two ways."""
    half = np.arange(data.n) % 2 == 0
    few = half & (np.arange(data.n) % 6 == 0)
    worst = 0.0
    for path in ([np.ones(data.n, bool)], [few, half], [np.ones(data.n, bool), half]):
        if data.classes is not None and len(np.unique(data.y[path[-1]])) < 2:
            continue
        refit.reset()
        found = [refit.outputs(rows) for rows in path if data.classes is None or len(np.unique(data.y[rows])) > 1][-1]
        worst = max(worst, float(np.abs(found - data.outputs(estimator, path[-1])).max()))
    return worst / data.scale
