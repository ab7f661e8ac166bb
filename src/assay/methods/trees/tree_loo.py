"""Leave-one-out for tree ensembles: fit again without each row, splits free.

    score(i, q) = L_q(fit without i) - L_q(fit with all)

The estimator is cloned with all its settings, its seed included, and fitted to the remaining rows; a fit with all rows is
the reference. This is the definition that other methods estimate; a single row often moves no split, and then it equals
LeafRefit up to the start, which is fitted again here. It finds the best single row, not the best set (Brophy et al.).

Paper: classical (Cook 1977). Cost: n + 1 fits for a block of queries. Bin edges and feature sampling depend on all rows,
so a row can matter without touching a query's leaves; the share of pairs of exactly no effect is told. Needs an
estimator, because a model file does not hold everything that training took.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, cast

import numpy as np
from jaxtyping import Float64

from assay.errors import MethodError, ModelError
from assay.examples import Matrix
from assay.methods.base import option
from assay.methods.trees.base import NATS, Scorer, TreeMethod
from assay.methods.trees.ensemble import Ensemble, Read
from assay.methods.trees.features import told
from assay.methods.trees.load import load_ensemble
from assay.progress import progress


@dataclass(frozen=True)
class TreeLOO(TreeMethod):
    """Fit again without each row."""

    name: ClassVar[str] = "tree-loo"
    unit: ClassVar[str] = NATS
    summary: ClassVar[str] = "fit again without each row, splits free; for forests too"
    paper: ClassVar[str] = "Cook 1977"

    most_fits: int = option(2000, "refuse more training rows than this: each costs a fit")

    def check(self) -> None:
        """At least one row."""
        self.expect(self.most_fits >= 1, "most_fits", "at least 1")

    def prepare(self, read: Read) -> tuple[Scorer, Callable[[], tuple[str, ...]]]:
        """Fit to all rows, the reference."""
        if read.ensemble.estimator is None:
            raise ModelError(
                "tree-loo fits again, and a booster or model file does not hold all of its training's settings. Give the "
                "estimator, such as XGBClassifier, from Python."
            )
        if len(read) > self.most_fits:
            raise MethodError(
                f"tree-loo fits {len(read)} times, and most_fits is {self.most_fits}. Raise most_fits, give fewer "
                "rows, or choose leaf-refit, which keeps the splits."
            )
        full = _fitted(read, np.arange(len(read)), self.name)
        told_: list[str] = []
        moved = np.abs(_margins(full, read) - read.ensemble.margin(read.output)).max()
        if moved > 1e-5:
            told_.append(f"The fit to all rows is not the model given: predictions differ by up to {moved:.1e}.")

        def score(queries: Read) -> Float64[np.ndarray, "n_train n_query"]:
            loss, everything = read.ensemble.loss, np.arange(len(read))
            before = loss.value(_margins(full, queries), queries.y)
            found = np.empty((len(read), len(queries)))
            for i in progress(range(len(read)), "fitting without each row", len(read)):
                one = _fitted(read, np.delete(everything, i), self.name)
                found[i] = loss.value(_margins(one, queries), queries.y) - before
            told_[1:] = [f"Pairs of exactly no effect: {np.mean(found == 0):.1%}."]
            return found

        return score, lambda: tuple(told_)


def _fitted(read: Read, rows: Any, method: str) -> Ensemble:
    """The estimator fitted to some rows. Raises ModelError if a class or an output has gone with them."""
    from sklearn import base  # not at the top: importing assay stays light

    estimator: Any = cast(Any, base).clone(read.ensemble.estimator)
    columns = read.ensemble.source.columns(read.matrix.X)
    matrix = Matrix(columns, read.matrix.y, read.matrix.weight).rows(rows)  # categories stay those of all rows
    extra: dict[str, Any] = {} if matrix.weight is None else {"sample_weight": matrix.weight}
    if read.ensemble.library.startswith("CatBoost"):
        extra["verbose"] = False
    told(read.ensemble.library, lambda: estimator.fit(matrix.X, _labels(read, matrix), **extra))
    found = load_ensemble(estimator, method)
    known, before = found.classes, read.ensemble.classes
    if known is not None and before is not None and len(known) != len(before):
        raise ModelError("A class has only one training row, so that tree-loo cannot leave it out. Add rows of it.")
    return replace(found, loss=read.ensemble.loss)


def _labels(read: Read, matrix: Matrix) -> Any:
    """As the estimator was given them."""
    classes = read.ensemble.classes
    return matrix.y if classes is None else classes[read.ensemble.targets(matrix.y).astype(np.int64)]


def _margins(ensemble: Ensemble, read: Read) -> Float64[np.ndarray, "outputs n"]:
    output = np.asarray(ensemble.source.output(ensemble.source.prepare(read.matrix.X)), np.float64)
    return ensemble.margin(output.reshape(len(read), -1))
