"""One pass over training examples that adds up statistics of their gradients, and can be taken up where it stopped.

A statistic is a sketch (`gradients/sketch.py`) that keeps sums beside the features; its feature is one number an
example, which is finite if everything that the example adds is. Sums of a batch are taken in the model's precision
(float32 at least) by matrix products and added to float64 totals once the batch is known to be finite, so that an
example that is not can be left out.
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from assay import progress
from assay.examples import Examples
from assay.gradients.blocks import Block, Layout
from assay.gradients.capture import capturing
from assay.gradients.features import EXAMPLES, POSITIONS, OnNonfinite, not_finite, pack
from assay.gradients.rules import Side
from assay.gradients.sketch import Sketch
from assay.models import Model
from assay.tasks import Item, Measurement

WINDOW = 128
"""Examples encoded at once; which ones share a batch depends on their rows only."""
KEEP_EVERY = 4
"""Windows after which the sums are kept on disk: 512 examples, about a minute of a language model on a CPU."""


class Statistic(Sketch):
    """Sums over examples, float64; one number an example as its feature."""

    width = 1
    most: int = EXAMPLES
    """Examples in a batch at most."""

    def __init__(self, blocks: Sequence[Block]) -> None:
        self.blocks = tuple(blocks)
        self.slots = (slice(0, 1),) * len(self.blocks)
        self.examples = 0

    def left(self, block: int, side: Side) -> Side:
        """As it is."""
        return side

    def right(self, block: int, side: Side) -> Side:
        """As it is."""
        return side

    @abstractmethod
    def commit(self) -> None:
        """Add what the latest batch gave to the totals."""

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """All totals, by name, beside the number of examples."""

    @abstractmethod
    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take up these totals."""


Keep = Callable[[int, Mapping[str, Tensor]], None]
"""Called with the number of rows that are done and the totals."""


def sweep(
    model: Model,
    examples: Examples,
    statistic: Statistic,
    measurement: Measurement,
    layout: Layout,
    *,
    on_nonfinite: OnNonfinite = "raise",
    start: int = 0,
    keep: Keep | None = None,
    label: str = "curvature",
) -> None:
    """Add the examples from row `start` (a multiple of the rows between two calls of `keep`) to the statistic.

    Raises NonFiniteError, unless `on_nonfinite="skip"`: then an example that is not finite adds nothing.
    """
    with capturing(model, statistic, layout) as capture, progress.task(label, len(examples) - start) as advance:
        for first in range(start, len(examples), WINDOW):
            items = [model.task.encode(examples[i]) for i in range(first, min(first + WINDOW, len(examples)))]
            for members in pack([item.length for item in items], POSITIONS, statistic.most):
                _add([items[k] for k in members], model, statistic, measurement, capture, on_nonfinite)
                advance(len(members))
            done = first + len(items)
            if keep is not None and (done % (KEEP_EVERY * WINDOW) == 0 or done == len(examples)):
                keep(done, {**statistic.state(), "examples": torch.tensor(statistic.examples)})


def resume(statistic: Statistic, state: Mapping[str, Tensor]) -> None:
    """Take up totals that `keep` was given."""
    statistic.examples = int(state["examples"])
    statistic.restore({name: tensor for name, tensor in state.items() if name != "examples"})


def _add(
    items: list[Item],
    model: Model,
    statistic: Statistic,
    measurement: Measurement,
    capture: Callable[..., tuple[Float[Tensor, "batch 1"], Float[Tensor, " batch"]]],
    on_nonfinite: OnNonfinite,
) -> None:
    """One batch; again without the examples that are not finite, if there are any."""
    batch = model.task.collate(items, model.device)
    features, values = capture(batch, measurement)
    bad: Bool[Tensor, " batch"] = not_finite(batch.ids, features.float(), values, on_nonfinite)
    if bool(bad.any()):
        good = [item for k, item in enumerate(items) if not bool(bad[k])]
        if good:
            _add(good, model, statistic, measurement, capture, on_nonfinite)
        return
    statistic.commit()
    statistic.examples += len(items)
