"""What `Scores` and `Values` share: provenance, evidence, export, and the run directory."""

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from assay.errors import InputError
from assay.jsonable import jsonable
from assay.provenance import Provenance
from assay.run_directory import FORMAT, VERSION, Run, Writer, corrupt, open_run, replacing, write_run
from assay.tables import RESERVED, Table

arrow, parquet = cast(Any, pa), cast(Any, pq)  # pyarrow carries no types


@dataclass(frozen=True, eq=False, kw_only=True)
class Result(ABC):
    """Immutable; `evidence` holds what speaks for or against the result (JSON values, by name)."""

    kind: ClassVar[str]

    provenance: Provenance
    train: Table
    evidence: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        object.__setattr__(self, "evidence", jsonable(self.evidence))

    @property
    def method(self) -> str:
        """The method's name."""
        return self.provenance.method

    @property
    def unit(self) -> str:
        """What a number of 1 means; "arbitrary" where only the order means something."""
        return self.provenance.unit

    @property
    def coverage(self) -> float | None:
        """Share of the model's parameters that took part; None for methods that use no parameters."""
        return self.provenance.coverage

    def with_evidence(self, **evidence: Any) -> Self:
        """The same result with further evidence attached, such as `agreement={...}`."""
        return replace(self, evidence={**self.evidence, **evidence})

    @abstractmethod
    def to_frame(self) -> pd.DataFrame:
        """The whole result, one line per number."""

    def to_parquet(self, path: str | os.PathLike[str]) -> None:
        """Write `to_frame()` as Parquet."""
        with replacing(path) as temporary:
            cast(Any, self.to_frame()).to_parquet(temporary, index=False)

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write `to_frame()` as CSV."""
        with replacing(path) as temporary:
            cast(Any, self.to_frame()).to_csv(temporary, index=False)

    def to_jsonl(self, path: str | os.PathLike[str]) -> None:
        """Write `to_frame()` as one JSON object a line; what is missing is null."""
        with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
            for record in cast(Any, self.to_frame()).astype(object).to_dict("records"):
                known = {name: None if value is pd.NA else value for name, value in record.items()}
                file.write(json.dumps(jsonable(known), ensure_ascii=False) + "\n")

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Write the run directory; an earlier run there is replaced, other files in it are left alone.

        Raises StorageError if it cannot be written; then an earlier run is still whole.
        """
        write_run(directory, self._manifest(), self._writers())

    @classmethod
    def load(cls, directory: str | os.PathLike[str]) -> Self:
        """Read what `save` wrote.

        Raises InputError if the directory holds no complete run, a run of another kind, of a newer format
        version, or a damaged one.
        """
        run = open_run(directory)
        if run.kind != cls.kind:
            raise InputError(f"{directory} holds a run of kind {run.kind!r}; expected {cls.kind!r}. Try load_run.")
        return cls.from_run(run)

    @classmethod
    @abstractmethod
    def from_run(cls, run: Run) -> Self:
        """Read the files of an opened run of this kind."""

    @abstractmethod
    def _writers(self) -> dict[str, Writer]:
        """How to write each file."""

    def _manifest(self) -> dict[str, Any]:
        head = {"format": FORMAT, "version": VERSION, "kind": self.kind, "n_train": self.train.total}
        return {**head, **self.provenance.entries(), "evidence": self.evidence}


def write_table(table: Table, path: Path) -> None:
    """Columns row, id, source, text and the table's own."""
    columns = {
        "row": arrow.array(table.rows),
        "id": arrow.array(list(table.ids), arrow.large_string()),
        "source": arrow.array(list(table.sources), arrow.large_string()),
        "text": arrow.array(list(table.texts), arrow.large_string()),
    }
    write_columns({**columns, **table.columns}, path)


def read_table(run: Run, name: str, total: int) -> Table:
    """What `write_table` wrote, of a data set of `total` rows."""
    columns = read_columns(run, name)
    rows = columns["row"].to_numpy()
    if len(rows) and (rows[-1] >= total or rows[0] < 0 or (rows[1:] <= rows[:-1]).any()):
        raise corrupt(run.directory / name, f"its rows are not ascending positions below {total}")
    own = {key: column.to_pylist() for key, column in columns.items() if key not in RESERVED}
    ids, sources, texts = (columns[key].to_pylist() for key in ("id", "source", "text"))
    return Table(ids, sources, texts, rows, total, own)


def write_columns(columns: Mapping[str, Any], path: Path) -> None:
    """Write a Parquet file of these columns."""
    parquet.write_table(arrow.table(dict(columns)), path)


def read_columns(run: Run, name: str) -> dict[str, Any]:
    """The columns of one of the run's Parquet files, by name."""
    path = run.path(name)
    try:
        table = parquet.read_table(path, partitioning=None)
    except (arrow.ArrowException, OSError) as error:
        raise corrupt(path, str(error)) from error
    return {key: table.column(key).combine_chunks() for key in table.column_names}
