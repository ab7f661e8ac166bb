"""The adjoint of a training run: cotangents of the state, carried from the last step to the first.

With s_t = (theta_t, m_t) the state, w the weights of the examples and (theta, m)' = U(theta, m, g), g = grad J_t(theta, w):

    (lam, mu) <- U' pulled back          elementwise, see `update`;  mu is the cotangent of g
    lam      += (d/dtheta) < g, mu >     a Hessian-vector product
    tau_i    += (d/dw_i)   < g, mu >   = < grad L_i, mu > / size        for the rows i of the step's batch

and at the end tau_i = dm/dw_i of the measurement whose gradient lam started as. Both derivatives are one backward pass
through the graph of g. Many queries go through it as one batch, so that the graph is built once a step and every layer
is one product of matrices; parts of it are as large as memory (and the cache) likes.

Source: Engstrom et al. 2025 (2503.13751), section 3 and appendix; Ilyas & Engstrom 2025 (2504.16430). Accumulation: lam
and the moments in the precision of the parameters, tau in float64.
"""

import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from jaxtyping import Float, Float64
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from assay.errors import ModelError
from assay.methods.replay.update import Linearised
from assay.tasks.head import plain_graph
from assay.training import State, Steps
from assay.training.randomness import forked

NUMBERS = {"cpu": 2**23, "cuda": 2**27}
"""Numbers (parameters, and activations in the graph) that a part of the queries works on at once, by device: what fits in
the cache of a processor, where a second trip to memory costs more than a product, or fills a GPU."""


@contextmanager
def twice_differentiable() -> Generator[None]:
    """Attention by the kernel that has a second derivative, plain output heads, and a random state to be set freely.

    The run itself is recorded within it too, so that dropout inside attention draws the same numbers both times.
    """
    with forked(), plain_graph(), sdpa_kernel(SDPBackend.MATH), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="There is a performance drop")  # of an operation without a batch form
        yield


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


@dataclass(frozen=True)
class Graph:
    """The gradient of one step's objective as a graph over parameters and weights."""

    pieces: tuple[Tensor, ...]
    inputs: tuple[Tensor, ...]
    saved: int

    @staticmethod
    def of(steps: Steps, state: State) -> "Graph":
        """At the state before step `state.step`; `saved` counts the numbers that the graph holds."""
        saved = 0

        def count(tensor: Tensor) -> Tensor:
            nonlocal saved
            saved += tensor.numel()
            return tensor

        steps.install(state.params)
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            losses, weights = steps.losses(state.step)
            weights = weights.detach().requires_grad_()
            pieces = _differentiated(
                steps, lambda: torch.autograd.grad(
                    steps.objective(losses, weights), steps.trainable,
                    create_graph=True, allow_unused=True, materialize_grads=True,
                ),
            )  # fmt: skip
        return Graph(tuple(cast(Sequence[Tensor], pieces)), (*steps.trainable, weights), saved)

    def products(self, steps: Steps, mu: Float[Tensor, "q params"], batched: bool) -> Sequence[Tensor | None]:
        """`d < g, mu > / d(parameters, weights)`, each with the queries in front; None where it does not depend."""
        used = [k for k, piece in enumerate(self.pieces) if piece.requires_grad]
        pieces, rows = [self.pieces[k] for k in used], rows_of(mu, steps)
        tangents = [rows[k] for k in used]
        depends: list[bool] = []

        def back(*tangent: Tensor) -> tuple[Tensor, ...]:
            found = _differentiated(
                steps, lambda: torch.autograd.grad(pieces, self.inputs, tangent, retain_graph=True, allow_unused=True)
            )
            depends[:] = [one is not None for one in found]
            return tuple(one for one in found if one is not None)

        if batched:
            some = iter(torch.func.vmap(back)(*tangents))
        else:
            each = [back(*(tangent[q] for tangent in tangents)) for q in range(len(mu))]
            some = (torch.stack(column) for column in zip(*each, strict=True))
        return [next(some) if there else None for there in depends]


class Backward:
    """Carries an adjoint back over the steps of a run.

    Whether the queries can go through the graph as a batch is tried at the first step and the result compared with that
    of single queries; if it fails or differs, they go one by one, which `batched` says.
    """

    def __init__(self, steps: Steps) -> None:
        self.steps = steps
        self.batched: bool | None = None
        self._checked = False

    def __call__(self, adjoint: Adjoint, state: State) -> None:
        """Over the step that `state` is the beginning of, in place."""
        steps = self.steps
        graph = Graph.of(steps, state)
        if not self._checked:
            _check_twice(steps, graph)
            self._checked = True
        gradient = steps.layout.join([piece.detach() for piece in graph.pieces])
        update = Linearised.of(steps.update, state.params, state.moments, gradient, state.step)
        rows = steps.order.rows(state.step).to(steps.device)
        size = max(1, NUMBERS["cpu" if steps.device.type == "cpu" else "cuda"] // (len(gradient) + graph.saved))
        for start in range(0, len(adjoint), size):
            part = slice(start, start + size)
            cotangents = {name: tensor[part] for name, tensor in adjoint.state.items()}
            mu = update.pull(cotangents)
            *second, products = self._products(graph, mu)
            for target, piece in zip(rows_of(cotangents["params"], steps), second, strict=True):
                if piece is not None:
                    target.add_(piece)
            if products is not None:
                adjoint.tau[part].index_add_(1, rows, products.double())

    def _products(self, graph: Graph, mu: Float[Tensor, "q params"]) -> Sequence[Tensor | None]:
        if len(mu) == 1:
            return graph.products(self.steps, mu, batched=False)
        if self.batched is None:
            self.batched = _agrees(graph, self.steps, mu)
        return graph.products(self.steps, mu, self.batched)


def _agrees(graph: Graph, steps: Steps, mu: Float[Tensor, "q params"]) -> bool:
    """Whether the first and the last query as a batch give what they give alone."""
    ends = mu[[0, -1]]
    alone = graph.products(steps, ends, batched=False)
    try:
        together = graph.products(steps, ends, batched=True)
    except (RuntimeError, NotImplementedError, ModelError):
        return False
    tolerance = 1e-3 if mu.dtype == torch.float32 else 1e-8
    return all(
        one is other or (one is not None and other is not None and _close(one, other, tolerance))
        for one, other in zip(alone, together, strict=True)
    )


def _close(one: Tensor, other: Tensor, tolerance: float) -> bool:
    return bool((one - other).abs().max() <= tolerance * one.abs().max())


def rows_of(flat: Float[Tensor, "q params"], steps: Steps) -> list[Tensor]:
    """Views of flat rows, [q, *shape] for each parameter."""
    layout = steps.layout
    parts = torch.split(flat, layout.sizes, dim=1)
    return [part.view(len(flat), *shape) for part, shape in zip(parts, layout.shapes, strict=True)]


def _differentiated(steps: Steps, gradients: Callable[[], Sequence[Tensor | None]]) -> Sequence[Tensor | None]:
    """The gradients; ModelError where an operation of the module has no second derivative."""
    try:
        return gradients()
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        if "not implemented" not in reason:
            raise
        raise _once_only(steps, reason) from error


def _once_only(steps: Steps, reason: str) -> ModelError:
    return ModelError(
        f"{type(steps.module).__name__} cannot be differentiated twice, which replay needs: {reason} Choose operations "
        "that can (attention: attn_implementation='eager' or 'sdpa' in place of flash attention)."
    )


def _check_twice(steps: Steps, graph: Graph) -> None:
    """Raise ModelError for a function marked once differentiable: autograd would leave its branch out in silence."""
    ahead: list[Any] = [piece.grad_fn for piece in graph.pieces]
    seen = set[Any]()
    while ahead:
        node = ahead.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.name() == "torch::autograd::Error":
            raise _once_only(steps, "it has a function of its own that is marked once_differentiable.")
        ahead.extend(following for following, _ in node.next_functions)
