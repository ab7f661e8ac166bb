"""PVI, pointwise V-information: how many bits about the label the model can use in the input.

    PVI_i = -log2 g0(y_i | empty input) + log2 g(y_i | x_i),        value_i = +PVI_i

g is trained by the recipe, g0 by the same recipe on the same labels with every input emptied: an array of zeros, the text "",
a completion without its prompt. Both are trained on the other folds only (`folds`), as a model that has memorised i overstates its
information; the folds are drawn anew for each of `runs` seeds. The mean over i estimates the V-information I_V(X -> Y); a negative PVI
means that the model would do better without the input, as with a wrong label.

Paper: Ethayarajh, Choi and Swayamdipta 2022, ICML (arXiv 2110.08420), definition 4.1, algorithm 1. Deviation: there g is
trained on a training set and asked on a held-out one; values of the training set itself need the folds.
Cost: `runs` x `folds` x 2 trainings.
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float

from assay import progress
from assay.errors import MethodError
from assay.examples import Example, Examples
from assay.methods.base import option
from assay.methods.dynamics.base import Found, Repeated, facts_of, valued
from assay.models import Model
from assay.provenance import measured
from assay.tasks import CausalLM, Classify, Item, Loss, SequenceClassification, Task
from assay.training import Encoded, Recipe
from assay.values import Values


@dataclass(frozen=True)
class PVI(Repeated):
    """Bits about the label that the model finds in the input, cross-fitted."""

    name: ClassVar[str] = "pvi"
    unit: ClassVar[str] = "bits"
    summary: ClassVar[str] = (
        "bits about the label that a model of this kind finds in the input; below 0 the label looks wrong"
    )
    paper: ClassVar[str] = "Ethayarajh et al. 2022 (2110.08420)"

    folds: int = option(4, "parts of the data, each of which is asked of models trained on the others")

    def check(self) -> None:
        """Numbers out of range."""
        super().check()
        self.expect(self.folds >= 2, "folds", "at least 2")

    def value(self, model: Any, train: Examples, on: Examples | None = None) -> Values:
        """Values in bits. Raises MethodError for what is no recipe, or a task without an input that can be emptied."""
        if not isinstance(model, Recipe):
            raise MethodError(
                "pvi trains a model with and one without inputs, which takes an assay.Recipe (assay value MODEL --recipe FILE), "
                f"and was given {type(model).__name__}."
            )
        with measured() as cost:
            data = model.encode(train)
            if len(data) < 2 * self.folds:
                raise MethodError(
                    f"pvi cuts {len(data)} examples into {self.folds} folds; give two a fold at least, or fewer folds."
                )
            empty = emptied(data)
            found = [
                self._run(replace(model, seed=model.seed + k, checkpoints=1), data, empty) for k in range(self.runs)
            ]
        means = [float(one.array.mean()) for one in found]
        note = (
            f"V-information, the mean of the values: {np.mean(means):.4f} bits; {self.runs} runs of {self.folds} folds."
        )
        return valued(self, found, train, facts_of(Model(model.initial(), model.task), train), (note,), cost)

    def _run(self, recipe: Recipe, data: Encoded, empty: Encoded) -> Found:
        """Every example asked once, of models that have not seen it."""
        order = np.random.default_rng(recipe.seed).permutation(len(data))
        bits, prior = np.empty(len(data)), np.empty(len(data))
        with progress.task("pvi: training", 2 * self.folds) as advance:
            for fold in np.array_split(order, self.folds):
                rest = np.setdiff1d(np.arange(len(data)), fold)
                for known, found in ((data, bits), (empty, prior)):
                    found[fold] = bits_of(recipe, known, rest, fold)
                    advance()
        return Found(prior - bits, {"bits": bits, "bits_without_input": prior})


def bits_of(recipe: Recipe, data: Encoded, rest: Any, fold: Any) -> Float[np.ndarray, " k"]:
    """`-log2 g(y)` of the examples of a fold by a model trained on the rest."""
    losses = recipe.train(data.select(rest)).loss_of(data.select(fold), Loss("sum"))
    return losses.double().numpy() / np.log(2.0)


def emptied(data: Encoded) -> Encoded:
    """The same labels without inputs."""
    items = tuple(_emptied(data.task, item, example) for item, example in zip(data.items, data.examples, strict=True))
    return Encoded(data.examples, data.task, items)


def _emptied(task: Task, item: Item, example: Example) -> Item:
    match task:
        case Classify():
            return replace(item, tensors={**item.tensors, "x": torch.zeros_like(item.tensors["x"])})
        case SequenceClassification():
            ids: list[int] = task.tokenizer("", verbose=False)["input_ids"]
            nothing = torch.tensor(ids or [task.pad])
            return replace(item, tensors={**item.tensors, "input_ids": nothing}, length=len(nothing))
        case CausalLM() if "prompt" in example.data:
            return task.encode(replace(example, data={**example.data, "prompt": ""}))
        case _:
            raise MethodError(
                f"pvi needs an input that can be emptied and something to predict of it; examples of kind "
                f"'{type(task).__name__}' have none here. Give a classifier, or prompts with completions."
            )
