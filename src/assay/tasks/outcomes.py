"""What else than the loss can be measured of a query: the outcome that scores explain.

    margin              log odds of the right answers                                       `Margin`
    log-odds:TOKEN      log odds of one token at the last predicted position, or of a class  `LogOdds`
    contrast            log p(completion) - log p(contrast), two completions of a prompt     `Contrast`
    your function       of logits and targets, example by example                            `Measure`
                        of all that the module returns for a batch                           `MeasureOutputs`

Lowering the loss is good and so is raising any of these. A method that descends on what it is given takes
`negative(measurement)`, so that a score above zero means: training on the example raised it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from assay.errors import MethodError, ModelError, nearest
from assay.tasks.measurements import Loss, Margin, Measurement, Reduction


@dataclass(frozen=True)
class Negated(Measurement):
    """Minus another measurement; made by `negative`, with the reduction of the other."""

    inner: Measurement = field(default_factory=Loss)

    @property
    def label(self) -> str:
        """With a minus in front."""
        return f"-{self.inner.label}"

    def of_logits(self, logits: Float[Tensor, "n c"], target: Shaped[Tensor, "n ..."]) -> Float[Tensor, " n"]:
        """Minus the other's."""
        return -self.inner.of_logits(logits, target)


def negative(measurement: Measurement) -> Measurement:
    """Minus the measurement; twice is the measurement itself."""
    return measurement.inner if isinstance(measurement, Negated) else Negated(measurement.reduction, measurement)


OWN = "target"
"""The token of a `LogOdds` that stands for the query's own label, or its own last token."""


@dataclass(frozen=True)
class LogOdds(Measurement):
    """Log odds of one token at the last predicted position of a text, or of one class, in nats.

    `token` is written as in the vocabulary or as text that is one token, a class by its name or number; `"target"` is
    what stands there. There is one position an example, so a sum is a mean.
    """

    token: str = OWN

    @property
    def label(self) -> str:
        """With the token behind a colon."""
        return f"log-odds:{self.token}"

    @property
    def told(self) -> str:
        """With the token in quotes."""
        return f"the log odds of {self.token!r}" if self.token != OWN else "the log odds of the query's own target"

    def of_logits(self, logits: Float[Tensor, "n c"], target: Shaped[Tensor, "n ..."]) -> Float[Tensor, " n"]:
        """`z_y - logsumexp(z without y)`; the task has put the token in the target's place."""
        return Margin().of_logits(logits, target)


@dataclass(frozen=True)
class Contrast(Measurement):
    """`log p(completion) - log p(contrast)` of a query with `prompt`, `completion` and `contrast`, in nats; each side is the
    sum, or the mean, over its own tokens. Only tasks that read two completions have it.
    """

    @property
    def told(self) -> str:
        """As a difference."""
        return "log p(completion) - log p(contrast) of the query"

    def of_logits(self, logits: Float[Tensor, "n c"], target: Shaped[Tensor, "n ..."]) -> Float[Tensor, " n"]:
        """Raises MethodError: one row of logits holds one completion."""
        raise MethodError(
            "The measurement 'contrast' compares two completions of a prompt, and this task reads none. Use a causal "
            "language model and queries with prompt, completion and contrast, or another measurement."
        )


@dataclass(frozen=True, init=False)
class Measure(Measurement):
    """A measurement of your own: `function(logits, target)`, called for each example alone, returns one number.

    For language models `logits` is [tokens, vocabulary] and `target` [tokens], both at the predicted positions; for
    classifiers [classes] and a number; for regressions [outputs] and [outputs].
    """

    function: Callable[..., Any] = torch.mean

    @property
    def label(self) -> str:
        """The function's name."""
        return f"function {getattr(self.function, '__name__', type(self.function).__name__)}"

    @property
    def told(self) -> str:
        """The function's name, of the query."""
        return f"the {self.label} of the query"

    def __init__(self, function: Callable[..., Any]) -> None:
        object.__setattr__(self, "reduction", "sum")
        object.__setattr__(self, "function", function)

    def of_logits(self, logits: Float[Tensor, "n c"], target: Shaped[Tensor, "n ..."]) -> Float[Tensor, " n"]:
        """The function of each row, for tasks with one row an example."""
        return torch.stack([self.of_example(row, y) for row, y in zip(logits, target, strict=True)])

    def of_example(self, logits: Float[Tensor, "..."], target: Shaped[Tensor, "..."]) -> Float[Tensor, ""]:
        """The function's number. Raises ModelError if it is none."""
        return self._number(self.function(logits, target), 0)

    def _number(self, value: object, ndim: int) -> Tensor:
        if not isinstance(value, Tensor) or value.ndim != ndim:
            got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            wanted = "one number, a tensor of no dimension," if ndim == 0 else "one number an example, [batch],"
            raise ModelError(f"The measurement '{self.label}' returned {got}; {wanted} was expected.")
        return value


@dataclass(frozen=True, init=False)
class MeasureOutputs(Measure):
    """A measurement of your own: `function(outputs, batch)` of what the module returns for a batch, as it returns it;
    one number an example, [batch], each independent of the other examples. `batch.tensors` holds what was put in.
    """

    def of_logits(self, logits: Float[Tensor, "n c"], target: Shaped[Tensor, "n ..."]) -> Float[Tensor, " n"]:
        """Raises MethodError: it needs all that the module returns."""
        raise MethodError(f"The measurement '{self.label}' is of a module's outputs, which this task does not show.")

    def of_outputs(self, outputs: Any, batch: Any) -> Float[Tensor, " batch"]:
        """The function's numbers. Raises ModelError if they are not one an example."""
        value = self._number(self.function(outputs, batch), 1)
        if len(value) != len(batch):
            raise ModelError(f"The measurement '{self.label}' returned {len(value)} numbers for {len(batch)} examples.")
        return value


Choosable = str | Measurement | Callable[..., Any]
"""A measurement by name, itself, or a function (see `Measure`)."""
_NAMED: dict[str, Callable[[], Measurement]] = {
    "loss": Loss, "margin": Margin, "log-odds": LogOdds, "contrast": Contrast,
}  # fmt: skip


def measurement_of(choice: Choosable, reduction: Reduction = "mean") -> Measurement:
    """`loss`, `margin`, `log-odds:TOKEN`, `contrast`, a measurement (taken as it is) or a function, as a measurement.

    Raises MethodError for another name.
    """
    if isinstance(choice, Measurement):
        return choice
    if not isinstance(choice, str):
        if callable(cast(object, choice)):
            return Measure(choice)
        raise MethodError(f"A measurement was given as {choice!r}; its name, or a function, was expected.")
    name, colon, token = choice.partition(":")
    if name not in _NAMED:
        raise MethodError(f"There is no measurement '{choice}'. {nearest(name, _NAMED)}")
    if colon and (name != "log-odds" or not token):
        raise MethodError(f"The measurement '{choice}' cannot be read; write {name}, or log-odds:TOKEN.")
    found = replace(cast(Any, _NAMED[name]()), reduction=reduction)
    return replace(found, token=token) if token else found


def label_of(choice: Choosable) -> str:
    """What `measurement_of` was given, as provenance has it."""
    return choice if isinstance(choice, str) else measurement_of(choice).label
