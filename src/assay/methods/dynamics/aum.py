"""AUM, area under the margin: whether the rest of the data agree with an example's label, along the run.

    AUM_i = mean over observations of  z_y - max over k != y of z_k,        value_i = +AUM_i

Other examples of its true class pull the logit of another class up; memorising the label pulls its own up, late. The cut
between wrong and hard (`threshold`): N / (C + 1) random examples get the label of a class that does not exist; an example
below the given percentile of their AUM behaves as if mislabelled. Two trainings with other threshold examples judge each
other's, so the model needs one output more than there are classes.

Paper: Pleiss et al. 2020 (arXiv 2001.10528), equations 1 and 2, section 4. Cost: `runs` trainings, twice as many with a threshold;
the logits are there already. Deviation: the paper stops at the first drop of the learning rate; recipes have no such
drop, so `first` says how many observations count. Late ones lift memorised errors.
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, cast

import numpy as np
import torch
from jaxtyping import Int64

from assay.dynamics import Record
from assay.errors import MethodError
from assay.examples import Examples
from assay.methods.base import option
from assay.methods.dynamics.base import Found, Observed, facts_of, told, valued
from assay.models import Model
from assay.provenance import measured
from assay.tasks.base import evaluating
from assay.training import Encoded, Recipe
from assay.values import Values


@dataclass(frozen=True)
class AUM(Observed):
    """Mean margin over the observations."""

    name: ClassVar[str] = "aum"
    summary: ClassVar[str] = (
        "mean margin of the logits along the run; mislabelled examples come last, with a cut by fake labels"
    )
    paper: ClassVar[str] = "Pleiss et al. 2020 (2001.10528)"

    first: int = option(0, "so many observations of each example count, from the first; 0: all")
    threshold: float = option(
        0.0,
        "of a recipe: percentile of the AUM of examples with a fake label below which an example is flagged, such as 99; 0: no cut",
    )

    def check(self) -> None:
        """Numbers out of range."""
        super().check()
        self.expect(self.first >= 0, "first", "0 or more")
        self.expect(0 <= self.threshold <= 100, "threshold", "a percentile, 0 to 100")

    def of(self, record: Record) -> Found:
        """Of one run."""
        margins = self.column(record, "margin")[: self.first or None]
        aum = np.nanmean(margins, 0)
        return Found(aum, {"aum": aum})

    def value(self, model: Any, train: Examples, on: Examples | None = None) -> Values:
        """Values; with a threshold also the columns `flagged` (share of the runs that flag the example) and `cut`."""
        if not self.threshold:
            return super().value(model, train, on)
        if not isinstance(model, Recipe):
            raise MethodError(
                "aum's threshold trains on fake labels, which takes an assay.Recipe (assay value MODEL --recipe FILE), and was given "
                f"{type(model).__name__}. Give one, or leave the threshold out."
            )
        with measured() as cost:
            data, pairs = model.encode(train), list[Found]()
            check_room(model, data)
            records: list[Record] = []
            for k in range(self.runs):
                seen = self._pair(replace(model, seed=model.seed + k), data)
                pairs.append(seen[0])
                records += seen[1]
        note = f"{np.mean(pairs[0].raw['flagged']):.1%} of the examples lie below the cut in the first run."
        initial = Model(model.initial(), model.task)
        return valued(self, pairs, train, facts_of(initial, train), (*told(records), note), cost)

    def _pair(self, recipe: Recipe, data: Encoded) -> tuple[Found, list[Record]]:
        """Two trainings; each judges the other's threshold examples, the first all those of neither."""
        labels = labels_in(data)
        classes = int(labels.max()) + 1
        order = np.random.default_rng(recipe.seed).permutation(len(data))
        size = len(data) // (classes + 1)
        if size < 1:
            raise MethodError(f"aum's threshold needs more than {classes} examples, and was given {len(data)}.")
        fakes = [order[:size], order[size : 2 * size]]
        records = [self.recorded(recipe, relabelled(data, fake, classes)) for fake in fakes]
        areas = [self.of(record).array for record in records]
        cuts = [float(np.percentile(area[fake], self.threshold)) for area, fake in zip(areas, fakes, strict=True)]
        judge = np.isin(np.arange(len(data)), fakes[0]).astype(np.int64)  # 1: by the second training
        aum, cut = np.choose(judge, areas), np.array(cuts)[judge]
        return Found(aum, {"aum": aum, "cut": cut, "flagged": (aum <= cut).astype(np.float64)}), records


LABELS = ("y", "labels")
"""What tasks call the class of an example."""


def labels_in(data: Encoded) -> Int64[np.ndarray, " n"]:
    """The class of each encoded example. Raises MethodError for a task without one."""
    name = next(
        (name for name in LABELS if name in data.items[0].tensors and not data.items[0].tensors[name].ndim), None
    )
    if name is None:
        raise MethodError(
            f"The task '{data.task.name}' has no single class an example, which aum's threshold gives fake ones of."
        )
    return np.array([int(item.tensors[name]) for item in data.items])


def check_room(recipe: Recipe, data: Encoded) -> None:
    """The model must have an output for a class that does not exist. Raises MethodError."""
    module, classes = recipe.initial(), int(labels_in(data).max()) + 1
    with evaluating(module), torch.no_grad():
        outputs = data.task.outputs(module, data.task.collate(data.items[:1], next(module.parameters()).device)).shape[
            1
        ]
    if outputs <= classes:
        raise MethodError(
            f"aum's threshold gives some examples the label of a class that does not exist, and the model has {outputs} outputs "
            f"for {classes} classes. Give it one output more, or leave the threshold out."
        )


def relabelled(data: Encoded, rows: Int64[np.ndarray, " k"], label: int) -> Encoded:
    """The same examples, of which these are told to be of class `label`."""
    name = next(name for name in LABELS if name in data.items[0].tensors)
    items = list(data.items)
    for row in cast(list[int], rows.tolist()):
        items[row] = replace(items[row], tensors={**items[row].tensors, name: torch.tensor(label)})
    return Encoded(data.examples, data.task, tuple(items))
