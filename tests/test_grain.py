from pathlib import Path

import numpy as np
import pytest

from assay.errors import InputError
from assay.grain import Fold, Parts
from assay.provenance import Provenance
from assay.scores import Scores
from assay.tables import Table


def table(*ids: str) -> Table:
    return Table(ids, [None] * len(ids), [f"text of {i}" for i in ids], np.arange(len(ids)), len(ids))


def fold(query: str, train: str, by: str, names: list[str], scores: list[float]) -> Fold:
    ends = np.cumsum([len(name) for name in names]).astype(np.int64)
    return Fold(query, train, by, names, np.array(scores), np.concatenate([[0], ends[:-1]]).astype(np.int64), ends)


PARTS = Parts(
    [
        fold("q", "a", "loss-token", ["one", " two", " three"], [0.25, -2.0, 1.0]),
        fold("q", "a", "module", ["m", "n"], [-1.0, 0.25]),
        fold("q", "b", "module", ["m", "n"], [3.0, 0.5]),
    ]
)


def test_parts_are_found_and_listed() -> None:
    assert PARTS.pairs == [("q", "a"), ("q", "b")]
    assert PARTS.by == ("loss-token", "module")
    assert PARTS.of("q", "a", "loss-token").total == PARTS.of("q", "a", "module").total == -0.75
    assert PARTS.of("q", "a", "loss-token").top(2)["name"].tolist() == [" two", " three"]
    frame = PARTS.to_frame()
    assert frame.columns.tolist() == ["query_id", "train_id", "by", "part", "name", "start", "end", "score"]
    assert (len(frame), frame["score"].sum()) == (7, 2.0)
    assert PARTS.to_dict()["q", "b", "module"] == {"names": ["m", "n"], "scores": [3.0, 0.5], "total": 3.5}
    with pytest.raises(InputError, match=r"no parts by 'layer' .* parts by loss-token, module of 2 pairs"):
        PARTS.of("q", "a", "layer")
    assert Parts().to_frame().empty


def test_a_run_keeps_them_and_tells_damage(tmp_path: Path) -> None:
    scores = Scores(
        entries=np.array([[-0.75], [3.5]], np.float32),
        train=table("a", "b"),
        queries=table("q"),
        provenance=Provenance(method="graddot", parameters={}, unit="arbitrary"),
        parts=PARTS,
    )
    scores.save(tmp_path)
    back = Scores.load(tmp_path).parts
    assert back is not None
    assert back.to_frame().equals(PARTS.to_frame())
    assert scores.pairs(1) == [(1, 0), (0, 0)]
    (tmp_path / "parts.parquet").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"damaged at .*parts\.parquet"):
        Scores.load(tmp_path)


def test_half_of_a_surrogate_pair_is_written_as_a_question_mark(tmp_path: Path) -> None:
    Parts([fold("q", "a", "loss-token", ["\ud800"], [1.0])]).write(tmp_path / "parts.parquet")
