"""LinFiK, the linearised future influence kernel: what a step of training on an example would do for a set of targets.

    score(i, q) = < grad L_i, grad L_q >        value_i = (1 / |D|) sum over q in D of  score(i, q)

at the weights as they are, before the model has trained on i; both losses are means over tokens, so that a long text is not worth
more for its length alone. One step of SGD at rate eta on i lowers the mean loss of D by `eta value_i + O(eta^2)`.

Paper: Pan et al. 2025, NAACL (arXiv 2503.01052), equation 3. First order and forward-looking is our reading of it; one-step retraining
confirms the sign (docs/methods/linfik.md). Cost of values: one gradient a target, whose mean is taken as they come, and one pass
over the examples against that mean; memory a few gradients, however many targets. Assumes SGD-like training: what an adaptive
optimiser rescales, and what the examples have in common with each other, is left out.
"""

from dataclasses import dataclass
from typing import ClassVar

from assay.methods.base import option
from assay.methods.gradient.graddot import GradDot


@dataclass(frozen=True)
class LinFiK(GradDot):
    """Inner product of an example's gradient with the mean gradient of the targets, before training on it."""

    name: ClassVar[str] = "linfik"
    summary: ClassVar[str] = "what a step on an example would do for the targets, before training on it"
    paper: ClassVar[str] = "Pan et al. 2025 (2503.01052)"

    train_loss: str = option("mean", "a training example's loss over its tokens", ("sum", "mean"))
