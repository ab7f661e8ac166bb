"""Queries against a stored index: the same formula as everywhere in the family, by one scan of the disk."""

import hashlib
import shutil
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from assay.errors import IndexMismatch
from assay.examples import Examples
from assay.gradients.features import coverage_note, notes
from assay.index import fitted
from assay.index.build import check_measurement, header_of, refuse_other
from assay.index.reader import StoredIndex
from assay.index.scan import dense, top_k
from assay.index.texts import read_texts
from assay.methods.base import Fitted
from assay.methods.gradient.base import GradientMethod, query_features
from assay.models import Model
from assay.provenance import Provenance, measured
from assay.ranking import TopK
from assay.scores import Scores
from assay.tables import Table


class Indexed(Fitted):
    """A method fitted to an index on disk.

    Args:
        index: the features of the training examples.
        model: the model that the index was built with; IndexMismatch otherwise.
        method: any whose gradients the index holds.
        seconds: what building took, if it was part of this job.
        folder: a temporary directory that holds the index and is removed with this object, or at the end of the process.
    """

    def __init__(
        self, index: StoredIndex, model: Model, method: GradientMethod, seconds: float = 0.0, folder: Path | None = None
    ) -> None:
        check_measurement(index, method.train_measurement(), method.name)
        self.index, self.model, self.method = index, model, method
        with measured(seconds) as cost:
            self._state = method.state(index, model)
        self._seconds = cost.seconds
        if folder is not None:
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)

    def score(self, queries: Examples, top: int | None = None) -> Scores:
        """Dense scores, or the `top` best at both ends with memory that does not grow with the training data."""
        index, method = self.index, self.method
        with measured(self._seconds) as cost:
            psi, losses, cut = self._queries(queries)
            state = method.state_for(self._state, psi)
            psi = self._turned(psi, state)
            scale = method.row_factor(index, state)
            if top is None:
                entries: Any = dense(index, psi, row_scale=scale).numpy()
                train = read_texts(index.path, index.rows)
            else:
                best = top_k(index, psi, top, row_scale=scale)
                ends = (best.helpful_rows, best.helpful_scores, best.harmful_rows, best.harmful_scores)
                entries = TopK.of_ends(*(part.numpy() for part in ends))
                train = read_texts(index.path, index.rows, entries.rows())
        provenance = Provenance(
            method=method.name,
            parameters=method.parameters(),
            unit=method.score_unit(),
            inputs={"model": self.model.name, "train": self._data(), "queries": queries.origin},
            model_fingerprint=index.header["model"]["fingerprint"],
            train_fingerprint=data_fingerprint(index),
            query_fingerprint=queries.fingerprint(),
            coverage=index.header["coverage"],
            seconds=cost.seconds,
            peak_memory=cost.peak_memory,
            notes=(*method.score_notes(), *coverage_note(self.model), *self._notes(cut), *method.remarks(state)),
        )
        return Scores.of(entries, train, Table.of(queries, loss=losses), provenance)

    def _queries(self, queries: Examples) -> tuple[Float[Tensor, "c q k"], Float[np.ndarray, " q"], int]:
        """Query features, one for each checkpoint of the index."""
        stages, compression = self.model.stages(), self.method.train_compression()
        used = self._used(len(stages))
        psi = torch.zeros(self.index.checkpoints, len(queries), self.index.dim)
        losses, cut = np.zeros(len(queries)), 0
        for number in used:
            chosen = fitted.kept(self.index.path, compression.at(number), number)
            side = query_features(self.model.at(stages[number]), queries, self.method, chosen)
            psi[number] = side.features
            losses, cut = side.losses, side.cut
        return psi, losses, cut

    def _turned(self, psi: Float[Tensor, "c q k"], state: Any) -> Float[Tensor, "c q k"]:
        """With curvature and weights folded in."""
        weights = self.method.weights([stage.rate for stage in self.model.stages()])
        turned = torch.zeros_like(psi)
        for number in self._used(len(psi)):
            side = self.method.query_side(psi[number], state, number)
            turned[number] = weights[number] * self.method.scale(self.index.rows) * side
        return turned

    def _used(self, stages: int) -> Sequence[int]:
        if stages != self.index.checkpoints:
            raise IndexMismatch(
                f"The index '{self.index.path}' has {self.index.checkpoints} checkpoints and the model {stages}. "
                "Give the model with the checkpoints of the index."
            )
        return range(stages) if self.method.every_checkpoint else [stages - 1]

    def _data(self) -> str:
        return str(self.index.header["origin"].get("train", self.index.path.name))

    def _notes(self, cut: int) -> tuple[str, ...]:
        """How many were cut, and which were left out at a checkpoint that takes part."""
        used = list(self._used(self.index.checkpoints))
        skipped = self.index.stats("skipped")[used].any(0).nonzero().squeeze(1).numpy()
        names = list(read_texts(self.index.path, self.index.rows, skipped).ids) if len(skipped) else []
        return notes(int(self.index.stats("cut")[-1].sum()) + cut, names)


def check_model(index: StoredIndex, model: Model, method: GradientMethod) -> None:
    """Raise IndexMismatch unless the index was built with this model."""
    refuse_other(index, header_of(model, method.contents()))


def data_fingerprint(index: StoredIndex) -> str:
    """The examples' fingerprint; of an index that was appended to, a digest of those of its parts."""
    parts: list[str] = index.header["data"]
    return parts[0] if len(parts) == 1 else hashlib.sha256("".join(parts).encode()).hexdigest()
