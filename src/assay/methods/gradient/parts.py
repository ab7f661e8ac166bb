"""Grain: the score of a pair by token, position, sentence, module and layer, for short-listed pairs.

With the turned query `V_q = P psi_q` and the training example's gradient `phi_i = sum_t grad l_t(i)`, at each checkpoint

    module        s_l = r_i w_c < V_q, phi_i >_l                          each block's term of the inner product
    layer         sums of modules
    loss-token    s_t = r_i w_c < V_q, grad l_t(i) >                      a token's own loss, along V_q
    sentence      sums of loss-tokens
    position      s_t = r_i w_c sum_l d_t^T V_l a_t                       what passes through a position (see there)
    query-token   s_t ~ < P phi_i, grad m_t(q) >                          a term of the query's measurement, along P phi_i

summed over checkpoints. `r_i` is the method's row scale (one over the gradient's length for a cosine), so parts of a
normalised score are parts of the score itself. The last uses that P is symmetric and is scaled to sum to the score.
`gradients/parts.py` has the derivatives.

Section 5.3 of Grosse et al. 2023 (arXiv 2308.03296) takes positions and layers; loss-tokens are ours. Cost: a pair costs a
gradient of the example and, for each of loss-token and query-token, a forward-mode derivative (about two forward passes).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from assay import progress
from assay.errors import MethodError
from assay.examples import Example, Examples
from assay.folds import by_layer, by_sentence
from assay.gradients.blocks import Block, lay_out, to_parameters, to_vectors
from assay.gradients.functional import each_gradient, requiring_gradients
from assay.gradients.parts import along_positions, along_terms
from assay.grain import BY, ELSEWHERE, NOWHERE, By, Fold, Parts
from assay.methods.base import Fitted
from assay.methods.gradient.base import inverse
from assay.methods.gradient.live import Live
from assay.models import Model
from assay.tasks import Batch, Measure, Measurement, Negated, Token
from assay.tasks.base import evaluating

Pair = tuple[int, int]
"""Row of a training example, column of a query."""
BASE: Mapping[By, By] = {"sentence": "loss-token", "layer": "module"}
"""What a fold is a sum of."""
NEGLIGIBLE = 1e-6
"""Share of a score below which what no position holds is rounding."""


def take_apart(fitted: Fitted, train: Examples, queries: Examples, pairs: Sequence[Pair], by: Sequence[str]) -> Parts:
    """Parts of the scores of `pairs`, by every fold of `by`; in the order of the queries.

    Raises MethodError for a fitted method without exact gradients, and for folds that the task does not have.
    """
    live = _exact(fitted)
    _check(live, by)
    stages = live.model.stages()
    scale = live.method.scale(len(live.train))
    weights = [scale * weight for weight in live.method.weights([stage.rate for stage in stages])]
    levels = live.levels(queries)
    wanted = list(dict.fromkeys(BASE.get(fold, fold) for fold in by))
    total: dict[tuple[Pair, By], Float64[np.ndarray, " n"]] = {}
    modules: list[str] = []
    with progress.task("parts of scores", len(stages) * len(pairs)) as advance:
        for number, (stage, weight) in enumerate(zip(stages, weights, strict=True)):
            lens = _Lens(live, live.model.at(stage), number, weight)
            modules = [block.name for block in lens.blocks]
            measurement = live.method.query_measurement()
            turned = {
                q: float(levels[number, q]) * lens.turned(lens.gradient(queries[q], measurement)) for _, q in pairs
            }
            for row in dict.fromkeys(row for row, _ in pairs):
                seen = lens.example(train[row])
                for pair in (pair for pair in pairs if pair[0] == row):
                    for fold in wanted:
                        found = seen.parts(fold, turned[pair[1]], queries[pair[1]])
                        total[pair, fold] = total.get((pair, fold), 0.0) + found
                    advance(1)
    named = _Names(live, modules)
    ordered = sorted(pairs, key=lambda pair: pair[1])
    return Parts(
        [named.fold(fold, train[i], queries[q], total[(i, q), BASE.get(fold, fold)]) for i, q in ordered for fold in by]
    )


def folds_of(fitted: Fitted) -> tuple[By, ...]:
    """The folds that a run keeps for its report: those that the task and the measurement have."""
    live = _exact(fitted)
    tokens = [fold for fold in ("loss-token", "position", "query-token") if fold in live.model.task.token_parts]
    if isinstance(_inner(live.method.outcome()), Measure):
        tokens = [fold for fold in tokens if fold != "query-token"]
    return (*tokens, "module")


def _exact(fitted: Fitted) -> Live:
    if isinstance(fitted, Live) and fitted.method.rows() in ("none", "norm"):
        return fitted
    raise MethodError(
        "Parts of scores are derivatives of the model along exact gradients, and this method compares features that were "
        "stored, or none. Take a gradient method without compression (compression='none'), such as gradcos or graddot."
    )


def _check(live: Live, by: Sequence[str]) -> None:
    task = live.model.task
    for fold in by:
        if fold not in BY:
            raise MethodError(f"There are no parts by '{fold}'. Known: {', '.join(BY)}.")
        if fold not in ("module", "layer") and fold not in task.token_parts:
            known = ", ".join(f"'{name}'" for name in (*task.token_parts, "module", "layer"))
            raise MethodError(f"The task '{task.name}' has no parts by '{fold}'. It has parts by {known}.")


def _inner(measurement: Measurement) -> Measurement:
    return measurement.inner if isinstance(measurement, Negated) else measurement


class _Lens:
    """The model at one checkpoint: gradients as vectors, block after block, and vectors as directions."""

    def __init__(self, live: Live, model: Model, number: int, weight: float) -> None:
        self.live, self.model, self.number, self.weight = live, model, number, weight
        self.blocks: tuple[Block, ...] = lay_out(model).blocks
        self._shapes = {name: p.shape for name, p in model.parameters.items()}

    def batch(self, example: Example) -> Batch:
        """One example."""
        return self.model.task.collate([self.model.task.encode(example)], self.model.device)

    def gradient(self, example: Example, measurement: Measurement) -> Float[Tensor, " k"]:
        """Of the measurement, at least float32."""
        model = self.model
        with evaluating(model.module), requiring_gradients(model.module, model.parameters.values()):
            (found,) = each_gradient(model, self.batch(example), measurement, list(model.parameters))
        vector = to_vectors(self.blocks, found)[0].cpu()
        return vector if vector.dtype == torch.float64 else vector.float()

    def turned(self, vector: Float[Tensor, " k"]) -> Float[Tensor, " k"]:
        """`P` times a gradient, as the method does with a query's."""
        return self.live.turned(vector[None], self.number)[0]

    def direction(self, vector: Float[Tensor, " k"]) -> dict[str, Tensor]:
        """A vector as one tensor a parameter."""
        return {name: part[0] for name, part in to_parameters(self.blocks, vector[None], self._shapes).items()}

    def example(self, example: Example) -> "_Seen":
        """A training example as it is here."""
        return _Seen(self, example)


class _Seen:
    """A training example at one checkpoint: its gradient and its scale."""

    def __init__(self, lens: _Lens, example: Example) -> None:
        self.lens, self.example, self.method = lens, example, lens.live.method
        self.phi = lens.gradient(example, self.method.train_measurement())
        length = self.phi.double().square().sum().sqrt()
        self.scale = lens.weight * (float(inverse(length)) if self.method.rows() == "norm" else 1.0)

    def parts(self, fold: By, turned: Float[Tensor, " k"], query: Example) -> Float64[np.ndarray, " n"]:
        """Parts of the score at this checkpoint by one fold; of positions the last is what none of them holds."""
        lens, measurement = self.lens, self.method.train_measurement()
        terms = turned.double() * self.phi.double()
        match fold:
            case "module":
                pieces = torch.split(terms, [block.size for block in lens.blocks])
                found = torch.stack([piece.sum() for piece in pieces])
            case "loss-token":
                found = along_terms(lens.model, lens.batch(self.example), measurement, lens.direction(turned))
            case "position":
                time = len(lens.model.task.tokens_of(self.example))
                batch = lens.batch(self.example)
                seen = along_positions(lens.model, batch, measurement, lens.direction(turned), time)
                found = torch.cat([seen.each, torch.tensor([seen.elsewhere], dtype=torch.float64)])
            case _:
                return self._by_query_token(float(terms.sum()), query)
        return self.scale * found.numpy()

    def _by_query_token(self, score: float, query: Example) -> Float64[np.ndarray, " n"]:
        """Along `P phi`, which is `phi` turned as a query's gradient is, up to a factor: the sum is the score."""
        lens, measurement = self.lens, self.method.query_measurement()
        along = along_terms(lens.model, lens.batch(query), measurement, lens.direction(lens.turned(self.phi)))
        whole = float(along.sum())
        factor = score / whole if abs(whole) > 1e-12 * float(along.abs().sum()) else 0.0
        return self.scale * factor * along.numpy()


@dataclass(frozen=True)
class _Names:
    """What the parts of a fold are called."""

    live: Live
    modules: Sequence[str]

    def fold(self, by: By, example: Example, query: Example, scores: Float64[np.ndarray, " n"]) -> Fold:
        """One fold with its names; sums over sentences and layers are made here."""
        task, outcome = self.live.model.task, self.live.method.outcome()

        def make(parts: Sequence[Token | str], values: Float64[np.ndarray, " n"]) -> Fold:
            return fold_of(query.id, example.id, by, parts, values)

        match by:
            case "module":
                return make(self.modules, scores)
            case "layer":
                return make(*by_layer(self.modules, scores))
            case "query-token":
                return make(task.tokens_of(query, outcome), scores)
            case "sentence":
                return make(*by_sentence(task.tokens_of(example), scores))
            case "loss-token":
                return make(task.tokens_of(example), scores)
            case _:
                tokens = task.tokens_of(example)
                if abs(scores[-1]) <= NEGLIGIBLE * float(np.abs(scores).sum()):
                    return make(tokens, scores[:-1])
                return make([*tokens, ELSEWHERE], scores)


def fold_of(
    query_id: str, train_id: str, by: By, parts: Sequence[Token | str], scores: Float64[np.ndarray, " n"]
) -> Fold:
    """One fold of one pair, given its tokens, or the names of its modules."""
    tokens = [part if isinstance(part, Token) else Token(part, NOWHERE, NOWHERE, False) for part in parts]
    starts, ends = (np.array([getattr(token, end) for token in tokens], np.int64) for end in ("start", "end"))
    return Fold(query_id, train_id, by, [token.text for token in tokens], scores, starts, ends)
