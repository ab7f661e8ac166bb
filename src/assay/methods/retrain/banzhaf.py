"""Data Banzhaf: the mean utility of the random subsets with an example, less that of those without it.

    phi_i = mean U(S) over S with i  -  mean U(S) over S without i,      each row in S with probability 1/2

Of all semivalues its ranking suffers least from a noisy utility, such as training with random seeds. The `msr` sampler
uses each subset for every example; the others give marginal contributions, weighted with w(j) = n C(n - 1, j - 1) / 2^(n - 1).
No subset is skipped, the empty one neither.

Paper: Wang and Jia 2023, AISTATS (arXiv 2205.15466), definition 4 and equation 5. Cost: one fit a subset, 10 n subsets. Not
efficient.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float64

from assay.methods.base import option
from assay.methods.retrain.samplers.uniform import Uniform
from assay.methods.retrain.semivalue import SAMPLERS, Semivalue
from assay.methods.retrain.stopping import Stop


@dataclass(frozen=True)
class Banzhaf(Semivalue):
    """Mean difference that an example makes to a random subset."""

    name: ClassVar[str] = "banzhaf"
    summary: ClassVar[str] = "mean difference that an example makes to random subsets: ranks hold under noise"
    paper: ClassVar[str] = "Wang and Jia 2023 (2205.15466)"

    sampler: str = option("msr", "how coalitions are drawn", ("msr", *SAMPLERS))
    stop: str | Stop = option("updates:10n", "when to stop; an update of msr is one subset")  # noqa: RUF009 - a field

    def weights(self, n: int) -> Float64[np.ndarray, " n"]:
        """Binomial sizes."""
        return n * Uniform().sizes(n)
