"""An offer: what a scorer says of data that their provider keeps to himself.

It holds numbers of every row, a digest by which equal rows of two offers are known, and a summary; no text and no id, which could be
text. Rows that occur again, and rows unlike what the scorer has seen, are listed and not counted.

    total = sum over counted rows of value_i          variance = sum of stderr_i^2 + (rows * shift)^2

`shift`: how far the scorer was off on average for a source that it had not seen; None where its owner had no sources.
"""

import hashlib
import os
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool

from assay.errors import DataError, InputError
from assay.examples import Examples
from assay.methods.student.alinfik import TEXTS
from assay.methods.student.scorer import Predicted, Scorer
from assay.methods.student.sealed import Kind
from assay.provenance import package_versions
from assay.run_directory import describe

VALUES = "values.parquet"
KIND = Kind("an offer", "offer.json", VALUES, "assay-offer", 1)
NUMBERS = ("value", "stderr", "low", "high", "novelty", "in_domain")
Z = 1.96
"""Standard errors to each side of an interval of 95%."""
BARS = 20
CLOSE = 1e-9
"""Relative difference of values that are computed on two machines."""

arrow, parquet = cast(Any, pa), cast(Any, pq)


@dataclass(frozen=True, eq=False)
class Offer:
    """Of one provider; made by `appraise`. `scorer` is the checksum of the scorer, `data` says which data, `about` how good it is."""

    provider: str
    predicted: Predicted
    digests: Sequence[str]
    scorer: str
    shift: float | None
    data: Mapping[str, Any]
    about: Mapping[str, Any]

    def __len__(self) -> int:
        return len(self.digests)

    @cached_property
    def counted(self) -> Bool[np.ndarray, " n"]:
        """Rows that are paid for: within the domain, the first of those that are equal."""
        first: dict[str, int] = {}
        places = [first.setdefault(digest, k) for k, digest in enumerate(self.digests)]
        return self.predicted.in_domain & (np.array(places) == np.arange(len(places)))

    def summary(self) -> dict[str, Any]:
        """Counts, mean, total and their 95% intervals, histogram of the counted values, share of the rows out of the domain."""
        counted = self.counted
        values, n = self.predicted.value[counted], int(counted.sum())
        sd = deviation(self.predicted.stderr[counted], float(n), self.shift)
        total = float(values.sum())
        bars, edges = np.histogram(values, bins=BARS) if n else (np.zeros(0, int), np.zeros(0))
        each = max(n, 1)
        return {
            "rows": len(self),
            "counted": n,
            "repeated": len(self) - len(set(self.digests)),
            "out_of_domain": float((~self.predicted.in_domain).mean()),
            "total": total,
            "total_interval": [total - Z * sd, total + Z * sd],
            "mean": total / each,
            "mean_interval": [(total - Z * sd) / each, (total + Z * sd) / each],
            "positive": float((values > 0).mean()) if n else 0.0,
            "histogram": {"edges": edges.tolist(), "counts": bars.tolist()},
        }

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Write the hand-over, whole or not at all; an earlier offer there is replaced. Raises InputError, StorageError."""
        content = {
            "provider": self.provider, "scorer": self.scorer, "shift": self.shift, "data": self.data,
            "summary": self.summary(), "about": self.about, "versions": package_versions(),
        }  # fmt: skip
        columns = {name: arrow.array(getattr(self.predicted, name)) for name in NUMBERS}
        columns = {
            "row": arrow.array(np.arange(1, len(self) + 1)),
            "digest": arrow.array(list(self.digests)),
            **columns,
        }
        KIND.write(directory, content, {VALUES: partial(parquet.write_table, arrow.table(columns))})


def appraise(
    scorer: Scorer, checksum: str, examples: Examples, provider: str, file: str | os.PathLike[str] | None = None
) -> Offer:
    """What a scorer says of examples; `file` is where they were read from, whose checksum the offer then states.

    Raises DataError for data without text or rows; InputError where every row is unlike what the scorer has seen, or for a
    provider without a name.
    """
    if not provider.strip():
        raise InputError("An offer needs the name of its provider (--provider NAME).")
    if examples.kind not in TEXTS or len(examples) == 0:
        raise DataError(
            f"{examples.origin} holds {len(examples)} rows of {examples.kind}; a scorer reads texts, at least one."
        )
    predicted = scorer.predict(examples.texts)
    if not predicted.in_domain.any():
        raise InputError(
            f"Every row of {examples.origin} is unlike what the scorer was fitted to (novelty {predicted.novelty.min():.2f} and "
            f"more; it knows up to {scorer.threshold:.2f}), so it can say nothing about them. Ask for a scorer fitted to such data."
        )
    digests = [digest_of(text, checksum) for text in examples.texts]
    data: dict[str, Any] = {"rows": len(examples), "fingerprint": fingerprint_of(digests)}
    if file is not None and Path(file).is_file():
        data["file"] = describe(Path(file))
    held = scorer.about.get("held_out", {})
    about = {"scorer": held.get("text"), "seconds_per_example": scorer.about.get("seconds_per_example")}
    return Offer(provider, predicted, digests, checksum, scorer.shift, data, about)


def load_offer(directory: str | os.PathLike[str]) -> Offer:
    """An offer as it was saved.

    Raises InputError: no offer there, another version, damaged or changed, or a summary that its values do not have.
    """
    content = KIND.read(directory)
    path = KIND.file(directory, content, VALUES)
    try:
        table = parquet.read_table(path, partitioning=None)
        arrays = {name: table.column(name).to_numpy() for name in NUMBERS}
        digests = table.column("digest").to_pylist()
        offer = Offer(
            str(content["provider"]), Predicted(**arrays), digests, str(content["scorer"]), content["shift"],
            content["data"], content["about"],
        )  # fmt: skip
        finite = all(np.isfinite(arrays[name]).all() for name in NUMBERS[:-1])
        same = finite and _close(offer.summary(), content["summary"])
    except (KeyError, TypeError, ValueError, arrow.ArrowException) as error:
        raise KIND.damaged(path, str(error)) from error
    if not same:
        raise KIND.damaged(path, "its values are not those of the summary")
    return offer


def differences(offer: Offer, scorer: Scorer, delivered: Examples) -> int:
    """Rows of delivered data that are not what was offered: another text, or another value than the scorer gives.

    Raises InputError for another number of rows.
    """
    if len(delivered) != len(offer):
        raise InputError(
            f"{offer.provider} offered {len(offer):,} rows, and {delivered.origin} holds {len(delivered):,}; give the data "
            "that were offered."
        )
    digests = np.array([digest_of(text, offer.scorer) for text in delivered.texts])
    values, scale = scorer.predict(delivered.texts).value, np.abs(offer.predicted.value).max()
    other = np.abs(values - offer.predicted.value) > CLOSE * scale
    return int((other | (digests != np.array(offer.digests))).sum())


def digest_of(text: str, scorer: str) -> str:
    """By which equal texts are known: SHA-256 of the scorer's checksum and the text without case, and with single spaces."""
    plain = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return hashlib.sha256(f"{scorer}\n{plain}".encode("utf-8", "surrogatepass")).hexdigest()[:32]


def fingerprint_of(digests: Sequence[str]) -> str:
    """Of the texts in their order: SHA-256 of the digests, a line each. Ids, and so the file's name, are no part of it."""
    return hashlib.sha256("\n".join(digests).encode("ascii")).hexdigest()


def deviation(stderr: np.ndarray, rows: float, shift: float | None) -> float:
    """Standard deviation of a sum of so many rows."""
    return float(np.sqrt(np.square(stderr).sum() + (rows * (shift or 0.0)) ** 2))


def _close(one: Any, other: Any) -> bool:
    """Whether two JSON values are equal, numbers up to rounding."""
    if isinstance(one, dict) and isinstance(other, dict):
        mine, theirs = cast(dict[str, Any], one), cast(dict[str, Any], other)
        return mine.keys() == theirs.keys() and all(_close(mine[name], theirs[name]) for name in mine)
    if isinstance(one, list) and isinstance(other, list):
        pair = cast(tuple[list[Any], list[Any]], (one, other))
        return len(pair[0]) == len(pair[1]) and all(map(_close, *pair))
    if isinstance(one, int | float) and isinstance(other, int | float):
        return bool(np.isclose(one, other, rtol=1e-9, atol=1e-12))
    return one == other
