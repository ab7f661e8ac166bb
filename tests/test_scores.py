import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

import assay.examples as examples
import assay.scores
from assay.errors import InputError, NonFiniteError
from assay.provenance import Provenance
from assay.ranking import TopK
from assay.scores import Scores

HOSTILE = [
    "<script>alert('1')</script> & \"quotes\"",
    "line\nbreak\r\nand\ttab, comma; =cmd()",
    "\u202eright-to-left\u202c \u2066isolate\u2069 \u200bzero width",
    "nul \x00 bell \x07 \x1b[31mred",
    "🦜 e\u0301 \U0010ffff \ufeff",
    "x" * 1_000_000,
]
ARRAY = np.array([[1.0, 0.0], [-2.0, 3.0], [1.0, 0.0], [0.0, -1.0], [4.0, 3.0], [-2.0, 0.5]], np.float32)


def provenance(**more: Any) -> Provenance:
    return Provenance(
        method="graddot", parameters={"damping": 0.1, "seeds": (1, 2)}, unit="arbitrary", coverage=0.99,
        train_fingerprint="a1", query_fingerprint="b2", seconds=1.5, peak_memory=7, notes=("one",), **more,
    )  # fmt: skip


def train(texts: list[str] = HOSTILE) -> examples.Examples:
    sources = ["web", None, "web", "book", None, "<b>"]
    return examples.read(
        [{"id": f"t{i} \n<{i}>", "text": t, "source": s} for i, (t, s) in enumerate(zip(texts, sources, strict=True))]
    )


def queries() -> examples.Examples:
    return examples.read([{"id": "q0", "text": "first"}, {"id": "q,1", "text": "second"}])


def dense() -> Scores:
    return Scores.of(ARRAY, train(), queries(), provenance())


def top(k: int = 2) -> Scores:
    return Scores.of(TopK.of_columns(ARRAY.T, k), train(), queries(), provenance())


def test_top_orders_sides_ranks_and_ties() -> None:
    frame = dense().top(2)
    assert list(frame) == ["query_id", "rank", "train_id", "score", "side", "source", "text"]
    rows = [int(train_id[1]) for train_id in frame.train_id]
    assert list(zip(frame.query_id, frame.side, frame["rank"], rows, frame.score, strict=True)) == [
        ("q0", "helpful", 1, 4, 4.0),
        ("q0", "helpful", 2, 0, 1.0),
        ("q0", "harmful", 1, 1, -2.0),
        ("q0", "harmful", 2, 5, -2.0),
        ("q,1", "helpful", 1, 1, 3.0),
        ("q,1", "helpful", 2, 4, 3.0),
        ("q,1", "harmful", 1, 3, -1.0),
    ]
    assert frame.text[0] == HOSTILE[4]
    assert frame.source.tolist() == [None, "web", None, "<b>", None, None, "book"]


@pytest.mark.parametrize("k", [1, 2, 6, 10])
def test_a_top_k_result_shows_what_the_dense_one_shows(k: int) -> None:
    pd.testing.assert_frame_equal(top(k).top(k), dense().top(k))
    pd.testing.assert_frame_equal(top(k).top(1), dense().top(1))


def test_a_top_k_result_has_no_array() -> None:
    with pytest.raises(InputError, match="top=None"):
        _ = top().array
    with pytest.raises(InputError, match="top=None"):
        top().by_source()


def test_by_source_against_a_loop() -> None:
    frame = dense().by_source()
    assert frame["count"].tolist() == [2, 2, 1, 1] * 2
    for line in frame.itertuples():
        query = ["q0", "q,1"].index(line.query_id)
        own = [ARRAY[i, query] for i, source in enumerate(train().sources) if source == line.source]
        assert (line.score, line.mean) == (sum(own), np.mean(own))
    assert frame.source.tolist() == ["web", None, "book", "<b>"] * 2


def test_to_frame_has_every_pair_once() -> None:
    frame = dense().to_frame()
    pairs = {(line.train_id, line.query_id): line for line in frame.itertuples()}
    assert len(pairs) == len(frame) == ARRAY.size
    for i, train_id in enumerate(train().ids):
        for q, query_id in enumerate(queries().ids):
            line = pairs[train_id, query_id]
            assert line.score == ARRAY[i, q]
            assert line.side == {1: "helpful", -1: "harmful", 0: None}[int(np.sign(ARRAY[i, q]))]
            assert pd.isna(line.rank) == (ARRAY[i, q] == 0)


@pytest.mark.parametrize("make", [dense, top])
def test_a_saved_run_comes_back_whole(make: Any, tmp_path: Path) -> None:
    scores = make().with_evidence(check={"mean": np.float64(0.5), "interval": (0.1, 0.9)}, bad=float("nan"))
    scores.save(tmp_path / "runs" / "one")
    back = Scores.load(tmp_path / "runs" / "one")
    assert back.provenance == scores.provenance
    assert back.evidence == {"check": {"mean": 0.5, "interval": [0.1, 0.9]}, "bad": None}
    assert list(back.train.texts) == HOSTILE
    assert list(back.train.sources) == list(train().sources)
    assert (list(back.train_ids), list(back.query_ids)) == (list(train().ids), list(queries().ids))
    pd.testing.assert_frame_equal(back.top(5), scores.top(5))
    pd.testing.assert_frame_equal(back.to_frame(), scores.to_frame())
    assert back.is_dense == scores.is_dense
    if scores.is_dense:
        np.testing.assert_array_equal(back.array, ARRAY)


def test_the_layout_of_a_run(tmp_path: Path) -> None:
    top(2).save(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "run.json", "scores.parquet", "train.parquet", "queries.parquet",
    }  # fmt: skip
    assert pq.read_schema(tmp_path / "scores.parquet").names == ["query_id", "train_id", "score", "rank", "side"]
    manifest = json.loads((tmp_path / "run.json").read_text())
    assert (manifest["format"], manifest["version"], manifest["layout"], manifest["k"]) == ("assay-run", 1, "top-k", 2)
    assert (manifest["n_train"], manifest["n_query"], manifest["sign"]) == (6, 2, "higher = more helpful")
    assert manifest["parameters"] == {"damping": 0.1, "seeds": [1, 2]}
    assert manifest["versions"]["numpy"] == np.__version__


def test_a_dense_array_in_column_order_is_saved_in_row_order(tmp_path: Path) -> None:
    made = Scores.of(np.asfortranarray(ARRAY, dtype=np.float64), train(), queries(), provenance())
    assert made.array.dtype == np.float32
    assert made.array.flags.c_contiguous
    replace(made, entries=np.asfortranarray(ARRAY)).save(tmp_path)
    np.testing.assert_array_equal(Scores.load(tmp_path).array, ARRAY)


def test_a_large_top_k_result_keeps_the_rows_that_appear(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    expected = top(1).top(1)
    monkeypatch.setattr(assay.scores, "KEPT_WHOLE", 5)
    scores = top(1)
    assert (scores.train.rows.tolist(), scores.train.total) == ([1, 3, 4], 6)
    scores.save(tmp_path)
    back = Scores.load(tmp_path)
    assert (back.train.rows.tolist(), back.train.total) == ([1, 3, 4], 6)
    pd.testing.assert_frame_equal(back.top(1), expected)
    assert Scores.of(ARRAY, train(), queries(), provenance()).train.whole


def test_extra_columns_of_queries_are_saved(tmp_path: Path) -> None:
    scores = Scores.of(ARRAY, train(), assay.scores.Table.of(queries(), loss=np.array([0.5, 2.0])), provenance())
    scores.save(tmp_path)
    assert list(Scores.load(tmp_path).queries.columns["loss"]) == [0.5, 2.0]


def test_export(tmp_path: Path) -> None:
    scores = dense()
    scores.to_parquet(tmp_path / "a.parquet")
    scores.to_csv(tmp_path / "a.csv")
    scores.to_jsonl(tmp_path / "a.jsonl")
    expected = scores.to_frame()
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text("utf-8").split("\n")[:-1]]
    assert [line["train_id"] for line in lines] == expected.train_id.tolist()
    assert [line["score"] for line in lines] == expected.score.tolist()
    assert lines[-1]["rank"] is None
    assert lines[0]["rank"] == 1
    for back in (pd.read_parquet(tmp_path / "a.parquet"), pd.read_csv(tmp_path / "a.csv", lineterminator="\n")):
        assert back.train_id.tolist() == expected.train_id.tolist()
        assert back.score.tolist() == expected.score.tolist()
        assert back.side[0] == "helpful"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "a.jsonl", "a.parquet"]


def test_refuses_shapes_and_numbers_that_do_not_fit() -> None:
    with pytest.raises(InputError, match=r"\(2, 6\).*6 training examples and 2 queries"):
        Scores.of(ARRAY.T, train(), queries(), provenance())
    with pytest.raises(InputError, match="6 training examples"):
        Scores.of(TopK.of_columns(ARRAY, 1), train(), queries(), provenance())
    with pytest.raises(NonFiniteError):
        Scores.of(np.where(ARRAY == 4, np.nan, ARRAY), train(), queries(), provenance())
    with pytest.raises(InputError, match="at least 1"):
        dense().top(0)
