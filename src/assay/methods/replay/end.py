"""The end of a run, where measurements look at the parameters: their gradients begin every adjoint."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from assay.errors import NonFiniteError
from assay.tasks import Loss, Measurement
from assay.tasks.base import evaluating
from assay.training import Encoded, Layout
from assay.training.optimizers import Flat

AT_ONCE = 64


@dataclass(frozen=True)
class End:
    """A module of our own and the parameters that a run ended with, which it is given whenever it is asked."""

    module: nn.Module = field(repr=False)
    params: Flat = field(repr=False)

    def gradients(self, queries: Encoded, measurement: Measurement) -> Float[Tensor, "q params"]:
        """Gradient of each query's measurement, in evaluation mode."""
        rows = [self._gradient(queries, [row], measurement, 1.0) for row in range(len(queries))]
        return torch.stack(rows) if rows else self.params.new_zeros(0, len(self.params))

    def mean_gradient(self, queries: Encoded, measurement: Measurement) -> Flat:
        """Gradient of the mean over the queries."""
        total = torch.zeros_like(self.params)
        for rows in _chunks(len(queries)):
            total += self._gradient(queries, rows, measurement, 1.0 / len(queries))
        return total

    def losses(self, queries: Encoded) -> Float[np.ndarray, " queries"]:
        """Each query's loss, mean over its tokens, nats."""
        self._install()
        with evaluating(self.module), torch.no_grad():
            parts = [
                queries.task.measure(self.module, queries.batch(torch.tensor(rows), self.params.device), Loss("mean"))
                for rows in _chunks(len(queries))
            ]
        return torch.cat(parts).double().cpu().numpy() if parts else np.zeros(0)

    def _gradient(self, queries: Encoded, rows: Sequence[int], measurement: Measurement, weight: float) -> Flat:
        self._install()
        trainable = [p for p in self.module.parameters() if p.requires_grad]
        with evaluating(self.module), torch.enable_grad():
            batch = queries.batch(torch.tensor(rows), self.params.device)
            measured = queries.task.measure(self.module, batch, measurement)
            pieces = torch.autograd.grad(weight * measured.sum(), trainable, allow_unused=True, materialize_grads=True)
        if not bool(measured.isfinite().all()):
            wrong = int((~measured.isfinite()).nonzero()[0])
            raise NonFiniteError(
                f"The measurement of query {batch.ids[wrong]} is {float(measured[wrong])}; a finite number was "
                "expected. Look at that query."
            )
        return torch.cat([piece.reshape(-1) for piece in pieces])

    def _install(self) -> None:
        with torch.no_grad():
            pieces = Layout.of(self.module).split(self.params)
            for name, parameter in self.module.named_parameters():
                if name in pieces:
                    parameter.copy_(pieces[name])


def _chunks(n: int) -> list[list[int]]:
    return [list(range(n))[start : start + AT_ONCE] for start in range(0, n, AT_ONCE)]
