"""The adjoint of a training run: cotangents of the state, carried from the last step to the first.

With s_t = (theta_t, m_t) the state, w the weights of the examples and (theta, m)' = U(theta, m, g), g = grad J_t(theta, w):

    (lam, mu) <- U' pulled back          elementwise, see `update`;  mu is the cotangent of g
    lam      += (d/dtheta) < g, mu >     a Hessian-vector product
    tau_i    += (d/dw_i)   < g, mu >   = < grad L_i, mu > / size        for the rows i of the step's batch

and at the end tau_i = dm/dw_i of the measurement whose gradient lam started as. Both derivatives come together, exactly
(`exact`: one backward pass through the graph of g) or with the Gauss-Newton matrix in the first (`gauss_newton`).

Source: Engstrom et al. 2025 (2503.13751), section 3 and appendix; Ilyas & Engstrom 2025 (2504.16430). Accumulation: lam
and the moments in the precision of the parameters, tau in float64.
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from assay.methods.replay.exact import Exact
from assay.methods.replay.gauss_newton import GaussNewton
from assay.methods.replay.update import Linearised
from assay.training import State, Steps

NUMBERS = {"cpu": 2**23, "cuda": 2**27}
"""Numbers (parameters, and activations in the graph) that a part of the queries works on at once, by device: what fits in
the cache of a processor, where a second trip to memory costs more than a product, or fills a GPU."""


PRODUCTS: dict[str, type[Exact]] = {"exact": Exact, "gauss-newton": GaussNewton}
"""How products with second derivatives are had."""


@dataclass
class Adjoint:
    """Cotangents after some step, one row a query, and what the steps behind it have given.

    `state` holds `params` and every moment, [q, params] each; `tau` the derivative by each example's weight.
    """

    state: dict[str, Float[Tensor, "q params"]] = field(repr=False)
    tau: Float64[Tensor, "q n"] = field(repr=False)

    @staticmethod
    def of(steps: Steps, gradients: Float[Tensor, "q params"]) -> "Adjoint":
        """At the end of the run, where a measurement looks at the parameters only."""
        moments = {name: torch.zeros_like(gradients) for name in steps.update.optimizer.remembers}
        tau = torch.zeros(len(gradients), len(steps.weights), dtype=torch.float64, device=gradients.device)
        return Adjoint({"params": gradients.clone(), **moments}, tau)

    def __len__(self) -> int:
        return len(self.tau)


class Backward:
    """Carries an adjoint back over the steps of a run; to be used within `twice_differentiable()`."""

    def __init__(self, steps: Steps, products: str = "exact") -> None:
        self.steps = steps
        self.products = PRODUCTS[products](steps)

    def __call__(self, adjoint: Adjoint, state: State) -> None:
        """Over the step that `state` is the beginning of, in place."""
        steps = self.steps
        at = self.products.look(state)
        update = Linearised.of(steps.update, state.params, state.moments, at.gradient, state.step)
        rows = steps.order.rows(state.step).to(steps.device)
        size = max(1, NUMBERS["cpu" if steps.device.type == "cpu" else "cuda"] // at.held)
        for start in range(0, len(adjoint), size):
            part = slice(start, start + size)
            cotangents = {name: tensor[part] for name, tensor in adjoint.state.items()}
            mu = update.pull(cotangents)
            products = self.products.pull(at, mu, cotangents["params"])
            if products is not None:
                adjoint.tau[part].index_add_(1, rows, products.double())
