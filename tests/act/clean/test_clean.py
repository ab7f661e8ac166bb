"""Cleaning: what is flagged and why, and that nothing else of the file changes."""

import gzip
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import assay
from assay.act.clean import flag, nearest, write_without
from assay.errors import DataError, InputError
from assay.provenance import Provenance
from assay.values import Values

X = np.array([[0.0, 0], [0.1, 0], [0, 0.1], [5, 5], [5.1, 5], [5, 5.1], [0.1, 0.1], [5.1, 5.1]])
Y = np.array(["a", "a", "b", "b", "b", "b", "a", "a"])  # rows 2 and 7 lie among the others
TRAIN = assay.read((X, Y))


def values(array: list[float], stderr: list[float] | None = None) -> Values:
    error = None if stderr is None else np.array(stderr)
    return Values.of(np.array(array), TRAIN, Provenance(method="m", parameters={}, unit="arbitrary"), error)


def test_the_lowest_are_flagged_with_reasons() -> None:
    found = flag(values([3, 2, -1, 4, 5, 6, 1, -2.0], [0.1] * 8), TRAIN, 0.25)
    assert found["row"].tolist() == [7, 2]
    assert found["rank"].tolist() == [1, 2]
    assert found["label"].tolist() == ["a", "b"]
    assert found["lowest"].min() > 0.99
    assert found["same_label"].tolist() == pytest.approx([3 / 7, 3 / 7])
    assert "value -2 ± 0.1, rank 1 from below of 8" in found["why"][0]
    assert "share its label 'a'" in found["why"][0]
    below = flag(values([3, 2, -1, 4, 5, 6, 1, 2.0]), None, 1.0, below=0)
    assert below["row"].tolist() == [2]
    assert "stderr" not in below
    assert len(flag(values([1.0] * 8), TRAIN, 1.0, below=0)) == 0


def test_what_is_refused() -> None:
    given = values([0.0] * 8)
    for share in (0, -0.1, 1.5):
        with pytest.raises(InputError, match="share"):
            flag(given, TRAIN, share)
    with pytest.raises(InputError, match="other ids"):
        flag(given, TRAIN[:7], 0.1)


def test_nearest_rows_are_by_standardised_features() -> None:
    (one,) = nearest(TRAIN, [2], 3)
    assert set(one.others) == {0, 1, 6}
    scaled = (X - X.mean(0)) / X.std(0)
    assert one.distances == pytest.approx(sorted(np.linalg.norm(scaled[2] - scaled[list(one.others)], axis=1)))
    twins = assay.read((np.zeros((4, 2)), np.zeros(4)))
    assert 1 not in nearest(twins, [1], 3)[0].others
    assert nearest(assay.read([{"text": "a"}, {"text": "b"}]), [0]) == []


CSV = 'id,x,y\r\na,1,"two\r\nlines"\r\n\r\nb,"2",p\r\nc,3,q\r\n'


def test_lines_stay_as_they_are(tmp_path: Path) -> None:
    source = tmp_path / "d.csv"
    source.write_bytes(CSV.encode())
    write_without(source, tmp_path / "e.csv", {1})
    assert (tmp_path / "e.csv").read_bytes() == CSV.replace('b,"2",p\r\n', "").encode()
    write_without(source, tmp_path / "f.csv", {0, 2})
    assert (tmp_path / "f.csv").read_bytes() == b'id,x,y\r\n\r\nb,"2",p\r\n'
    assert source.read_bytes() == CSV.encode()
    lines = tmp_path / "d.jsonl"
    lines.write_text('{"a": 1}\n\n{"a":2}\n{"a": 3}', "utf-8")
    write_without(lines, tmp_path / "e.jsonl", {1})
    assert (tmp_path / "e.jsonl").read_text("utf-8") == '{"a": 1}\n\n{"a": 3}'


def test_the_rows_left_out_are_those_that_were_read(tmp_path: Path) -> None:
    """Positions mean the same to the reader and the writer, in every format."""
    frame = pd.DataFrame({"x": [1.0, 2, 3, 4], "k": ["u", "v", "w", "z"], "y": [0, 1, 0, 1]})
    frame.to_csv(tmp_path / "d.csv", index=False)
    frame.to_csv(tmp_path / "d.tsv", index=False, sep="\t")
    frame.to_parquet(tmp_path / "d.parquet")
    frame.to_json(tmp_path / "d.jsonl", orient="records", lines=True)
    (tmp_path / "d.json").write_text(json.dumps(frame.to_dict("records")), "utf-8")
    for suffix in ("csv", "tsv", "parquet", "jsonl", "json"):
        source, out = tmp_path / f"d.{suffix}", tmp_path / f"cleaned.{suffix}"
        before = assay.read(source, label="y")
        after = assay.read(write_without(source, out, {1, 2}), label="y")
        assert after.matrix().X.to_numpy().tolist() == before.select([0, 3]).matrix().X.to_numpy().tolist()
        assert list(after.labels) == [0, 1]


def test_nothing_is_overwritten_and_nothing_half_written(tmp_path: Path) -> None:
    source = tmp_path / "d.csv"
    source.write_text("x,y\n1,2\n", "utf-8")
    for out in (source, tmp_path / "e.jsonl"):
        with pytest.raises(InputError):
            write_without(source, out, {0})
    with pytest.raises(DataError, match="holds 1 rows"):
        write_without(source, tmp_path / "e.csv", {5})
    with gzip.open(tmp_path / "d.csv.gz", "wt") as file:
        file.write("x\n1\n")
    with pytest.raises(InputError, match="compressed"):
        write_without(tmp_path / "d.csv.gz", tmp_path / "e.csv", set())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d.csv", "d.csv.gz"]
