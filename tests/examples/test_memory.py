"""Objects in memory give the same examples as files with the same rows."""

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from assay.errors import DataError
from assay.examples import read

ROWS = [{"text": f"text {n}", "id": f"r{n}", "source": "s", "label": n % 2, "more": n} for n in range(5)]


class Texts(torch.utils.data.Dataset):
    def __len__(self):
        return len(ROWS)

    def __getitem__(self, index):
        return ROWS[index]


SOURCES = {
    "list": lambda: list(ROWS),
    "tuple": lambda: tuple(ROWS),
    "generator": lambda: (row for row in ROWS),
    "DataFrame": lambda: pd.DataFrame(ROWS, index=list("vwxyz")),
    "Table": lambda: pa.Table.from_pylist(ROWS),
    "chunked Table": lambda: pa.concat_tables(pa.Table.from_pylist([row]) for row in ROWS),
    "RecordBatch": lambda: pa.RecordBatch.from_pylist(ROWS),
    "Dataset": lambda: datasets.Dataset.from_list(ROWS),
    "formatted Dataset": lambda: datasets.Dataset.from_list(ROWS).with_format("torch"),
    "permuted Dataset": lambda: datasets.Dataset.from_list(ROWS[::-1]).select(range(4, -1, -1)),
    "IterableDataset": lambda: datasets.Dataset.from_list(ROWS).to_iterable_dataset(),
    "torch Dataset": Texts,
}


@pytest.mark.parametrize("name", SOURCES)
def test_every_object_gives_the_same_examples(name):
    examples = read(SOURCES[name]())
    assert list(examples) == list(read(ROWS))
    assert examples.fingerprint() == read(ROWS).fingerprint()
    assert list(examples.labels) == [0, 1, 0, 1, 0]
    assert list(read(SOURCES[name](), limit=2).ids) == ["r0", "r1"]


@pytest.mark.parametrize("name", ["list", "DataFrame", "Table", "Dataset"])
def test_missing_fields_name_row_and_columns(name):
    with pytest.raises(DataError, match=r"row 1 has no usable fields; found: .*more.*expected 'body'"):
        read(SOURCES[name](), text="body")
    frame = pd.DataFrame({"only": [1, 2]})
    for source in (frame, pa.Table.from_pandas(frame), datasets.Dataset.from_pandas(frame)):
        with pytest.raises(DataError, match="row 1 has no usable fields; found: only; expected 'text'"):
            read(source)


def test_strings_are_texts_and_rows_are_numbered():
    examples = read(["a", "b"])
    assert list(examples.texts) == ["a", "b"]
    assert list(examples.ids) == ["row:1", "row:2"]
    assert list(read(["a"], name="query").ids) == ["query:1"]
    assert read(["a"], text="body").texts[0] == "a"


def test_missing_values_of_pandas_are_none():
    frame = pd.DataFrame({"text": ["a", "b"], "source": ["s", np.nan], "label": [1.0, np.nan], "id": [pd.NA, "x"]})
    examples = read(frame)
    assert list(examples.sources) == ["s", None]
    assert list(examples.labels) == [1.0, None]
    assert list(examples.ids) == ["row:1", "x"]
    with pytest.raises(DataError, match=r"DataFrame row 2 has no usable fields; found: text \(null\)"):
        read(pd.DataFrame({"text": ["a", None]}))


def test_numpy_and_torch_scalars_are_labels_and_ids():
    examples = read([{"text": "a", "label": np.int64(3), "id": np.int64(7)}, {"text": "b", "label": torch.tensor(1)}])
    assert list(examples.labels) == [3, 1]
    assert list(examples.ids) == ["7", "row:2"]


def test_examples_are_returned_as_they_are():
    examples = read(ROWS)
    assert read(examples) is examples
    assert list(read(examples, limit=2).ids) == ["r0", "r1"]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (5, "Cannot read examples from a int"),
        (b"bytes", "Cannot read examples from a bytes"),
        ({"text": ["a"]}, "Cannot read examples from a dict"),
        (None, "Cannot read examples from a NoneType"),
        ([], "list holds no rows"),
        (pd.DataFrame({"text": []}), "DataFrame holds no rows"),
        ([{"text": "a"}, 5], "list row 2 is a int; expected a dict"),
        (datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)}), r"several splits \(train\); give one"),
        (pd.DataFrame([["a", "b"]], columns=["text", "text"]), "the column 'text' appears twice"),
        ([{"text": "a", "id": 1}, {"text": "b", "id": "1"}], "list row 2 has the id '1', as has row 1"),
    ],
)
def test_objects_that_cannot_be_read(source, said):
    with pytest.raises(DataError, match=said):
        read(source)
