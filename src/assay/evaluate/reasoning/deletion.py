"""Does a sentence's part say what deleting the sentence would do?

For a training example i and its solution's sentences j, with the direction V of `infra`:

    part_j = (1/N) sum over tokens t of j of < V, grad l_t >        deleted_j = (1/N) < V, grad L_i - grad L_{i without j} >

They differ, as without j later tokens are predicted from another text. The rank correlation over sentences says how far one may
read parts as deletions. Cost: a forward-mode derivative a sentence.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64, Int

from assay import progress
from assay.errors import MethodError
from assay.examples import Example
from assay.folds import by_sentence, sentences
from assay.gradients.parts import Direction as Along
from assay.gradients.parts import along_terms
from assay.methods.gradient.infra import Direction, Traced


@dataclass(frozen=True)
class Deletion:
    """Of each sentence its part and what deleting it changes, in nats; `rows` says of which training example."""

    parts: Float64[np.ndarray, " m"]
    deleted: Float64[np.ndarray, " m"]
    rows: Int[np.ndarray, " m"]

    @property
    def spearman(self) -> float:
        """Rank correlation over all sentences."""
        return _spearman(self.parts, self.deleted)

    @property
    def within(self) -> float:
        """The mean over examples with three or more sentences of the rank correlation within each."""
        each = [self.rows == row for row in np.unique(self.rows)]
        found = [_spearman(self.parts[at], self.deleted[at]) for at in each if at.sum() >= 3]
        return float(np.mean(found)) if found else float("nan")


def sentence_deletion(fitted: Traced, direction: Direction, rows: Sequence[int]) -> Deletion:
    """For the sentences of these training examples' solutions, of examples that have two or more.

    Raises MethodError for examples that are no prompts with completions.
    """
    if fitted.train.kind != "completion":
        raise MethodError(
            f"Sentences are deleted from completions, and the examples are of kind '{fitted.train.kind}'. Give prompt and "
            "completion."
        )
    along = fitted.along(direction)
    parts: list[float] = []
    deleted: list[float] = []
    of: list[int] = []
    with progress.task("deleting sentences", len(rows)) as advance:
        for row in rows:
            example = fitted.train[row]
            completion = example.data["completion"]
            pieces = sentences(completion)
            if len(pieces) > 1:
                own = _terms(fitted, example, along)
                tokens = fitted.model.task.tokens_of(example)
                wholes, sums = by_sentence(tokens, own)
                offset = len(example.data["prompt"])
                for start, end in pieces:
                    rest = completion[:start] + completion[end:]
                    # a sentence of the text may begin in the prompt: it is found by where it ends
                    mine = [k for k, whole in enumerate(wholes) if start + offset < whole.end <= end + offset]
                    if rest.strip() and mine:
                        shorter = replace(example, data={**example.data, "completion": rest})
                        parts.append(float(sums[mine].sum()))
                        deleted.append(float(own.sum() - _terms(fitted, shorter, along).sum()))
                        of.append(row)
            advance()
    return Deletion(np.array(parts), np.array(deleted), np.array(of, dtype=np.int64))


def _spearman(x: Float64[np.ndarray, " m"], y: Float64[np.ndarray, " m"]) -> float:
    from scipy import stats  # not at the top: importing assay stays light

    return float(np.corrcoef(np.asarray(stats.rankdata(x)), np.asarray(stats.rankdata(y)))[0, 1])


def _terms(fitted: Traced, example: Example, along: Along) -> Float64[np.ndarray, " tokens"]:
    task, model = fitted.model.task, fitted.model
    batch = task.collate([task.encode(example)], model.device)
    found = along_terms(model, batch, fitted.method.train_measurement(), along)
    return fitted.method.scale(len(fitted.train)) * found.numpy()
