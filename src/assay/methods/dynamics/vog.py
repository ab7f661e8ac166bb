"""VoG, variance of gradients: how much the gradient by the input still changes along the run.

    G_c = d z_y / d input at checkpoint c        d_i = mean over the input's numbers of the spread of G_c over c
    z_i = (d_i - mean of i's class) / standard deviation of i's class,        value_i = -z_i

z_y is the logit before the softmax (the gradient after it vanishes where the model is sure); the input is the array, or of
tokens what the embedding gives, padding left out. Running moments (Welford) only. The spread is the variance; the printed formula
can also be read as the standard deviation (reconstruction: `spread="std"`), which ranks alike: Spearman above 0.95 in the test.

Paper: Agarwal, D'souza and Hooker 2022, CVPR (arXiv 2008.11600), equations 1 and 2. Cost: `runs` trainings and for each `looks` forward
and backward passes (without weights); 8 bytes for each number of all inputs. Examples without a class of their own (texts whose tokens
are predicted) are one class. Class normalisation moves a cut: `vog` in the table is the number before it.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float, Int64

from assay.dynamics import Record, Recorder
from assay.dynamics.recorder import follow
from assay.errors import MethodError
from assay.examples import Examples
from assay.methods.base import option
from assay.methods.dynamics.base import Dynamics, Found
from assay.models import Model
from assay.training import Encoded, Recipe


@dataclass(frozen=True)
class VoG(Dynamics):
    """Spread of the input gradient along the run, standardised within classes, negated."""

    name: ClassVar[str] = "vog"
    summary: ClassVar[str] = (
        "how much the gradient by the input changes along the run, within its class; hard examples come last"
    )
    paper: ClassVar[str] = "Agarwal et al. 2022 (2008.11600)"

    looks: int = option(10, "of a recipe: how often the gradients are taken, evenly spread over the run")
    spread: str = option("variance", "of a number of the gradient over the looks", ("variance", "std"))

    def check(self) -> None:
        """Numbers out of range."""
        super().check()
        self.expect(self.looks >= 2, "looks", "at least 2")

    def of(self, record: Record) -> Found:
        """Of one run."""
        if record.inputs.count < 2:
            raise MethodError(
                f"vog compares the input gradients of two looks at least, and there are {record.inputs.count}. Record them "
                "(Recorder(train, inputs=10), or recorder.input_gradients(model)), or give a model with checkpoints."
            )
        d = record.inputs.spread(self.spread)
        return Found(-standardised(d, record.labels), {"vog": d}, (f"{record.inputs.count} looks.",))

    def recorded(self, recipe: Recipe, data: Encoded) -> Record:
        """Looks spread over the run."""
        recorder = Recorder(data.examples, evaluations=None, inputs=self.looks)
        follow(recorder, recipe, data, recipe.order(len(data)).total, "vog: training")
        return recorder.record

    def looked(self, model: Model, train: Examples) -> Record:
        """At each checkpoint."""
        recorder = Recorder(train)
        for number, stage in enumerate(model.stages(), 1):
            recorder.input_gradients(model.at(stage), number)
        return recorder.record


def standardised(d: Float[np.ndarray, " n"], labels: Int64[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Less the mean of its class, by the standard deviation of its class; 0 where all of a class are alike."""
    z = np.zeros_like(d)
    for label in np.unique(labels):
        mine = labels == label
        spread = d[mine].std()
        if spread > 0:
            z[mine] = (d[mine] - d[mine].mean()) / spread
    return z
