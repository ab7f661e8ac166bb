"""Tables with categories, missing values, labels and weights, from files, DataFrames and arrays."""

import numpy as np
import pandas as pd
import pytest
import torch

import assay
from assay.errors import DataError

FRAME = pd.DataFrame({
    "age": [39.0, np.nan, 28.0], "job": ["clerk", "smith", None], "y": ["no", "yes", "no"], "w": [1.0, 2.0, 0.5],
    "id": ["a", "b", "c"], "source": ["s", None, "t"],
})  # fmt: skip
WRITERS = {
    "csv": lambda path: FRAME.to_csv(path, index=False),
    "csv.gz": lambda path: FRAME.to_csv(path, index=False),
    "tsv": lambda path: FRAME.to_csv(path, index=False, sep="\t"),
    "parquet": lambda path: FRAME.to_parquet(path),
    "jsonl": lambda path: FRAME.to_json(path, orient="records", lines=True),
    "json": lambda path: FRAME.to_json(path, orient="records"),
}


@pytest.mark.parametrize("suffix", [*WRITERS, "frame"])
def test_a_table_keeps_its_columns(suffix, tmp_path):
    path = tmp_path / f"t.{suffix}"
    if suffix != "frame":
        WRITERS[suffix](path)
    found = assay.read(FRAME if suffix == "frame" else path, label="y", weight="w")
    assert found.kind == "table"
    assert list(found.ids) == ["a", "b", "c"]
    assert list(found.sources) == ["s", None, "t"]
    assert list(found.labels) == ["no", "yes", "no"]
    assert list(found.texts) == ["age=39, job=clerk -> no", "job=smith -> yes", "age=28 -> no"]
    matrix = found.select([2, 0]).matrix()
    assert list(matrix.X.columns) == ["age", "job"]
    assert matrix.X["age"].tolist() == [28.0, 39.0]
    assert matrix.y.tolist() == ["no", "no"]
    assert matrix.weight.tolist() == [0.5, 1.0]
    assert found.fingerprint() != assay.read(FRAME, label="y").fingerprint()


def test_columns_of_numbers_are_arrays_that_models_take():
    frame = FRAME[["age", "w", "y"]]
    found = assay.read(frame, label="y", limit=2)
    assert found.kind == "arrays"
    assert list(found.ids) == ["row:1", "row:2"]
    torch.testing.assert_close(found[0].data["x"], torch.tensor([39.0, 1.0], dtype=torch.float64))


@pytest.mark.parametrize("X", [FRAME[["age", "job"]], np.array([[1.0, np.nan], [2.0, 3.0], [4.0, 5.0]])])
def test_arrays_with_missing_values_and_weights(X):
    found = assay.read((X, [0, 1, 0], [1, 2, 3]))
    matrix = found.matrix()
    assert matrix.X.shape == (3, 2)
    assert matrix.weight.tolist() == [1, 2, 3]
    assert list(found.labels) == [0, 1, 0]
    assert len(assay.read((X, [0, 1, 0]), limit=1)) == 1


def test_text_stays_text_when_a_label_is_named(tmp_path):
    FRAME.assign(text="hello").to_csv(tmp_path / "t.csv", index=False)
    assert assay.read(tmp_path / "t.csv", label="y").kind == "text"
    with pytest.raises(DataError, match="expected a table"):
        assay.read(tmp_path / "t.csv", label="y").matrix()


@pytest.mark.parametrize(
    ("given", "options", "words"),
    [
        (FRAME, {"label": "mood"}, "no column 'mood', which was named; found: age, job"),
        (FRAME, {"label": "y", "weight": "job"}, "weights are no numbers"),
        (FRAME.assign(y=[1, np.nan, 2]), {"label": "y"}, "row 2: y is missing"),
        (FRAME.assign(age=pd.Timestamp(0)), {"label": "y"}, "'age' holds dates"),
        (FRAME[["y"]], {"label": "y"}, "expected a table with rows and columns"),
        ((FRAME[["age"]], [1, 2]), {}, "X has 3 rows and y has 2"),
        ((FRAME[["age"]], [1, 2, 3], [1, -1, 1]), {}, "finite numbers of at least 0"),
        (["hello"], {"weight": "w"}, "weights belong to tables"),
    ],
)  # fmt: skip
def test_what_is_no_table_is_refused(given, options, words):
    with pytest.raises(DataError, match=words):
        assay.read(given, **options)


def test_a_broken_file_is_refused(tmp_path):
    (tmp_path / "t.csv").write_text('a,y\n"1,2\n')
    with pytest.raises(DataError, match=r"t\.csv"):
        assay.read(tmp_path / "t.csv", label="y")
