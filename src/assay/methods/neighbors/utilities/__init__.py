"""What a set of training examples is worth for one query, and each example's exact Shapley value; one utility, one file."""

from assay.methods.neighbors.utilities.base import Near, Solver
from assay.methods.neighbors.utilities.classic import classic
from assay.methods.neighbors.utilities.regression import regression
from assay.methods.neighbors.utilities.soft import soft
from assay.methods.neighbors.utilities.threshold import threshold
from assay.methods.neighbors.utilities.weighted import weighted

SOLVERS: dict[str, Solver] = {
    "classic": classic, "soft": soft, "weighted": weighted, "threshold": threshold, "regression": regression,
}  # fmt: skip

__all__ = ["SOLVERS", "Near", "Solver"]
