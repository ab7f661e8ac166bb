"""Infra: which training examples, sentences and tokens taught a language model to reason.

    f = (1/n) sum over solved problems q of  log p(answer_q | problem_q)
    score(i) = (1/N) (grad f)^T (C + lam I)^-1 (-grad L_i)                    above zero: training on i raised f
    token    = the same with grad l_t, the gradient of one token's loss, for grad L_i;  a sentence is the sum of its tokens

C is the EK-FAC curvature of the weights of the MLPs. Only problems that the model solves are measured, as a likelihood says
little of an answer that it would never give. `score` has a column a problem; `value` takes f as a whole: its
gradient is one vector, however many problems there are, and one for each of their sources where these differ (mathematics, code).

Paper: Kou et al., Which Data Attributes Stimulate Math and Code Reasoning? An Investigation via Influence Functions, NeurIPS
2025 (arXiv 2505.19949). Cost: EK-FAC on the MLPs, one gradient a problem; tokens a forward-mode derivative a row and source
(about two forward passes). Assumes what influence functions do. A token's part is that of its loss given what stands before it;
the paper sums positions' or tokens' parts to sequences without saying which: the loss-token form is a reconstruction.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from assay import progress
from assay.compress import Identity
from assay.errors import MethodError, ModelError
from assay.examples import Examples
from assay.gradients.blocks import lay_out, to_parameters
from assay.gradients.features import layout_for
from assay.gradients.parts import along_terms
from assay.grain import Fold, Parts
from assay.index.build import PROBE
from assay.methods.base import option
from assay.methods.gradient.base import query_features
from assay.methods.gradient.ekfac import EKFAC
from assay.methods.gradient.live import About, Live
from assay.methods.gradient.parts import fold_of
from assay.models import Model
from assay.provenance import measured
from assay.values import Values

TOGETHER = 16
"""Problems whose gradients are held at once."""
ALL = "solved problems"
"""What one group of problems is called."""


@dataclass(frozen=True)
class Infra(EKFAC):
    """EK-FAC influence of the MLPs on the likelihood of solved problems; a value is the influence on their mean."""

    name: ClassVar[str] = "infra"
    summary: ClassVar[str] = "EK-FAC influence of the MLPs' weights on the mean log-likelihood of solved problems"
    paper: ClassVar[str] = "Kou et al. 2025 (2505.19949)"

    mlp: str = option("*mlp*", "pattern of the MLPs' modules, where the model was not given with modules of its own")

    def check_model(self, model: object) -> Model:
        """The model's MLPs, or the modules that were chosen with it."""
        model = super().check_model(model)
        if model.patterns:
            return model
        try:
            return Model(
                model.module,
                model.task,
                modules=self.mlp,
                checkpoints=model.checkpoints,
                name=model.name,
                path=model.path,
            )
        except ModelError as error:
            raise MethodError(
                f"infra takes the weights of the MLPs, and no trainable parameter of {model.name} lies in a module that "
                f"matches {self.mlp!r}. Name them: mlp=PATTERN (--mlp PATTERN), or load the model with modules. {error}"
            ) from error

    def fit_model(self, model: Any, train: Examples) -> "Traced":
        """The curvature of the MLPs."""
        live = cast(Live, super().fit_model(model, train))
        return Traced(live.method, live.model, live.train, live.states, live.seconds)


@dataclass(frozen=True)
class Direction:
    """`(C + lam I)^-1 grad (-f)` for one group of solved problems, and how many they are."""

    name: str
    count: int
    vector: Float[Tensor, " k"]


@dataclass(frozen=True)
class Traced(Live):
    """Infra, fitted."""

    def value(self, on: Examples) -> Values:
        """Influence of each training example on the mean log-likelihood of the problems; `raw` on that of each of their
        sources, where there are several. Nats per removed example. Raises MethodError for no problems.
        """
        with measured(self.seconds) as cost:
            directions, about = self.directions(on)
            psi = torch.stack([direction.vector for direction in directions])
            each, shares = self._products(psi, about), np.array([direction.count for direction in directions]) / len(on)
        names = [direction.name for direction in directions]
        raw = dict(zip(names, each.T, strict=True)) if len(names) > 1 else {}
        return Values.of(each @ shares, self.train, self.provenance(on, about, cost), raw=raw)

    def directions(self, on: Examples) -> tuple[list[Direction], About]:
        """One for each source of the problems, in the order of their first."""
        if not len(on):
            raise MethodError(
                "There are no solved problems, and infra explains the likelihood of solved ones. Give problems with the "
                "answers that the model got right (assay.evaluate.solved checks them)."
            )
        groups: dict[str, list[int]] = {}
        for row, source in enumerate(on.sources):
            groups.setdefault(source or ALL, []).append(row)
        about, found = About.of(on), list[Direction]()
        about.losses = np.full(len(on), np.nan)
        cut = 0
        self.model.task.check(on)
        for name, rows in groups.items():
            total = torch.zeros(0)
            for start in range(0, len(rows), TOGETHER):
                some = rows[start : start + TOGETHER]
                side = query_features(self.model, on.select(some), self.method, Identity())
                total = side.features.sum(0) + (total if start else 0.0)
                about.losses[some] = side.losses
                cut += side.cut
            mean = (total / len(rows))[None]
            found.append(Direction(name, len(rows), self.turned(mean, 0)[0]))
        about.told.cut_queries(cut)
        return found, about

    def tokens(self, directions: Sequence[Direction], rows: Int[np.ndarray, " m"]) -> Parts:
        """Influence of each token of these training examples on each group; a row's tokens add up to its value.

        `query_id` of the folds is the group's name, `by` is `loss-token`.
        """
        model, scale = self.model, self.method.scale(len(self.train))
        along = [self.along(direction) for direction in directions]
        folds: list[Fold] = []
        with progress.task("tokens", len(rows) * len(directions)) as advance:
            for row in cast(list[int], rows.tolist()):
                example = self.train[row]
                batch, tokens = (
                    model.task.collate([model.task.encode(example)], model.device),
                    model.task.tokens_of(example),
                )
                for one, direction in zip(directions, along, strict=True):
                    found = along_terms(model, batch, self.method.train_measurement(), direction)
                    folds.append(fold_of(one.name, example.id, "loss-token", tokens, scale * found.numpy()))
                    advance()
        return Parts(folds)

    def along(self, direction: Direction) -> dict[str, Tensor]:
        """A direction as one tensor a parameter."""
        shapes = {name: p.shape for name, p in self.model.parameters.items()}
        parts = to_parameters(lay_out(self.model).blocks, direction.vector[None], shapes)
        return {name: part[0] for name, part in parts.items()}

    def _products(self, psi: Float[Tensor, "q k"], about: About) -> Float[np.ndarray, "n q"]:
        """`(1/N) < psi, grad L_i >`."""
        layout = layout_for(self.model, self.train, self.method.train_measurement(), PROBE)
        scores = np.zeros((len(self.train), len(psi)))
        about.coverage = layout.coverage
        self.multiply(self.model, layout, self.train, psi, scores, about.told)
        return scores * self.method.scale(len(self.train))
