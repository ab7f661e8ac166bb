"""Second derivatives of a step's objective, exactly: backward over backward.

The gradient of a step is a graph over parameters and weights, and one backward pass through it gives a Hessian-vector product
and the rows' shares. Many queries go through as one batch, so that the graph is built once a step. Of a layer `y = x W^T` a query
needs six products of matrices (two of a first layer) where the training step took three (two).
"""

import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from assay.errors import ModelError
from assay.tasks.head import plain_graph
from assay.training import State, Steps
from assay.training.optimizers import Flat
from assay.training.randomness import forked


@contextmanager
def twice_differentiable() -> Generator[None]:
    """Attention by the kernel that has a second derivative, plain output heads, and a random state to be set freely.

    The run itself is recorded within it too, so that dropout inside attention draws the same numbers both times.
    """
    with forked(), plain_graph(), sdpa_kernel(SDPBackend.MATH), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="There is a performance drop")  # of an operation without a batch form
        yield


@dataclass(frozen=True)
class Graph:
    """The gradient of one step's objective as a graph over parameters and weights; `gradient` is its value.

    `held` counts the numbers that it and a query's way back through it take.
    """

    steps: Steps
    pieces: tuple[Tensor, ...]
    weights: Tensor
    gradient: Flat = field(repr=False)
    held: int

    @classmethod
    def of(cls, steps: Steps, state: State) -> "Graph":
        """At the state before step `state.step`."""
        steps.install(state.params)
        with torch.enable_grad(), counted() as saved:
            losses, weights = steps.losses(state.step)
            weights = weights.detach().requires_grad_()
            objective = steps.objective(losses, weights)
            pieces = differentiated(
                steps, lambda: torch.autograd.grad(
                    objective, steps.trainable, create_graph=True, allow_unused=True, materialize_grads=True
                ),
            )  # fmt: skip
        gradient = joined(steps, pieces)
        return cls(steps, tuple(cast(Sequence[Tensor], pieces)), weights, gradient, len(gradient) + sum(saved))

    def back(self, mu: Sequence[Tensor]) -> Sequence[Tensor | None]:
        """`d < g, mu > / d(parameters, weights)` for one query, whose `mu` has the shapes of `pieces`; None: no dependence."""
        used = [k for k, piece in enumerate(self.pieces) if piece.requires_grad]
        pieces, tangents = [self.pieces[k] for k in used], [mu[k] for k in used]
        inputs = (*self.steps.trainable, self.weights)
        return torch.autograd.grad(pieces, inputs, tangents, retain_graph=True, allow_unused=True)

    def products(self, mu: Float[Tensor, "q params"], batched: bool) -> Sequence[Tensor | None]:
        """`back` of each query, with the queries in front."""
        depends: list[bool] = []

        def back(*tangent: Tensor) -> tuple[Tensor, ...]:
            found = differentiated(self.steps, lambda: self.back(tangent))
            depends[:] = [one is not None for one in found]
            return tuple(one for one in found if one is not None)

        rows = self.steps.layout.rows(mu)
        if batched:
            some = iter(torch.func.vmap(back)(*rows))
        else:
            each = [back(*(row[q] for row in rows)) for q in range(len(mu))]
            some = (torch.stack(column) for column in zip(*each, strict=True))
        return [next(some) if there else None for there in depends]


@contextmanager
def counted() -> Generator[list[int]]:
    """How many numbers the graphs made within the context keep."""
    saved: list[int] = []

    def count(tensor: Tensor) -> Tensor:
        saved.append(tensor.numel())
        return tensor.detach()  # else a saved output and its node hold each other for ever; unpacking attaches it again

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        yield saved


def joined(steps: Steps, pieces: Sequence[Tensor | None]) -> Flat:
    """The value of a gradient."""
    return steps.layout.join([piece.detach() for piece in cast(Sequence[Tensor], pieces)])


class Exact:
    """Products by backward over backward.

    Whether the queries can go through the graph as a batch is tried at the first step and the result compared with that
    of single queries; if it fails or differs, they go one by one, which `batched` says.
    """

    graph: ClassVar[type[Graph]] = Graph

    def __init__(self, steps: Steps) -> None:
        self.steps = steps
        self.batched: bool | None = None
        self._checked = False

    def look(self, state: State) -> Graph:
        """The graph of a step. Raises ModelError if an operation has no second derivative."""
        graph = self.graph.of(self.steps, state)
        if not self._checked:
            _check_twice(self.steps, graph)
            self._checked = True
        return graph

    def pull(
        self, graph: Graph, mu: Float[Tensor, "q params"], into: Float[Tensor, "q params"]
    ) -> Float[Tensor, "q batch"] | None:
        """Adds `d < g, mu > / d(parameters)` to `into`; returns that by the weights, None where nothing depends."""
        if len(mu) > 1 and self.batched is None:
            self.batched = _agrees(graph, mu)
        *second, products = graph.products(mu, len(mu) > 1 and bool(self.batched))
        for target, piece in zip(self.steps.layout.rows(into), second, strict=True):
            if piece is not None:
                target.add_(piece)
        return products


def _agrees(graph: Graph, mu: Float[Tensor, "q params"]) -> bool:
    """Whether the first and the last query as a batch give what they give alone."""
    ends = mu[[0, -1]]
    alone = graph.products(ends, batched=False)
    try:
        together = graph.products(ends, batched=True)
    except (RuntimeError, NotImplementedError, ModelError):
        return False
    tolerance = 1e-3 if mu.dtype == torch.float32 else 1e-8
    return all(
        one is other or (one is not None and other is not None and _close(one, other, tolerance))
        for one, other in zip(alone, together, strict=True)
    )


def _close(one: Tensor, other: Tensor, tolerance: float) -> bool:
    return bool((one - other).abs().max() <= tolerance * one.abs().max())


def differentiated(steps: Steps, gradients: Callable[[], Sequence[Tensor | None]]) -> Sequence[Tensor | None]:
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
        f"{type(steps.module).__name__} cannot be differentiated twice, which exact replay needs: {reason} Choose operations "
        "that can (attention: attn_implementation='eager' or 'sdpa' in place of flash attention), or products='gauss-newton'."
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
