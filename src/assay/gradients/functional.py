"""Per-example gradients by plain automatic differentiation, each example run alone: the oracle, and the path of
parameters that no rule covers. Exact for any module; costs a forward and a backward pass an example, unbatched.
"""

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from assay.models import Model
from assay.tasks import Batch, Loss, Measurement


@contextmanager
def requiring_gradients(module: nn.Module, parameters: Iterable[nn.Parameter]) -> Generator[None]:
    """Within it exactly these of the module's parameters require gradients; then each as it was."""
    wanted = {id(p) for p in parameters}
    changed = [p for p in module.parameters() if p.requires_grad != (id(p) in wanted)]
    for p in changed:
        p.requires_grad_(not p.requires_grad)
    try:
        yield
    finally:
        for p in changed:
            p.requires_grad_(not p.requires_grad)


def each_gradient(
    model: Model, batch: Batch, measurement: Measurement, names: Sequence[str]
) -> Iterator[dict[str, Tensor]]:
    """For one example after another the gradients by the named parameters, [1, *shape]; zeros where there is no
    dependence. The parameters must require gradients, and the module be in evaluation mode.
    """
    parameters = [model.parameters[name] for name in names]
    for b in range(len(batch)):
        with torch.enable_grad():
            value = model.task.measure(model.module, batch.select(b), measurement).sum()
            none: list[Tensor | None] = [None] * len(names)
            found = torch.autograd.grad(value, parameters, allow_unused=True) if value.requires_grad else none
        yield {name: _dense(g, p)[None] for name, g, p in zip(names, found, parameters, strict=True)}


def summed_gradient(
    model: Model, batch: Batch, measurement: Measurement, names: Sequence[str]
) -> tuple[Tensor, dict[str, Tensor]]:
    """The measurement of each example, and the gradient of their sum by the named parameters, in one backward pass.

    As in `each_gradient` the parameters must require gradients, and the module be in evaluation mode.
    """
    parameters = [model.parameters[name] for name in names]
    with torch.enable_grad():
        values = model.task.measure(model.module, batch, measurement)
        none: list[Tensor | None] = [None] * len(names)
        found = torch.autograd.grad(values.sum(), parameters, allow_unused=True) if values.requires_grad else none
    return values.detach(), {name: _dense(g, p) for name, g, p in zip(names, found, parameters, strict=True)}


def dense_gradients(model: Model, batch: Batch, measurement: Measurement | None = None) -> dict[str, Tensor]:
    """Gradients of every example by every chosen parameter, [batch, *shape], by parameter name."""
    names = list(model.parameters)
    with requiring_gradients(model.module, model.parameters.values()):
        rows = list(each_gradient(model, batch, measurement or Loss(), names))
    return {name: torch.cat([row[name] for row in rows]) for name in names}


def _dense(gradient: Tensor | None, parameter: nn.Parameter) -> Tensor:
    """Sparse embeddings give sparse gradients, and parameters that took no part none."""
    if gradient is None:
        return torch.zeros_like(parameter)
    return gradient.to_dense() if gradient.is_sparse else gradient
