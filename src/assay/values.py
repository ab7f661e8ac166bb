"""Values: what each training example is worth for a goal, with a standard error where there is one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
from jaxtyping import Float, Float64

from assay.errors import InputError
from assay.examples import Examples
from assay.provenance import Provenance
from assay.ranking import check_finite, check_k, membership
from assay.results import Result, read_columns, read_table, write_columns, write_table
from assay.run_directory import Run, Writer, corrupt
from assay.tables import Table

OWN = ("train_id", "value", "stderr")


@dataclass(frozen=True, eq=False, kw_only=True)
class Values(Result):
    """`array[i]`, float64 [n]: the value of training example i; higher = worth more for the goal.

    `stderr` is the standard error of each value (None: the method is deterministic), `raw` the method's
    further numbers per example, by name.
    """

    kind: ClassVar[str] = "values"

    array: Float64[np.ndarray, " n"]
    stderr: Float64[np.ndarray, " n"] | None = None
    raw: Mapping[str, np.ndarray] = field(default_factory=dict[str, np.ndarray])

    def __post_init__(self) -> None:
        super().__post_init__()
        if taken := set(OWN) & set(self.raw):
            raise InputError(f"Raw columns cannot be called {sorted(taken)}; choose other names.")
        for name, column in self._numbers().items():
            if column.shape != (len(self.train),):
                raise InputError(
                    f"'{name}' has shape {column.shape} for {len(self.train)} training examples; "
                    "expected one number each."
                )
        check_finite(self.array)

    @classmethod
    def of(
        cls,
        array: Float[np.ndarray, " n"],
        train: Examples | Table,
        provenance: Provenance,
        stderr: Float[np.ndarray, " n"] | None = None,
        raw: Mapping[str, np.ndarray] | None = None,
    ) -> Self:
        """From one number per example, and the examples themselves or a table of them."""
        return cls(
            array=np.asarray(array, dtype=np.float64),
            stderr=None if stderr is None else np.asarray(stderr, dtype=np.float64),
            raw=dict(raw or {}),
            train=train if isinstance(train, Table) else Table.of(train),
            provenance=provenance,
        )

    @property
    def ids(self) -> Sequence[str]:
        """Ids of the training examples, in their order."""
        return self.train.ids

    @property
    def sources(self) -> Sequence[str | None]:
        """Their sources."""
        return self.train.sources

    @property
    def texts(self) -> Sequence[str]:
        """Their texts."""
        return self.train.texts

    def top(self, k: int = 10) -> pd.DataFrame:
        """The k highest values, highest first, then the k lowest, lowest first.

        Columns rank (from 1 on each side), train_id, value, stderr (if there is one), side ("highest" or
        "lowest"), source, text. Equal values come in the order of the training data. Of fewer than 2k
        examples some are on both sides.
        """
        check_k(k)
        ends = {"highest": np.argsort(-self.array, kind="stable"), "lowest": np.argsort(self.array, kind="stable")}
        sides = {side: rows[:k] for side, rows in ends.items()}
        rows = np.concatenate(list(sides.values()))
        own = {name: column[rows] for name, column in self._numbers().items() if name in OWN}
        lines: list[int] = rows.tolist()
        return pd.DataFrame(
            {
                "rank": np.concatenate([np.arange(1, len(side) + 1) for side in sides.values()]),
                "train_id": [self.ids[line] for line in lines],
                **own,
                "side": [side for side, rows in sides.items() for _ in rows],
                "source": pd.Series([self.sources[line] for line in lines], dtype=object),
                "text": [self.texts[line] for line in lines],
            }
        )

    def confidence(self, k: int | None = None) -> pd.DataFrame:
        """How sure the ranking is: the probability of each example to be among the k highest, and the k lowest.

        Columns train_id, value, stderr, highest, lowest; one line per example. Values are taken as normal and independent
        with their standard errors; without these every probability is 0 or 1. `k`: a tenth of the examples by default.
        """
        k = max(1, len(self.array) // 10) if k is None else k
        stderr = np.zeros(len(self.array)) if self.stderr is None else self.stderr
        highest, lowest = membership(self.array, stderr, k), membership(-self.array, stderr, k)
        return pd.DataFrame(
            {"train_id": list(self.ids), "value": self.array, "stderr": stderr, "highest": highest, "lowest": lowest}
        )

    def to_frame(self) -> pd.DataFrame:
        """Columns train_id, value, stderr (if there is one) and the raw ones; one line per example."""
        return pd.DataFrame({"train_id": list(self.ids), **self._numbers()})

    def _numbers(self) -> dict[str, np.ndarray]:
        stderr = {} if self.stderr is None else {"stderr": self.stderr}
        return {"value": self.array, **stderr, **self.raw}

    def _writers(self) -> dict[str, Writer]:
        columns: dict[str, Any] = {"train_id": list(self.ids), **self._numbers()}
        return {"values.parquet": partial(write_columns, columns), "train.parquet": partial(write_table, self.train)}

    @classmethod
    def from_run(cls, run: Run) -> Self:
        """Read the files of an opened run of values."""
        train = read_table(run, "train.parquet", run.count("n_train"))
        columns = read_columns(run, "values.parquet")
        if columns.pop("train_id").to_pylist() != list(train.ids):
            raise corrupt(run.directory / "values.parquet", "its ids are not those of train.parquet")
        arrays = {name: column.to_numpy(zero_copy_only=False) for name, column in columns.items()}
        return cls(
            array=arrays.pop("value"),
            stderr=arrays.pop("stderr", None),
            raw=arrays,
            train=train,
            provenance=run.provenance(),
            evidence=run.evidence(),
        )
