"""Arrays and torch datasets: rows, labels, what is refused."""

import hashlib

import numpy as np
import pandas as pd
import pytest
import torch

from assay.errors import DataError
from assay.examples import read
from assay.examples.arrays import content_bytes

X = np.arange(12, dtype=np.float32).reshape(4, 3)
Y = np.array([0, 2, 1, 2])
SOURCES = {
    "numpy": lambda: (X, Y),
    "torch": lambda: (torch.tensor(X), torch.tensor(Y)),
    "lists": lambda: (X.tolist(), Y.tolist()),
    "big-endian": lambda: (X.astype(">f4"), Y.astype(">i8")),
    "pandas": lambda: (pd.DataFrame(X), pd.Series(Y)),
    "TensorDataset": lambda: torch.utils.data.TensorDataset(torch.tensor(X), torch.tensor(Y)),
    "dicts": lambda: Dicts(),
}


class Dicts(torch.utils.data.Dataset):
    def __len__(self):
        return len(X)

    def __getitem__(self, index):
        return {"x": torch.tensor(X[index]), "y": int(Y[index])}


@pytest.mark.parametrize("name", SOURCES)
def test_rows_and_labels(name):
    examples = read(SOURCES[name]())
    assert examples.kind == "arrays"
    assert len(examples) == 4
    assert list(examples.ids) == ["row:1", "row:2", "row:3", "row:4"]
    assert list(examples.labels) == [0, 2, 1, 2]
    assert list(examples.sources) == [None] * 4
    assert all(type(label) is int for label in examples.labels)
    for example, x, y in zip(examples, X, Y, strict=True):
        assert isinstance(example.data["x"], torch.Tensor)
        assert example.data["x"].tolist() == x.tolist()
        assert example.data["y"] == y
    assert examples.texts[1] == ("0=3, 1=4, 2=5 -> 2" if name == "pandas" else "array [3] label 2")
    matrix = examples.select([1, 0]).matrix()
    assert np.asarray(matrix.X).tolist() == X[[1, 0]].tolist()
    assert np.asarray(matrix.y).tolist() == Y[[1, 0]].tolist()
    assert list(examples.select([3, 0]).ids) == ["row:4", "row:1"]
    assert len(read(SOURCES[name](), limit=2)) == 2


@pytest.mark.parametrize("name", ["torch", "big-endian", "pandas", "TensorDataset", "dicts"])
def test_the_fingerprint_depends_on_content_and_not_on_the_library(name):
    assert read(SOURCES[name]()).fingerprint() == read((X, Y)).fingerprint()


def test_the_fingerprint_is_that_of_the_examples_one_by_one():
    rows = read((X, Y))
    digest = hashlib.sha256(b"arrays")
    for example in rows:
        for part in (example.id.encode(), *content_bytes(example.data["x"]), *content_bytes(example.data["y"])):
            digest.update(len(part).to_bytes(8, "little") + part)
    assert rows.fingerprint() == digest.hexdigest()
    assert rows[1:].fingerprint() == read((X, Y)).select(range(1, len(X))).fingerprint() != rows.fingerprint()


def test_the_fingerprint_sees_values_types_shapes_and_targets():
    changed = X.copy()
    changed[2, 1] += 1
    others = [(changed, Y), (X.astype(np.float64), Y), (X[:, :, None], Y), (X, Y.astype(float)), (X, Y[::-1]), X]
    prints = {read(source).fingerprint() for source in [(X, Y), *others]}
    assert len(prints) == 1 + len(others)


def test_targets_that_are_no_classes_are_no_labels():
    numbers = read((X, np.array([0.5, 1.0, 2.0, 3.0])))
    assert numbers[0].data["y"] == 0.5
    assert list(numbers.labels) == [None] * 4
    assert numbers.texts[0] == "array [3] target 0.5"
    vectors = read((X, X))
    assert vectors[1].data["y"].tolist() == [3, 4, 5]
    assert vectors.texts[0] == "array [3] target [3]"
    names = read((X, np.array(["cat", "dog", "cat", "dog"])))
    assert list(names.labels) == ["cat", "dog", "cat", "dog"]
    assert list(read((X, np.array([True, False, True, False]))).labels) == [1, 0, 1, 0]
    alone = read(X)
    assert alone[0].data["y"] is None
    assert alone.texts[0] == "array [3]"


def test_rows_are_copies_that_cannot_change_the_array():
    frozen = X.copy()
    frozen.setflags(write=False)
    row = read((frozen, Y))[0].data["x"]  # warns, which fails the test, if it shared the read-only memory
    row += 1
    assert frozen[0].tolist() == X[0].tolist()


def test_dtypes_stay_as_they_are():
    assert read((X.astype(np.float64), Y))[0].data["x"].dtype == torch.float64
    assert read((torch.tensor(X).bfloat16(), Y))[0].data["x"].dtype == torch.bfloat16
    assert len(read((torch.tensor(X).bfloat16(), Y)).fingerprint()) == 64


def poisoned(value):
    bad = np.zeros((5000, 2))
    bad[4500, 1] = value
    return bad


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ((X, Y[:3]), r"\(X, y\): X has 4 rows and y has 3; expected one y"),
        ((poisoned(np.inf), np.zeros(5000)), r"\(X, y\) row 4501: X holds NaN or infinity"),
        ((torch.tensor(poisoned(np.inf)), None), "row 4501: X holds NaN or infinity"),
        ((X, np.array([1, 2, np.nan, 3])), "row 3: y holds NaN or infinity"),
        ((np.array([["a"], ["b"]]), [0, 1]), "X has dtype <U1; expected numbers"),
        ((np.array([["x", 1], ["y", 2]], dtype=object), [0, 1]), "X has dtype object; expected numbers"),
        (([[1, 2], [3]], [0, 1]), "the rows of X have different shapes"),
        ((X + 1j, Y), "X has dtype complex64"),
        ((torch.tensor(X) + 1j, Y), "X is complex"),
        (np.zeros((0, 3)), "X holds no rows"),
        (np.array(1.0), "X is a single value"),
    ],
)
def test_arrays_that_cannot_be_used(source, said):
    with pytest.raises(DataError, match=said):
        read(source)


def test_a_frame_with_words_is_a_table() -> None:
    rows = read((pd.DataFrame({"a": [1, 2], "b": ["x", "y"]}), [0, 1]))
    assert rows.kind == "table"
    assert len(rows) == 2


class Items(torch.utils.data.Dataset):
    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


@pytest.mark.parametrize(
    ("items", "said"),
    [
        ([], "Items holds no rows"),
        ([(1, 2, 3)], r"Items row 1 is a tuple; expected \(x, y\)"),
        ([(object(), 1)], "Items row 1 holds a object; expected tensors or numbers"),
        ([(torch.tensor([np.nan]), 1)], "Items row 1 holds NaN or infinity"),
    ],
)
def test_items_that_cannot_be_used(items, said):
    with pytest.raises(DataError, match=said):
        read(Items(items))


def test_a_later_item_is_checked_when_it_is_read():
    examples = read(Items([(torch.zeros(2), 0), (torch.tensor([0.0, np.inf]), 1)]))
    assert examples[0].label == 0
    with pytest.raises(DataError, match="Items row 2 holds NaN or infinity"):
        examples[1]


def test_arrays_take_no_columns():
    with pytest.raises(DataError, match="leave out the column names"):
        read((X, Y), label="y")
