"""ALinFiK: LinFiK on a sample by the model itself, and on everything else by a small student of it.

    value_i = LinFiK_i                        for i in a random sample of m rows        (see linfik)
    value_i = mean + v . words(x_i) + w . ngrams(x_i)   for the rest, fitted to the sample    (see scorer, distil)

The student never sees the model: it is two ridge regressions, one on hashed words in their place, taught by each token's part of
the values (`told`), and one on hashed n-grams. It can be handed to somebody who keeps the texts to himself (docs/pricing.md). Rows
whose text is that of a measured row get the measured value.

Paper: Pan et al. 2025, NAACL (arXiv 2503.01052), section 4. Cost: |D| + m gradients and m forward-mode derivatives, then some
milliseconds a row; fitting costs m^3 up to 2,000 rows. Deviations: hashed n-grams and ridge in place of a fine-tuned encoder, so that a
scorer is a file of 1.9 MB, is fitted in seconds, and says of every row how sure it is and whether it has seen its like. Assumes that
the rest is like the sample.
"""

import hashlib
import math
import time
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar, cast

import numpy as np
from jaxtyping import Float64, Int64

from assay.errors import DataError, MethodError
from assay.examples import Examples
from assay.jsonable import jsonable
from assay.methods.base import ValueMethod, option
from assay.methods.gradient.linfik import LinFiK
from assay.methods.gradient.live import Live
from assay.methods.student.distil import LEAST, Held, distil
from assay.methods.student.pieces import Told
from assay.methods.student.scorer import LEVEL, Scorer
from assay.methods.student.scorer_file import SPECIFICATION
from assay.methods.student.told import by_token
from assay.models import Model
from assay.provenance import Provenance, measured, package_versions
from assay.tasks import Choosable, label_of
from assay.training import model_of
from assay.values import Values

TEXTS = ("text", "completion", "messages")


@dataclass(frozen=True, eq=False)
class Distilled:
    """Values of all rows, the scorer that gave most of them, and what it is worth."""

    values: Values
    scorer: Scorer
    held: Held


@dataclass(frozen=True)
class ALinFiK(ValueMethod):
    """LinFiK on a sample, and a student of it for the rest."""

    name: ClassVar[str] = "alinfik"
    family: ClassVar[str] = "student"
    unit: ClassVar[str] = "arbitrary"
    summary: ClassVar[str] = "linfik on a sample, and a small text scorer distilled from it for the rest"
    paper: ClassVar[str] = "Pan et al. 2025 (2503.01052)"

    sampled: float = option(0.05, "rows that the model itself measures: a share up to 1, or a number of rows above 1")
    seed: int = option(0, "of the choice of the sample")
    measure: Choosable = option(  # noqa: RUF009 - a field
        "loss", "what of a target is explained: loss, margin, log-odds:TOKEN, contrast; in Python also a function"
    )
    step: str = option(
        "normalised",
        "what training does, as linfik has it: steps of a length of their own, or plain SGD",
        ("normalised", "plain"),
    )
    on_nonfinite: str = option(
        "raise", "a loss or gradient that is NaN or infinite: stop, or skip the example", ("raise", "skip")
    )

    def check(self) -> None:
        """A share, or a number of rows."""
        whole = self.sampled <= 1 or float(self.sampled).is_integer()
        self.expect(self.sampled > 0 and whole, "sampled", "a share above 0 and up to 1, or a whole number of rows")
        self.teacher()

    def teacher(self) -> LinFiK:
        """What the student learns from. Raises MethodError if `measure` cannot be read."""
        return LinFiK(measure=self.measure, step=self.step, on_nonfinite=self.on_nonfinite)

    def parameters(self) -> dict[str, Any]:
        """The measurement by its name; all others as they are."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return jsonable(values | {"measure": label_of(self.measure)})

    def value(self, model: Any, train: Examples, on: Examples | None = None) -> Values:
        """Values of the training examples for the examples `on`.

        Raises MethodError without `on` or for too small a pool, DataError for what is no text.
        """
        return self.distil(model, train, on).values

    def distil(self, model: Any, train: Examples, on: Examples | None) -> Distilled:
        """The same with the scorer, whose `about` says how it was made. Raises as `value`."""
        model = self._model(model)
        if on is None or len(on) == 0:
            raise MethodError(
                "alinfik values examples for targets, and was given none. Give on= (--on), the examples that should be "
                "predicted well."
            )
        for rows in (train, on):
            if rows.kind not in TEXTS:
                raise DataError(f"alinfik reads texts, and {rows.origin} holds {rows.kind}. Give text, or use linfik.")
        with measured() as cost:
            rows = self._rows(len(train))
            sample = train.select(rows)
            exact, told, seconds = self._measured(model, sample, on)
            texts = list(sample.texts)
            scorer, held = distil(texts, exact.array, list(sample.sources), _longest(model, sample), self.seed, told)
            start = time.perf_counter()
            predicted = scorer.predict(train.texts)
            each = (time.perf_counter() - start) / len(train)
            known = _known(train, texts, exact.array)
        array, stderr = predicted.value.copy(), predicted.stderr.copy()
        array[list(known)], stderr[list(known)] = list(known.values()), 0.0
        taken = np.isin(np.arange(len(train)), list(known))
        about = self._about(model, sample, on, held, exact.provenance, {"linfik": seconds, "scorer": each})
        scorer = replace(scorer, about=about)
        provenance = replace(
            exact.provenance,
            method=self.name,
            parameters=self.parameters(),
            train_fingerprint=train.fingerprint(),
            inputs={**exact.provenance.inputs, "train": train.origin},
            seconds=cost.seconds,
            peak_memory=cost.peak_memory,
            notes=(*exact.provenance.notes, *_told(len(train), taken, predicted.in_domain, scorer, held)),
        )
        raw = {"measured": taken, "in_domain": predicted.in_domain | taken, "novelty": predicted.novelty}
        values = Values.of(array, train, provenance, stderr, raw).with_evidence(student=about["held_out"])
        return Distilled(values, scorer, held)

    def _model(self, model: Any) -> Model:
        model = model_of(model)
        if not isinstance(model, Model):
            raise MethodError(
                f"The method 'alinfik' takes gradients of a language model, and was given {type(model).__name__}. Give "
                "assay.load(path)."
            )
        return model

    def _rows(self, n: int) -> Int64[np.ndarray, " m"]:
        """The rows of the sample, ascending."""
        m = math.ceil(self.sampled * n - 1e-9) if self.sampled <= 1 else int(self.sampled)
        if m > n or m < LEAST:
            raise MethodError(
                f"The sample is {m:,} of the {n:,} rows of the pool (sampled={self.sampled:g}); at least {LEAST} and at most all "
                f"rows were expected. Give more rows, another number (--sampled), or use linfik, which measures every row."
            )
        return np.sort(np.random.default_rng(self.seed).permutation(n)[:m])

    def _measured(self, model: Model, sample: Examples, on: Examples) -> tuple[Values, list[Told] | None, float]:
        """LinFiK of the sample, its parts by token where the model can tell them, and its seconds a row, those of the targets
        left out.
        """
        start = time.perf_counter()
        fitted = cast(Live, self.teacher().fit(model, sample))
        exact = fitted.value(on)
        seconds = (time.perf_counter() - start) / (len(sample) + len(on))
        try:
            return exact, by_token(fitted, sample, on), seconds
        except MethodError:  # an operation without a forward-mode derivative: whole rows have to do
            return exact, None, seconds

    def _about(
        self, model: Model, sample: Examples, on: Examples, held: Held, made: Provenance, seconds: dict[str, float]
    ) -> dict[str, Any]:
        """What a scorer says of itself: names and numbers, no text and no id of the sample or the targets."""
        return {
            "method": self.name,
            "parameters": self.parameters(),
            "teacher": {"method": "linfik", "model_fingerprint": made.model_fingerprint, "coverage": made.coverage},
            "sample": {"rows": len(sample), "fingerprint": sample.fingerprint()},
            "targets": {"rows": len(on), "fingerprint": on.fingerprint()},
            "features": SPECIFICATION,
            "held_out": {**asdict(held), "text": held.text(), "interval": LEVEL},
            "seconds_per_example": seconds,
            "versions": package_versions(),
        }


def _longest(model: Model, sample: Examples) -> int | None:
    """Characters that the model read of the longest rows, where it cut some; from the characters a token of the others."""
    items = [(model.task.encode(example), len(example.text)) for example in sample]
    cut = [item.length for item, _ in items if item.cut]
    if not cut:
        return None
    whole = [(item.length, length) for item, length in items if not item.cut]
    each = sum(length for _, length in whole) / sum(tokens for tokens, _ in whole) if whole else 4.0
    return max(1, round(max(cut) * each))


def _known(train: Examples, texts: list[str], values: Float64[np.ndarray, " m"]) -> dict[int, float]:
    """The value of each row whose text was measured, by position."""
    found: dict[bytes, float] = {_digest(text): value for text, value in zip(texts, values.tolist(), strict=True)}
    return {k: found[digest] for k, digest in enumerate(map(_digest, train.texts)) if digest in found}


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _told(n: int, taken: np.ndarray, inside: np.ndarray, scorer: Scorer, held: Held) -> tuple[str, ...]:
    count, strange = int(taken.sum()), int((~inside & ~taken).sum())
    told = f"{count:,} of {n:,} rows were measured by the model; the others come from the scorer: {held.text()}."
    if not strange:
        return (told,)
    return (told, f"{strange:,} rows are unlike those that were measured (in_domain); do not rely on their values.")
