"""A directional derivative, taken apart: which terms of a sum, and which positions, carry `<V, grad m>`.

For one example with measurement `m = sum_t m_t` (a term for each token) and a direction `V` in parameter space:

    by term       s_t = <V, grad m_t>              one forward-mode derivative of all terms along V
    by position   s_t = sum_l d_t^T V_l a_t        one pass; `a_t` inputs of layer l at position t, `d_t` the gradients
                                                   of the whole `m` at its outputs

Both sum to `<V, grad m>`. They are not the same: what a layer does at position t is used by every later term through
attention, so the position carries all later terms, and only at the output layer do the two agree (Grosse et al. 2023,
2308.03296, take positions; the form by terms is ours, and is what one may call a token's own part).

Positions need no rule for a layer: to the output of every module at each position a zero `eps_t` times the module's own
derivative along its own part of `V` is added, and the gradient by `eps` is read off. Exact for any module that maps
positions to positions; what other modules add (pooled or reordered positions) is given back as `elsewhere`.

Cost: by term two forward passes' worth of arithmetic; by position a forward and a backward pass with weight gradients.
"""

import copy
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from assay.errors import MethodError
from assay.gradients.functional import requiring_gradients
from assay.models import Model
from assay.tasks import Batch, Measurement
from assay.tasks.base import evaluating

Direction = Mapping[str, Tensor]
"""A tensor of the parameter's shape for each chosen parameter, by name."""


@dataclass(frozen=True)
class Positions:
    """`<V, grad m>` by position: `each` [time] and what no position holds, `elsewhere`."""

    each: Float[Tensor, " time"]
    elsewhere: float


class _Terms(nn.Module):
    """A module whose output are the terms of a measurement of a fixed batch."""

    def __init__(self, model: Model, measurement: Measurement) -> None:
        super().__init__()
        self.module = model.module
        self._terms: Callable[[Batch], Tensor] = lambda batch: model.task.terms(model.module, batch, measurement)

    def forward(self, batch: Batch) -> Tensor:
        return self._terms(batch)


def along_terms(model: Model, batch: Batch, measurement: Measurement, direction: Direction) -> Float[Tensor, " terms"]:
    """`<V, grad m_t>` for each term of one example, float64.

    Raises MethodError if an operation of the model has no forward-mode derivative.
    """
    scale, tangents = _unit(model, direction)
    model.task.prepare(model.module)
    names = list(tangents)
    terms = _Terms(model, measurement)

    def value(*tensors: Tensor) -> Tensor:
        given = {f"module.{name}": tensor for name, tensor in zip(names, tensors, strict=True)}
        return cast(Tensor, torch.func.functional_call(terms, given, (batch,)))

    primals = tuple(model.parameters[name].detach() for name in names)
    try:
        with evaluating(model.module), sdpa_kernel(SDPBackend.MATH), _padding_still(model):
            slope = cast(Tensor, torch.func.jvp(value, primals, tuple(tangents[name] for name in names))[1])
    except (NotImplementedError, RuntimeError) as error:
        if not any(word in str(error).lower() for word in ("forward", "functorch")):
            raise
        raise MethodError(
            f"{model.name} has an operation without a forward-mode derivative, which parts by token need "
            f"({str(error).splitlines()[0]}). Ask for parts by position, module or layer instead."
        ) from error
    return scale * slope[0].detach().double().cpu()


def along_positions(model: Model, batch: Batch, measurement: Measurement, direction: Direction, time: int) -> Positions:
    """`sum_l d_t^T V_l a_t` for each of the `time` positions of one example, float64."""
    scale, tangents = _unit(model, direction)
    exact = torch.float64 if next(iter(tangents.values())).dtype == torch.float64 else torch.float32
    eps = torch.zeros(time, dtype=exact, device=model.device, requires_grad=True)
    parameters = model.parameters
    model.task.prepare(model.module)
    with ExitStack() as undo:
        undo.enter_context(evaluating(model.module))
        undo.enter_context(requiring_gradients(model.module, parameters.values()))
        for module, own in _owners(model, tangents):
            hook = _Nudge(own, eps)
            undo.callback(module.register_forward_hook(hook, with_kwargs=True).remove)
        with torch.enable_grad():
            total = model.task.measure(model.module, batch, measurement).sum()
            slopes: Any = torch.autograd.grad(total, [eps, *parameters.values()], allow_unused=True)
    each: Tensor = torch.zeros(time, dtype=torch.float64) if slopes[0] is None else slopes[0].double().cpu()
    whole = sum(
        float((gradient.to_dense() if gradient.is_sparse else gradient).double().mul(tangents[name]).sum())
        for name, gradient in zip(parameters, slopes[1:], strict=True)
        if gradient is not None
    )
    rest = whole - float(each.sum())
    return Positions(scale * each, scale * rest)


@dataclass(frozen=True)
class _Nudge:
    """A forward hook that adds `eps_t` times the module's derivative along its own part of the direction."""

    own: Mapping[str, Tensor]
    eps: Tensor

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        if not torch.is_grad_enabled():
            return None
        several = type(output) is tuple  # others have names, which a plain tuple would lose
        outputs = [*cast(tuple[Any, ...], output)] if several else [output]
        axes = {k: axis for k, out in enumerate(outputs) if (axis := _axis(out, len(self.eps))) is not None}
        slopes = _own_slopes(module, self.own, args, kwargs, list(axes))
        for (k, axis), slope in zip(axes.items(), slopes, strict=True):
            shape = [len(self.eps) if j == axis else 1 for j in range(slope.ndim)]
            outputs[k] = outputs[k] + (self.eps.reshape(shape) * slope).to(outputs[k].dtype)
        return tuple(outputs) if several else outputs[0]


def _axis(output: Any, time: int) -> int | None:
    """The axis of positions, of [1, time, ...], [time, n] or [1, heads, time, n]; None where there is none, or two."""
    if not isinstance(output, Tensor) or not output.is_floating_point():
        return None
    match tuple(output.shape):
        case (rows, _):
            candidates = [(0, rows)]
        case (1, rows, _):
            candidates = [(1, rows)]
        case (1, rows, others, *_):
            candidates = [(1, rows), (2, others)]
        case _:
            candidates = []
    found = [axis for axis, size in candidates if size == time]
    return found[0] if len(found) == 1 else None


def _own_slopes(
    module: nn.Module, own: Mapping[str, Tensor], args: tuple[Any, ...], kwargs: dict[str, Any], chosen: list[int]
) -> tuple[Tensor, ...]:
    """Derivatives of the chosen outputs by the module's own parameters along `own`, its inputs held still."""
    if not chosen:
        return ()
    names, held = list(own), dict(module.named_parameters(recurse=False))
    args, kwargs = _still(args), _still(kwargs)

    def run(*tensors: Tensor) -> tuple[Tensor, ...]:
        output: object = _twin(module, dict(zip(names, tensors, strict=True))).forward(*args, **kwargs)
        outputs = cast(tuple[Tensor, ...], output if type(output) is tuple else (output,))
        return tuple(outputs[k] for k in chosen)

    with torch.no_grad():
        point, along = tuple(held[n].detach() for n in names), tuple(own[n] for n in names)
        slopes = cast(tuple[Tensor, ...], torch.func.jvp(run, point, along)[1])
    padding = _padding(module, args, kwargs)
    return slopes if padding is None else tuple(slope.masked_fill(padding[..., None], 0) for slope in slopes)


def _twin(module: nn.Module, parameters: Mapping[str, Tensor]) -> Any:
    """A shallow copy that computes with other tensors for its own parameters, past its hooks."""
    twin = copy.copy(module)
    state: dict[str, Any] = vars(twin)
    state["_parameters"] = {name: p for name, p in state["_parameters"].items() if name not in parameters}
    state.update(parameters)
    return twin


def _still(value: Any) -> Any:
    """Arguments without their history."""
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, tuple):
        return tuple(_still(entry) for entry in cast(tuple[Any, ...], value))
    if isinstance(value, dict):
        return {key: _still(entry) for key, entry in cast(dict[Any, Any], value).items()}
    return value


def _owners(model: Model, tangents: Direction) -> Iterable[tuple[nn.Module, dict[str, Tensor]]]:
    """Modules that hold a chosen parameter themselves, tied ones too, with their part of the direction."""
    by_id = {id(p): tangents[name] for name, p in model.parameters.items()}
    for module in model.module.modules():
        own = {name: by_id[id(p)] for name, p in module.named_parameters(recurse=False) if id(p) in by_id}
        if own:
            yield module, own


def _unit(model: Model, direction: Direction) -> tuple[float, dict[str, Tensor]]:
    """The direction's length, and the direction at length 1 in the parameters' dtypes, which may be narrow."""
    length = float(torch.stack([part.double().square().sum() for part in direction.values()]).sum().sqrt())
    scaled = {name: part.double() / (length or 1.0) for name, part in direction.items()}
    return length, {name: scaled[name].to(p.device, p.dtype) for name, p in model.parameters.items()}


def _padding(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor | None:
    """Where an embedding reads its padding token, whose row gets no gradient in training; None: nowhere."""
    index = next(iter((*args, *kwargs.values())), None)
    if not isinstance(module, nn.Embedding) or module.padding_idx is None or not isinstance(index, Tensor):
        return None
    found = index == module.padding_idx
    return found if bool(found.any()) else None


@contextmanager
def _padding_still(model: Model) -> Generator[None]:
    """Within it embeddings give their padding token's row without a derivative, as backward passes do."""
    weights = {m: m.weight.detach() for m in model.module.modules() if isinstance(m, nn.Embedding)}

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        padding = _padding(module, args, kwargs)
        if padding is None:
            return None
        plain = _twin(module, {"weight": weights[cast(nn.Embedding, module)]}).forward(*args, **kwargs)
        return torch.where(padding[..., None], plain, output)

    with ExitStack() as undo:
        for module in weights:
            undo.callback(module.register_forward_hook(hook, with_kwargs=True).remove)
        yield
