"""Values of utterances out of exact values of their frames under a proxy of the acoustic model.

    1. each utterance's encoder frames, with the symbols of a forced alignment of its transcript (runs of blanks: one frame)
    2. the proxy: K nearest frames of the training data vote for a frame's symbol, after a projection on principal components
    3. phi_t, the exact KNN-Shapley value of each training frame for the validation frames (soft labels)
    4. value(u) = sum over the frames of u of phi_t, additive; or their mean, which does not grow with length

Sums over all utterances are the proxy's utility, U(all frames) - U(none), exactly. The proxy's frame accuracy stands next
to the model's own: where they are far apart, the proxy is none.

Paper: Syed and Mandel 2023, ICASSP; only its summary could be read, so the mechanics here are a reconstruction. Cost:
O(F log F) a validation frame for F training frames. A transcript that was aligned badly looks like one of low value, so the
alignment's score is given too. Values of frames that were left out (more than `train_frames`) are not in the sums.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64
from torch import Tensor

from assay.errors import DataError, MethodError
from assay.examples import Examples
from assay.methods.base import ValueMethod, option
from assay.methods.neighbors.order import nearest_first, on_all_cores
from assay.methods.neighbors.utilities.base import Near
from assay.methods.neighbors.utilities.soft import soft
from assay.methods.speech.alignment import align
from assay.models import Model
from assay.progress import task
from assay.provenance import Provenance, measured
from assay.tasks.base import evaluating
from assay.tasks.ctc import BLANK, CTC
from assay.values import Values

BATCH = 16
PAIRS = 2**17
CLOSE = 0.05
"""Frame accuracies that lie further apart are told as a warning."""


@dataclass(frozen=True)
class Frames:
    """Encoder frames of utterances one after the other, with their symbols, utterances and whether the model is right."""

    rows: Float32[np.ndarray, "f d"]
    symbols: Int64[np.ndarray, " f"]
    utterance: Int64[np.ndarray, " f"]
    right: Float64[np.ndarray, " f"]
    alignment: Float64[np.ndarray, " n"]

    def some(self, most: int, seed: int) -> "Frames":
        """At most so many frames, drawn at random, in their order."""
        if len(self.rows) <= most:
            return self
        kept = np.sort(np.random.default_rng(seed).permutation(len(self.rows))[:most])
        return Frames(self.rows[kept], self.symbols[kept], self.utterance[kept], self.right[kept], self.alignment)


@dataclass(frozen=True)
class FrameValues(ValueMethod):
    """Values of utterances: sums or means of exact values of their frames."""

    name: ClassVar[str] = "frames"
    family: ClassVar[str] = "speech"
    unit: ClassVar[str] = "arbitrary"
    summary: ClassVar[str] = "values of utterances from exact values of their frames under a nearest-neighbour proxy"
    paper: ClassVar[str] = "Syed and Mandel 2023 (ICASSP), a reconstruction"

    k: int = option(10, "frames that vote")
    fold: Literal["sum", "mean"] = option(
        "sum", "an utterance is worth its frames' sum, or their mean", ("sum", "mean")
    )
    components: int = option(64, "principal components kept; 0: all")
    train_frames: int = option(50_000, "training frames at most, drawn at random")
    valid_frames: int = option(2_000, "validation frames at most, drawn at random")
    seed: int = option(0, "of the frames drawn")

    def check(self) -> None:
        """Numbers out of range."""
        self.expect(self.k >= 1, "k", "1 or more")
        self.expect(self.components >= 0, "components", "0 or more")
        self.expect(self.train_frames >= 2, "train_frames", "2 or more")
        self.expect(self.valid_frames >= 1, "valid_frames", "1 or more")

    def value(self, model: Any, train: Examples, on: Examples | None = None) -> Values:
        """Values of the training utterances for those of `on`. `raw` has sum, mean, frames and alignment of each.

        Raises MethodError without `on` or for another model than one with the task CTC; DataError.
        """
        if not isinstance(model, Model) or not isinstance(model.task, CTC):
            raise MethodError(
                f"frames takes a recogniser, assay.Model(module, assay.tasks.CTC(symbols)), and was given "
                f"{type(model).__name__}."
            )
        if on is None:
            raise MethodError("frames values utterances for others; give on= (--on), utterances with transcripts.")
        with measured() as cost:
            mine = frames_of(model, model.task, train).some(self.train_frames, self.seed)
            theirs = frames_of(model, model.task, on).some(self.valid_frames, self.seed)
            phi, accuracy = frame_values(*self._reduced(mine, theirs), mine.symbols, theirs.symbols, self.k)
            n = len(train)
            count = np.bincount(mine.utterance, minlength=n)
            total = np.bincount(mine.utterance, phi, minlength=n)
            mean = total / np.maximum(count, 1)
        raw = {"sum": total, "mean": mean, "frames": count, "alignment": mine.alignment}
        provenance = Provenance(
            method=self.name,
            parameters=self.parameters(),
            unit=self.unit,
            inputs={"model": model.name, "train": train.origin, "on": on.origin},
            model_fingerprint=model.fingerprint(),
            train_fingerprint=train.fingerprint(),
            query_fingerprint=on.fingerprint(),
            seconds=cost.seconds,
            peak_memory=cost.peak_memory,
            notes=_notes(mine, theirs, accuracy),
        )
        return Values.of(raw[self.fold], train, provenance, raw=raw)

    def _reduced(self, mine: Frames, theirs: Frames) -> tuple[Float32[Tensor, "f d"], Float32[Tensor, "v d"]]:
        """Principal components of the training frames, as unit rows."""
        mean = mine.rows.mean(0, dtype=np.float64)
        parts = [frames.rows - mean for frames in (mine, theirs)]
        if 0 < self.components < parts[0].shape[1]:
            _, vectors = np.linalg.eigh(parts[0].T @ parts[0])
            parts = [part @ vectors[:, -self.components :] for part in parts]
        unit = [part / np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-30) for part in parts]
        return torch.from_numpy(unit[0].astype(np.float32)), torch.from_numpy(unit[1].astype(np.float32))


def frames_of(model: Model, ctc: CTC, examples: Examples) -> Frames:
    """Encoder frames of all utterances, aligned; a run of blanks is its mean frame. Raises DataError."""
    ctc.check(examples)
    rows: list[np.ndarray] = []
    symbols: list[np.ndarray] = []
    right: list[np.ndarray] = []
    scores: list[float] = []
    with evaluating(model.module), task("aligning", len(examples)) as advance:
        for start in range(0, len(examples), BATCH):
            items = [ctc.encode(example) for example in examples[start : start + BATCH]]
            hidden, log_p = ctc.frames(model.module, ctc.collate(items, model.device))
            for item, frames, found in zip(items, hidden.cpu(), log_p.cpu().double(), strict=True):
                length = ctc.lengths(item.length)
                path, score = align(found[:length].numpy(), item.tensors["y"].numpy())
                best = found[:length].argmax(1).numpy()
                own, kept = collapsed(frames[:length].double().numpy(), path)
                rows.append(own.astype(np.float32))
                symbols.append(path[kept])
                right.append((best == path)[kept].astype(np.float64))
                scores.append(score)
            advance(len(items))
    if len({row.shape[1] for row in rows}) != 1:
        raise DataError(f"{examples.origin} holds no utterances, or frames of different widths.")
    utterance = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    return Frames(np.concatenate(rows), np.concatenate(symbols), utterance, np.concatenate(right), np.array(scores))


def collapsed(
    rows: Float64[np.ndarray, "time d"], path: Int64[np.ndarray, " time"]
) -> tuple[Float64[np.ndarray, "kept d"], Int64[np.ndarray, " kept"]]:
    """Frames with the mean of each run of blanks in its place, and the position where each begins."""
    begins = np.r_[True, (path[1:] != BLANK) | (path[:-1] != BLANK)]
    group = np.cumsum(begins) - 1
    sums = np.zeros((group[-1] + 1, rows.shape[1]))
    np.add.at(sums, group, rows)
    return sums / np.bincount(group)[:, None], np.flatnonzero(begins)


def frame_values(
    mine: Float32[Tensor, "f d"], theirs: Float32[Tensor, "v d"], symbols: Int64[np.ndarray, " f"],
    goal: Int64[np.ndarray, " v"], k: int,
) -> tuple[Float64[np.ndarray, " f"], float]:  # fmt: skip
    """Mean over the validation frames of each training frame's value, and the proxy's accuracy on them."""
    label, target = torch.from_numpy(symbols), torch.from_numpy(goal)
    classes = len(np.unique(symbols))

    def work(part: slice) -> tuple[Float64[Tensor, " f"], int]:
        order = nearest_first((1 - theirs[part] @ mine.T).clamp_(min=0.0).abs_())
        found = label[order]
        values = soft(Near((found == target[part, None]).double(), None, target[part].double(), classes), k)
        back = torch.zeros_like(values).scatter_(1, order, values).sum(0)
        return back, int((found[:, :k].mode(dim=1).values == target[part]).sum())

    size = max(1, PAIRS // len(mine))
    parts = [slice(start, start + size) for start in range(0, len(theirs), size)]
    total, right = torch.zeros(len(mine), dtype=torch.float64), 0
    with task("valuing frames", len(theirs)) as advance:
        for part, (values, hits) in zip(parts, on_all_cores(work, parts, mine.device), strict=True):
            total += values
            right += hits
            advance(len(target[part]))
    return (total / len(theirs)).numpy(), right / len(theirs)


def _notes(mine: Frames, theirs: Frames, accuracy: float) -> tuple[str, ...]:
    model = float(theirs.right.mean())
    told = (
        f"{len(mine.rows):,} training and {len(theirs.rows):,} validation frames; frame accuracy of the proxy "
        f"{accuracy:.3f}, of the model {model:.3f}.",
        f"alignment of the training utterances: {mine.alignment.mean():.3f} nats a frame.",
    )
    if abs(accuracy - model) <= CLOSE:
        return told
    return (
        *told,
        "The proxy's frame accuracy is more than 5 points from the model's: the values say little of the model.",
    )
