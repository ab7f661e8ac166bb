"""What guarding gives: for each question an output, its label, and the documents that it was made of."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from assay.provenance import Provenance
from assay.run_directory import replacing

FORMAT, VERSION = "assay-guard", 1


@dataclass(frozen=True)
class Verdict:
    """One question. `output` was made from `documents` alone, whose labels join to `label`.

    `conservative`: the join of all documents' labels, which the output would have without a look. `minimal`: every minimal
    label that was found; `label` is that with the smallest drop. `drop`: the nats that one token of the first output loses at most,
    given the documents of `label` alone (below 0: all became likelier); no token stopped being the likeliest, unless `note` says
    that a server did not tell. `likelihood` and `full`: nats a token of that output, given the documents of `label` and given
    all. `visited`: choices of documents that were scored. `introspected`: the label by what the model says it used, if it was
    asked.
    """

    query_id: str
    label: str
    conservative: str
    improved: bool
    minimal: tuple[str, ...]
    documents: tuple[str, ...]
    retrieved: tuple[str, ...]
    output: str
    drop: float
    likelihood: float
    full: float
    visited: int
    introspected: str | None = None
    note: str | None = None


@dataclass(frozen=True)
class Guarded:
    """All questions, in their order, and how they were answered."""

    verdicts: tuple[Verdict, ...]
    settings: Mapping[str, Any]
    provenance: Provenance

    def to_frame(self) -> pd.DataFrame:
        """A line for each question."""
        return pd.DataFrame([asdict(verdict) for verdict in self.verdicts])

    @property
    def improved(self) -> float:
        """The share of the questions whose label is below the conservative one."""
        return sum(verdict.improved for verdict in self.verdicts) / len(self.verdicts)

    def save(self, path: str | os.PathLike[str]) -> None:
        """As JSON, whole or not at all: verdicts with ids and the outputs that carry their labels, no document's text and no
        output that was made of all documents. Raises StorageError.
        """
        content = {
            "format": FORMAT,
            "version": VERSION,
            "settings": dict(self.settings),
            **self.provenance.entries(),
            "verdicts": [asdict(verdict) for verdict in self.verdicts],
        }
        with replacing(Path(path)) as temporary:
            temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False), encoding="utf-8")
