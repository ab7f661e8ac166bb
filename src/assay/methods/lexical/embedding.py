"""Embeddings: the cosine of two representations.

    score(i, q) = < unit(e_i - m), unit(e_q - m) >,      m = mean of the training representations (if `center`)

with `e` the mean of the user's own model's last hidden states over an example's tokens (its completion, if it has one),
or any sentence encoder's vectors. Similarity of meaning, symmetric in i and q: not influence.

Paper: the baseline in Hanawa et al. 2021 (arXiv 2006.04528). Without removing the mean, all cosines of a language
model's states lie above 0.9. Cost: one forward pass an example; N x hidden numbers in memory.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Float32

from assay.errors import MethodError, ModelError, require
from assay.examples import Examples
from assay.gradients.features import notes, pack
from assay.methods.base import Fitted, Method, option
from assay.methods.streamed import Streamed
from assay.models import Model
from assay.progress import task
from assay.provenance import measured
from assay.tasks.base import evaluating
from assay.training import model_of

_WINDOW = 512


@dataclass(frozen=True)
class Embedding(Method):
    """Cosine of representations by the model itself or by a sentence encoder."""

    name: ClassVar[str] = "embedding"
    family: ClassVar[str] = "lexical"
    unit: ClassVar[str] = "arbitrary"
    summary: ClassVar[str] = "cosine of hidden states of the model, or of any sentence encoder"
    paper: ClassVar[str] = "baseline in Hanawa et al. 2021 (2006.04528)"

    encoder: str = option("model", "model (its own hidden states), or a sentence-transformers directory or name")
    center: bool = option(True, "remove the mean of the training examples first")

    def fit(self, model: Any, train: Examples) -> Fitted:
        """Represent the training examples."""
        with measured() as cost:
            encode = ByModel(model) if self.encoder == "model" else _ByEncoder(self.encoder)
            rows = encode(train)
            mean = rows.mean(0, dtype=np.float64) if self.center else np.zeros(rows.shape[1])
            unit = _unit(rows - mean)

        def score(queries: Examples) -> np.ndarray:
            return unit @ _unit(encode(queries) - mean).T

        if isinstance(encode, ByModel):
            cut = encode.cut(train)
            return Streamed(
                self, train, score, cost.seconds, encode.model, lambda queries: notes(cut + encode.cut(queries), [])
            )
        return Streamed(self, train, score, cost.seconds)


class ByModel:
    """Mean of the last hidden states, by the model whose behaviour is asked about."""

    def __init__(self, model: Any) -> None:
        model = model_of(model)
        if not isinstance(model, Model):
            raise MethodError(
                f"embedding takes the hidden states of a model, and was given {type(model).__name__}. Give "
                "assay.load(path), or name an encoder."
            )
        self.model = model

    def cut(self, examples: Examples) -> int:
        """How many examples are longer than the context."""
        return sum(self.model.task.encode(example).cut for example in examples)

    def __call__(self, examples: Examples) -> Float32[np.ndarray, "n hidden"]:
        model = self.model
        model.task.check(examples)
        rows: list[Any] = [None] * len(examples)
        with evaluating(model.module), torch.no_grad(), task("embedding", len(examples)) as advance:
            for start in range(0, len(examples), _WINDOW):
                items = [model.task.encode(example) for example in examples[start : start + _WINDOW]]
                for members in pack([item.length for item in items], 4096, 64):
                    batch = model.task.collate([items[k] for k in members], model.device)
                    found = model.task.features(model.module, batch).float().cpu().numpy()
                    for k, row in zip(members, found, strict=True):
                        rows[start + k] = row
                    advance(len(members))
        return np.stack(rows).astype(np.float32)


class _ByEncoder:
    """Any sentence-transformers model."""

    def __init__(self, name: str) -> None:
        library = require("sentence_transformers", "embed")
        try:
            self._encoder = library.SentenceTransformer(name)
        except (OSError, ValueError) as error:
            raise ModelError(f"The encoder '{name}' cannot be loaded: {str(error).splitlines()[0]}") from error

    def __call__(self, examples: Examples) -> Float32[np.ndarray, "n hidden"]:
        return np.asarray(self._encoder.encode(list(examples.texts), show_progress_bar=False), np.float32)


def _unit(rows: Float[np.ndarray, "n hidden"]) -> Float32[np.ndarray, "n hidden"]:
    """Rows of length one; rows of zeros stay."""
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows / np.maximum(length, 1e-30)).astype(np.float32)
