"""GraNd: the length of an example's gradient, early in training.

    d_i = E over seeds of  |grad L_i(theta_t)|_2,        value_i = -d_i

over all parameters that the model's patterns select, L_i the loss as trained. No gradient is formed: of a linear layer
`|G|^2 = sum over t, u of (d_t . d_u)(a_t . a_u)`, of others as capture has it.

Paper: Paul, Ganguli and Dziugaite 2021 (arXiv 2107.07075), definition 2.1; 10 runs. At initialisation it does not reproduce and follows
the length of the input (Kirsch 2023, arXiv 2303.14753), so it is taken after epoch `at`. Cost: `runs` trainings that stop after epoch
`at`, and for each a forward and a backward pass (without weights) of all examples.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from assay.dynamics import Record, Recorder
from assay.dynamics.recorder import follow
from assay.errors import MethodError
from assay.examples import Examples
from assay.methods.base import option
from assay.methods.dynamics.base import Dynamics, Found
from assay.models import Model
from assay.training import Encoded, Recipe


@dataclass(frozen=True)
class GraNd(Dynamics):
    """Length of each example's gradient early in training, negated."""

    name: ClassVar[str] = "grand"
    summary: ClassVar[str] = (
        "length of an example's gradient early in training; hard and mislabelled examples come last"
    )
    paper: ClassVar[str] = "Paul et al. 2021 (2107.07075)"

    at: int = option(
        1,
        "after which epoch of a recipe; of a record which of its looks at gradients, of a model which checkpoint, from 1",
    )

    def check(self) -> None:
        """Numbers out of range."""
        super().check()
        self.expect(self.at >= 1, "at", "at least 1")

    def of(self, record: Record) -> Found:
        """Of one run."""
        if len(record.norms) < self.at:
            raise MethodError(
                f"grand reads look {self.at} at the gradients, and there are {len(record.norms)}. Record them "
                "(Recorder(train, gradients=3), or recorder.gradient_norms(model)), or give another at."
            )
        d = record.norms[self.at - 1].astype(np.float64)
        return Found(-d, {"grand": d})

    def recorded(self, recipe: Recipe, data: Encoded) -> Record:
        """Up to the end of epoch `at`."""
        order = recipe.order(len(data))
        if self.at > order.epochs:
            raise MethodError(
                f"grand reads gradients after epoch {self.at}, and the recipe trains {order.epochs}; give another at."
            )
        step = self.at * order.per_epoch
        recorder = Recorder(data.examples, evaluations=None, gradients=[step])
        follow(recorder, recipe, data, step, "grand: training")
        found = recorder.record
        return replace(found, norms=np.repeat(found.norms, self.at, 0))  # one look, where `at` reads it

    def looked(self, model: Model, train: Examples) -> Record:
        """At each checkpoint."""
        recorder = Recorder(train)
        for number, stage in enumerate(model.stages(), 1):
            recorder.gradient_norms(model.at(stage), stage.rate, number)
        return recorder.record
