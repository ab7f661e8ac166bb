"""Second derivatives of a step's objective by the Gauss-Newton matrix: four products of matrices a layer and query for six.

With z = f(theta) what the module puts out, J = l(z) the step's objective and s = l'(z), so that g = f'^T s,

    (d/dtheta) < g, mu >  ~  f'^T l'' f' mu,            < grad L_i, mu >  exactly, from the same f' mu

What is left out, `sum_k s_k f_k''`, has both signs and is small where the loss is; without it the way back cannot run away where
training is not smooth (Schraudolph 2002; Martens 2020, 1412.1193, section 8). `f' mu` is the derivative of `< f'^T s, mu >` by s.
"""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from assay.errors import ModelError
from assay.methods.replay.exact import Exact, Graph, counted, differentiated, joined
from assay.training import State, Steps


@dataclass(frozen=True)
class Halves(Graph):
    """The gradient `pieces` as a graph over `given` alone, the value of s; s (`slope`) as one over the output and weights.

    `whole` and `output` are the module's output with and without the module behind it.
    """

    whole: Tensor
    output: Tensor
    slope: Tensor
    given: Tensor

    @classmethod
    def of(cls, steps: Steps, state: State) -> "Halves":
        """At the state before step `state.step`. Raises ModelError: a module that does not put out one tensor."""
        steps.install(state.params)
        with torch.enable_grad(), counted() as saved:
            with cut(steps.module) as seen:
                losses, weights = steps.losses(state.step)
            whole, output = seen
            weights = weights.detach().requires_grad_()
            (slope,) = torch.autograd.grad(steps.objective(losses, weights), output, create_graph=True)
            given = slope.detach().requires_grad_()
            pieces = differentiated(
                steps, lambda: torch.autograd.grad(
                    whole, steps.trainable, given, create_graph=True, allow_unused=True, materialize_grads=True
                ),
            )  # fmt: skip
        gradient = joined(steps, pieces)
        kept = len(gradient) + sum(saved)
        return cls(steps, tuple(piece for piece in pieces if piece is not None), weights, gradient, kept,
                   whole, output, slope, given)  # fmt: skip

    def back(self, mu: Sequence[Tensor]) -> Sequence[Tensor | None]:
        """`(f'^T l'' f' mu, < grad L_i, mu > / size)` for one query."""
        used = [k for k, piece in enumerate(self.pieces) if piece.requires_grad]
        pieces, tangents = [self.pieces[k] for k in used], [mu[k] for k in used]
        (moved,) = torch.autograd.grad(pieces, self.given, tangents, retain_graph=True)
        found = torch.autograd.grad(
            self.slope, (self.output, self.weights), moved, retain_graph=True, allow_unused=True
        )
        turned, products = cast(tuple[Tensor | None, Tensor], found)
        if turned is None:  # a loss that is linear in the output
            return (*(None for _ in self.pieces), products)
        second = torch.autograd.grad(self.whole, self.steps.trainable, turned, retain_graph=True, allow_unused=True)
        return (*second, products)


class GaussNewton(Exact):
    """Products with the Gauss-Newton matrix."""

    graph: ClassVar[type[Graph]] = Halves


@contextmanager
def cut(module: nn.Module) -> Generator[list[Tensor]]:
    """What the module puts out within the context, a tensor or the `logits` of what it returns: `[whole, output]`, of which
    the caller sees `output`, which has the same value and nothing behind it.
    """
    seen: list[Tensor] = []

    def hook(_module: nn.Module, _inputs: Any, out: Any) -> Any:
        whole = out if isinstance(out, Tensor) else getattr(out, "logits", None)
        if seen or not isinstance(whole, Tensor):
            raise ModelError(
                f"{type(module).__name__} does not put out one tensor, or `logits`, once for a batch, which the Gauss-Newton "
                "matrix of replay needs. Choose products='exact'."
            )
        seen.extend([whole, whole.detach().requires_grad_()])
        if out is whole:
            return seen[1]
        cast(Any, out)["logits"] = seen[1]
        return out

    handle = module.register_forward_hook(hook)
    try:
        yield seen
    finally:
        handle.remove()
