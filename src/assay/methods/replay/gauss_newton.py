"""Second derivatives of a step's objective by the Gauss-Newton matrix: four products of matrices a layer and query for six.

With z = f(theta) what the module puts out and J = l(z) the step's objective of it,

    (d/dtheta) < g, mu >  ~  f'^T l'' f' mu,            < grad L_i, mu >  exactly, from the same f' mu

What is left out, `sum_k (dl/dz_k) f_k''`, has both signs and is small where the loss is; without it the way back cannot run
away where training is not smooth (Schraudolph 2002; Martens 2020, 1412.1193, section 8). One forward-mode and one backward pass a query.
"""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from assay.errors import ModelError
from assay.methods.replay.exact import twice_differentiable
from assay.training import State, Steps
from assay.training.optimizers import Flat
from assay.training.randomness import set_noise

functional: Any = torch.func  # its functions carry no types


@dataclass(frozen=True)
class Linear:
    """A step's module at some parameters, and `slope`, the derivative of the objective by what it puts out, as a graph over `out`."""

    state: State
    gradient: Flat = field(repr=False)
    out: Tensor = field(repr=False)
    slope: Tensor = field(repr=False)
    held: int


class GaussNewton:
    """Products with the Gauss-Newton matrix; queries go as a batch if the module takes one (see `Exact`)."""

    setting = staticmethod(twice_differentiable)

    def __init__(self, steps: Steps) -> None:
        self.steps = steps
        self.batched: bool | None = None

    def look(self, state: State) -> Linear:
        """Once for all queries: the gradient, and the objective behind the module's output."""
        steps, saved = self.steps, 0

        def count(tensor: Tensor) -> Tensor:
            nonlocal saved
            saved += tensor.numel()
            return tensor

        steps.install(state.params)
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            with cut(steps.module) as seen:
                objective = steps.objective(*steps.losses(state.step))
            whole, out = seen
            (slope,) = torch.autograd.grad(objective, out, create_graph=True)
            pieces = torch.autograd.grad(whole, steps.trainable, slope.detach(), allow_unused=True, materialize_grads=True)
        gradient = steps.layout.join(pieces)
        return Linear(state, gradient, out, slope, len(gradient) + saved)

    def pull(
        self, at: Linear, mu: Float[Tensor, "q params"], into: Float[Tensor, "q params"]
    ) -> Float[Tensor, "q batch"]:
        """Adds `f'^T l'' f' mu` to `into`; returns `< grad L_i, mu > / size`."""
        steps = self.steps
        named = steps.layout.split(at.state.params)
        batch = steps.data.batch(steps.order.rows(at.state.step), steps.device)

        def forward(params: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
            set_noise(steps.order.seed, at.state.step)
            with watched(steps.module) as seen:
                losses = functional.functional_call(_Measured(steps), {f"module.{k}": v for k, v in params.items()}, (batch,))
            return losses, seen[0]

        _, back = functional.vjp(forward, named)

        def product(tangent: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
            _, (losses, moved) = functional.jvp(forward, (named,), (tangent,))
            if at.slope.requires_grad:
                (turned,) = torch.autograd.grad(at.slope, at.out, moved, retain_graph=True)
            return losses, back((torch.zeros_like(losses), turned))[0]

        tangents = dict(zip(steps.layout.names, steps.layout.rows(mu), strict=True))
        losses, second = functional.vmap(product, randomness="same")(tangents)
        for target, name in zip(steps.layout.rows(into), steps.layout.names, strict=True):
            target.add_(second[name])
        return losses / steps.order.size


class _Measured(nn.Module):
    """The examples' losses as a module's forward, so that `functional_call` reaches every parameter."""

    def __init__(self, steps: Steps) -> None:
        super().__init__()
        self.module, self.steps = steps.module, steps

    def forward(self, batch: Any) -> Tensor:
        return self.steps.data.task.measure(self.module, batch, self.steps.measurement)


@contextmanager
def watched(module: nn.Module, cut: bool = False) -> Generator[list[Tensor]]:
    """What the module puts out within the context: a tensor, or the `logits` of what it returns.

    With `cut` the list has a second tensor, equal and with nothing behind it, that the caller gets instead.
    """
    seen: list[Tensor] = []

    def hook(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        found = output if isinstance(output, Tensor) else getattr(output, "logits", None)
        if seen or not isinstance(found, Tensor):
            raise ModelError(
                f"{type(module).__name__} does not put out one tensor, or `logits`, once for a batch, which the Gauss-Newton "
                "matrix of replay needs. Choose products='exact'."
            )
        seen.append(found)
        if not cut:
            return None
        leaf = found.detach().requires_grad_()
        seen.append(leaf)
        if isinstance(output, Tensor):
            return leaf
        output["logits"] = leaf
        return output

    handle = module.register_forward_hook(hook)
    try:
        yield seen
    finally:
        handle.remove()


def cut(module: nn.Module) -> Any:
    """`watched`, its output cut from the module."""
    return watched(module, cut=True)
