"""Selecting, lazy fields and fingerprints; and what lies in memory while rows are streamed."""

import errno
import gc
import json
import os
import tracemalloc

import numpy as np
import pyarrow as pa
import pytest

from assay.errors import DataError, StorageError
from assay.examples import read, table

ROWS = [{"text": f"text {n}", "id": f"r{n}", "source": f"s{n % 3}", "label": n % 2} for n in range(10)]


@pytest.fixture
def small_blocks(monkeypatch, tmp_path):
    """Rows move to a file in this folder after a few hundred bytes, seven at a time."""
    spool = tmp_path / "spool"
    spool.mkdir()
    monkeypatch.setattr(table, "SPOOL_ABOVE", 500)
    monkeypatch.setattr(table, "BATCH_ROWS", 7)
    monkeypatch.setattr(table.tempfile, "tempdir", str(spool))
    return spool


def test_positions():
    examples = read(ROWS)
    assert examples[-1].id == "r9"
    assert examples[np.int64(3)].id == "r3"
    for wrong in (10, -11):
        with pytest.raises(IndexError, match="outside the 10 examples"):
            examples[wrong]
        with pytest.raises(IndexError, match="outside the 10 examples"):
            examples.ids[wrong]
        with pytest.raises(IndexError, match="outside the 10 examples"):
            examples.select([0, wrong])
    with pytest.raises(TypeError):
        examples[1.0]


def test_select_and_slices_compose():
    examples = read(ROWS)
    odd = examples.select([9, 7, 5, 3, 1])
    assert list(odd.ids) == ["r9", "r7", "r5", "r3", "r1"]
    assert list(odd.select([-1, 0]).ids) == ["r1", "r9"]
    assert list(odd[1:3].texts) == ["text 7", "text 5"]
    assert list(examples[::-1].sources)[:2] == ["s0", "s2"]
    mask = np.array([n % 5 == 0 for n in range(10)])
    assert list(examples.select(mask).labels) == [0, 1]
    assert len(examples.select([])) == 0
    assert list(examples.select(np.array([], dtype=float))) == []
    assert list(examples) == [examples[i] for i in range(10)]
    for wrong in (np.array([0.5]), np.array([[1]]), np.array([True])):
        with pytest.raises(IndexError):
            examples.select(wrong)


def test_fields_are_sequences():
    examples = read(ROWS)
    assert len(examples.ids) == 10
    assert examples.ids[1:3] == ["r1", "r2"]
    assert examples.ids[-1] == "r9"
    assert "r4" in examples.ids
    assert examples.ids.index("r4") == 4
    assert repr(examples.labels) == "[0, 1, 0, ...]"
    assert repr(examples) == "Examples(10 of kind 'text' from 'list')"


def test_the_fingerprint_follows_ids_text_labels_and_order():
    original = read(ROWS).fingerprint()
    assert read([dict(row) for row in ROWS]).fingerprint() == original
    assert read(ROWS)[:].fingerprint() == original
    assert read([{**row, "source": "other"} for row in ROWS]).fingerprint() == original
    changed = [
        ROWS[::-1],
        ROWS[:9],
        [{**row, "text": row["text"] + " "} for row in ROWS],
        [{**row, "id": row["id"] + "x"} for row in ROWS],
        [{**row, "label": str(row["label"])} for row in ROWS],
        [{"id": row["id"], "label": row["label"], "prompt": "", "completion": row["text"]} for row in ROWS],
    ]
    prints = {read(rows).fingerprint() for rows in changed}
    assert len(prints) == len(changed)
    assert original not in prints


def test_the_fingerprint_sees_where_a_field_ends():
    one, two = {"id": "i", "prompt": "ab", "completion": "c"}, {"id": "i", "prompt": "a", "completion": "bc"}
    assert read([one]).fingerprint() != read([two]).fingerprint()


@pytest.mark.parametrize("kind", ["text", "completion", "messages"])
def test_spooled_rows_equal_rows_in_memory(tmp_path, small_blocks, monkeypatch, kind):
    content = {
        "text": lambda n: {"text": f"text {n} é" * (n % 5 + 1)},
        "completion": lambda n: {"prompt": f"p{n}", "completion": f"c{n}"},
        "messages": lambda n: {"messages": [{"role": "user", "content": f"m{n}"}] * (n % 3 + 1)},
    }[kind]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({**content(n), "label": n}) + "\n" for n in range(100)))
    spooled = read(path)
    assert not list(small_blocks.iterdir())  # unlinked once mapped
    monkeypatch.setattr(table, "SPOOL_ABOVE", 2**30)
    kept = read(path)
    assert list(spooled) == list(kept)
    assert [spooled[i] for i in (0, 6, 7, 50, 99)] == [kept[i] for i in (0, 6, 7, 50, 99)]
    assert spooled.fingerprint() == kept.fingerprint()
    assert list(spooled.texts) == list(kept.texts)
    assert spooled.texts[33] == kept.texts[33]


def test_memory_stays_flat_in_the_rows(tmp_path, monkeypatch):
    """Four times the rows need the same memory while reading, and afterwards Arrow holds none of them."""
    monkeypatch.setattr(table, "SPOOL_ABOVE", 2**18)
    monkeypatch.setattr(table, "BATCH_BYTES", 2**17)
    line = json.dumps({"text": "word " * 200}) + "\n"
    read([{"text": "loads what reading imports"}])
    peaks = []
    for count in (1_000, 4_000):
        path = tmp_path / "rows.jsonl"
        path.write_text(line * count)
        gc.collect()
        before = pa.total_allocated_bytes()
        tracemalloc.start()
        examples = read(path)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert pa.total_allocated_bytes() - before < 2**16
        assert len(examples) == count
        assert sum(text.startswith("word") for text in examples.texts) == count
    small, large = peaks
    assert large < small + 2**17  # far below the 3 MB of rows more


def test_a_failure_leaves_no_temporary_file(tmp_path, small_blocks):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "some words to fill it"}\n' * 100 + "broken\n")
    with pytest.raises(DataError, match="line 101"):
        read(path)
    assert not list(small_blocks.iterdir())


def test_a_full_disk_is_named(tmp_path, small_blocks, monkeypatch):
    class Full:
        def write_batch(self, batch):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def close(self):
            pass

    monkeypatch.setattr(table.pa.ipc, "new_file", lambda path, schema: Full())
    with pytest.raises(StorageError, match=rf"{small_blocks} failed.*No space left.*TMPDIR"):
        read([{"text": "some words to fill it"}] * 100)
    assert not list(small_blocks.iterdir())


def test_duplicate_ids_are_found_across_blocks(small_blocks):
    rows = [{"text": "some words", "id": n} for n in range(60)]
    rows[55]["id"] = 3
    rows[58]["id"] = 2
    with pytest.raises(DataError, match="list row 56 has the id '3', as has row 4"):
        read(rows)


def test_equal_hashes_of_different_ids_are_no_duplicates(monkeypatch):
    monkeypatch.setattr(table, "hash", lambda value: 1, raising=False)
    assert len(read(ROWS)) == 10


def test_a_contrast_beside_a_completion() -> None:
    rows = [{"prompt": "a", "completion": "b", "contrast": "c"}, {"prompt": "a", "completion": "b"}]
    found = read(rows)
    assert dict(found[0].data) == rows[0]
    assert dict(found[1].data) == rows[1]
    assert found.texts[0] == "ab"
    plain = read([{"prompt": "a", "completion": "b"}, rows[1]])
    assert found.fingerprint() != plain.fingerprint()
    named = read([{"prompt": "a", "chosen": "b", "rejected": "c"}], completion="chosen", contrast="rejected")
    assert named[0].data["contrast"] == "c"
    assert "contrast" not in read(rows, contrast="rejected")[0].data  # training data need not have it
    with pytest.raises(DataError, match="'contrast' holds only white space"):
        read([{"prompt": "a", "completion": "b", "contrast": " "}])
    assert "contrast" not in read([{"text": "a", "contrast": "b"}])[0].data
