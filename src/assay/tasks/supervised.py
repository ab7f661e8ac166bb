"""Tasks on arrays: classification, regression, and a loss function of your own."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from assay.errors import DataError, MethodError, ModelError
from assay.examples import Example
from assay.tasks.base import (
    Batch,
    Item,
    Observe,
    Task,
    aimed,
    check_class,
    check_classes,
    check_output,
    class_number,
    draw,
    precise,
)
from assay.tasks.measurements import Loss, Margin, Measurement, Miss, Sampled
from assay.tasks.outcomes import Measure, MeasureOutputs, Negated, negative


def _array_item(example: Example, dtype: torch.dtype | None) -> Item:
    """`x` and `y` of an example as tensors; `dtype` is that of the target, None to keep it."""
    target = example.data.get("y")
    if target is None:
        raise DataError(f"Example {example.id} has no target; give y beside x.")
    if isinstance(target, str):
        raise DataError(
            f"Example {example.id} has target {target!r}; a number was expected. Encode labels as integers."
        )
    tensors = {"x": torch.as_tensor(example.data["x"]), "y": torch.as_tensor(target, dtype=dtype)}
    return Item(example.id, {name: tensor.detach() for name, tensor in tensors.items()})


def _cast(x: Tensor, module: nn.Module) -> Tensor:
    """Floating inputs take the dtype of the module's parameters."""
    parameter = next((p for p in module.parameters() if p.is_floating_point()), None)
    return x.to(parameter.dtype) if parameter is not None and x.is_floating_point() else x


def _inner(measurement: Measurement) -> Measurement:
    return measurement.inner if isinstance(measurement, Negated) else measurement


def _signed(measurement: Measurement, value: Tensor) -> Tensor:
    return -value if isinstance(measurement, Negated) else value


class Classify(Task):
    """Classification: the module maps x to logits [batch, classes]; the loss is the cross-entropy in nats."""

    name = "classify"
    kinds = ("arrays",)
    link = "softmax"

    def encode(self, example: Example) -> Item:
        """`x` as it is, `y` an integer class."""
        item = _array_item(example, None)
        target = item.tensors["y"]
        whole = not target.is_floating_point() or bool((target == target.round()).all())
        if target.ndim or not whole:
            raise DataError(f"Example {example.id} has target {target.tolist()!r}; one integer class was expected.")
        return Item(item.id, {"x": item.tensors["x"], "y": target.long()})

    def measure(
        self, module: nn.Module, batch: Batch, measurement: Measurement, observe: Observe | None = None
    ) -> Float[Tensor, " batch"]:
        """One predicted position an example, so sum and mean are the same."""
        if isinstance(own := _inner(measurement), MeasureOutputs):
            return _signed(measurement, own.of_outputs(module(_cast(batch.tensors["x"], module)), batch))
        logits = self._logits(module, batch)
        check_classes(batch.tensors["y"], logits.shape[1], batch.ids)
        target = aimed(measurement, batch.tensors["y"], class_number)
        check_class(own, target, logits.shape[1])
        each = torch.arange(len(batch), device=logits.device)
        return measurement.of_logits(logits, measurement.aim(target, each, batch.ids))

    def outputs(self, module: nn.Module, batch: Batch) -> Float[Tensor, "n c"]:
        """Logits."""
        return self._logits(module, batch)

    def targets(self, batch: Batch) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
        """One label an example."""
        return batch.tensors["y"], torch.arange(len(batch), device=batch.tensors["y"].device)

    def sample_labels(self, module: nn.Module, batch: Batch, generator: torch.Generator) -> Batch:
        """Targets y ~ softmax(logits)."""
        with torch.no_grad():
            return batch.replace(y=draw(self._logits(module, batch), generator))

    def features(self, module: nn.Module, batch: Batch) -> Float[Tensor, "batch hidden"]:
        """The logits: the one hidden representation every classifier has."""
        with torch.no_grad():
            return self._logits(module, batch).float()

    def _logits(self, module: nn.Module, batch: Batch) -> Float[Tensor, "batch classes"]:
        output = check_output(module(_cast(batch.tensors["x"], module)), len(batch))
        if output.ndim != 2:
            raise ModelError(
                f"The module returned shape {tuple(output.shape)}; the task 'classify' expects logits [batch, classes]."
            )
        return precise(output)


class Regress(Task):
    """Regression: the loss is half the squared error, summed over outputs (a Gaussian of unit variance)."""

    name = "regress"
    kinds = ("arrays",)
    link = "identity"

    def encode(self, example: Example) -> Item:
        """`x` as it is, `y` a number or a vector."""
        return _array_item(example, torch.float64)

    def measure(
        self, module: nn.Module, batch: Batch, measurement: Measurement, observe: Observe | None = None
    ) -> Float[Tensor, " batch"]:
        """Loss `|f - y|^2 / 2`; `Margin` is the output f itself and `Miss` its residual y - f (one output)."""
        if isinstance(measurement, Negated):
            return -self.measure(module, batch, measurement.inner, observe)
        if isinstance(measurement, MeasureOutputs):
            return measurement.of_outputs(module(_cast(batch.tensors["x"], module)), batch)
        output = self._output(module, batch)
        target = batch.tensors["y"].reshape(len(batch), -1).to(output.dtype)
        if target.shape != output.shape:
            raise DataError(
                f"Targets have {target.shape[1]} numbers an example and the module returns {output.shape[1]}; "
                "they must be equal."
            )
        match measurement:
            case Loss():
                return 0.5 * (output - target).square().sum(1)
            case Sampled():  # y ~ Normal(f, 1)
                return 0.5 * (
                    output - output.detach() - measurement.noise(output.shape[1], batch.ids).to(output)
                ).square().sum(1)
            case Margin() | Miss() if output.shape[1] != 1:
                raise MethodError("This method needs a regression with one output; this model has several.")
            case Margin():
                return output.squeeze(1)
            case Miss():
                return (target - output).squeeze(1)
            case Measure():
                return measurement.of_logits(output, target)
            case _:
                raise MethodError(
                    f"The task 'regress' cannot measure '{measurement.label}'; it knows the loss, the margin (the output "
                    "itself), and functions of your own."
                )

    def outputs(self, module: nn.Module, batch: Batch) -> Float[Tensor, "n c"]:
        """F."""
        return self._output(module, batch)

    def sample_labels(self, module: nn.Module, batch: Batch, generator: torch.Generator) -> Batch:
        """Targets y ~ Normal(f, 1)."""
        with torch.no_grad():
            output = self._output(module, batch)
        noise = torch.randn(output.shape, generator=generator, dtype=torch.float64)
        return batch.replace(y=output.double() + noise.to(output.device))

    def features(self, module: nn.Module, batch: Batch) -> Float[Tensor, "batch hidden"]:
        """The outputs."""
        with torch.no_grad():
            return self._output(module, batch).float()

    def _output(self, module: nn.Module, batch: Batch) -> Float[Tensor, "batch outputs"]:
        output = check_output(module(_cast(batch.tensors["x"], module)), len(batch)).reshape(len(batch), -1)
        return precise(output)


class Custom(Task):
    """Your own loss: `loss(module, x, y)` returns one number an example, independent of the others in the batch."""

    kinds = ("arrays",)

    def __init__(self, loss: Callable[[nn.Module, Tensor, Any], Tensor], name: str = "custom") -> None:
        self.loss = loss
        self.name = name

    def encode(self, example: Example) -> Item:
        """`x` and `y` as they are; `y` may be missing. A floating `x` takes the dtype of the module's parameters."""
        if example.data.get("y") is None:
            return Item(example.id, {"x": torch.as_tensor(example.data["x"]).detach()})
        return _array_item(example, None)

    def measure(
        self, module: nn.Module, batch: Batch, measurement: Measurement, observe: Observe | None = None
    ) -> Float[Tensor, " batch"]:
        """The loss, or a function of the module's outputs; other measurements raise `MethodError`."""
        if isinstance(measurement, Negated):
            return -self.measure(module, batch, negative(measurement), observe)
        if isinstance(measurement, MeasureOutputs):
            return measurement.of_outputs(module(_cast(batch.tensors["x"], module)), batch)
        if not isinstance(measurement, Loss):
            if isinstance(measurement, Sampled):
                raise MethodError(
                    f"The task '{self.name}' has no distribution to draw labels from, which the Fisher matrix needs. "
                    "Choose the empirical one: fisher='empirical' (--fisher empirical)."
                )
            raise MethodError(
                f"The task '{self.name}' knows its loss only, and was asked for the measurement '{measurement.label}'. "
                "What it can take beside the loss is a function of the module's outputs (assay.tasks.MeasureOutputs)."
            )
        value = check_output(self.loss(module, _cast(batch.tensors["x"], module), batch.tensors.get("y")), len(batch))
        if value.ndim != 1:
            raise ModelError(
                f"The loss function returned shape {tuple(value.shape)}; one number an example, [{len(batch)}], was "
                "expected. Use reduction='none' and sum over everything but the examples."
            )
        return value
