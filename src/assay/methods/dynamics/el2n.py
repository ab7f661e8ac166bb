"""EL2N: the length of the error vector early in training.

    d_i = E over seeds of  |softmax(z_i) - onehot(y_i)|_2,        value_i = -d_i,        0 <= d_i <= sqrt(2)

of the `at`-th observation of each example: of a recipe's batches the `at`-th epoch. Texts with several predicted tokens have
the mean over them. Measured: equal to GraNd of the last layer's weight, divided by the length of its input, exactly.

Paper: Paul, Ganguli and Dziugaite 2021 (arXiv 2107.07075), definition 2.2; 10 runs, epoch 20 of 200 (2 when fine-tuning). Cost:
`runs` trainings that stop after epoch `at`; nothing beyond, as the logits are there already; 24 bytes an example and
observation. Wrong labels have large `d`, so pruning the easy end keeps them: drop the hardest few percent too.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from assay.dynamics import Record
from assay.methods.base import option
from assay.methods.dynamics.base import Found, Observed
from assay.training import Recipe
from assay.training.data import evenly


@dataclass(frozen=True)
class EL2N(Observed):
    """Length of the error vector of an early observation, negated."""

    name: ClassVar[str] = "el2n"
    summary: ClassVar[str] = "length of the error vector early in training; hard and mislabelled examples come last"
    paper: ClassVar[str] = "Paul et al. 2021 (2107.07075)"

    at: int = option(
        2, "which observation of each example, from 1; of a recipe's batches the epoch; of a model the checkpoint"
    )

    def check(self) -> None:
        """Numbers out of range."""
        super().check()
        self.expect(self.at >= 1, "at", "at least 1")

    def until(self, recipe: Recipe, total: int) -> int:
        """The step of observation `at`."""
        if self.evaluations:
            return evenly(total, self.evaluations)[min(self.at, self.evaluations) - 1]
        return min(self.at * total // recipe.epochs, total)

    def of(self, record: Record) -> Found:
        """Of one run."""
        d = self.column(record, "el2n", least=self.at)[self.at - 1]
        return Found(-d, {"el2n": np.asarray(d)})
