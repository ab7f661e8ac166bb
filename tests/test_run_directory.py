import errno
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import assay.examples as examples
from assay import run_directory
from assay.errors import InputError, StorageError
from assay.provenance import Provenance
from assay.ranking import TopK
from assay.run_directory import replacing
from assay.runs import load_run
from assay.scores import Scores
from assay.values import Values

TRAIN = examples.read([{"id": name, "text": f"text {name}"} for name in "abc"])
QUERIES = examples.read([{"id": "q", "text": "query"}])
PROVENANCE = Provenance(method="m", parameters={}, unit="arbitrary")


def dense(number: float = 1.0) -> Scores:
    return Scores.of(np.full((3, 1), number, np.float32), TRAIN, QUERIES, PROVENANCE)


def top() -> Scores:
    return Scores.of(TopK.of_columns([np.array([1.0, -1.0, 2.0])], 2), TRAIN, QUERIES, PROVENANCE)


def values() -> Values:
    return Values.of(np.arange(3.0), TRAIN, PROVENANCE)


def edit(directory: Path, **entries: Any) -> None:
    path = directory / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


@pytest.mark.parametrize("make", [dense, top, values])
def test_load_run_finds_the_kind(make: Any, tmp_path: Path) -> None:
    make().save(tmp_path)
    assert type(load_run(tmp_path)) is type(make())


def test_no_run_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a directory"):
        load_run(tmp_path / "missing")
    with pytest.raises(InputError, match=r"no run\.json"):
        load_run(tmp_path)


def test_another_kind(tmp_path: Path) -> None:
    values().save(tmp_path)
    with pytest.raises(InputError, match="'values'; expected 'scores'"):
        Scores.load(tmp_path)
    edit(tmp_path, kind="poems")
    with pytest.raises(InputError, match="'poems'"):
        load_run(tmp_path)


@pytest.mark.parametrize("version", [2, "1", None])
def test_a_newer_or_strange_version(version: Any, tmp_path: Path) -> None:
    dense().save(tmp_path)
    edit(tmp_path, version=version)
    with pytest.raises(InputError, match=r"format version .* Update"):
        load_run(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"format": "other"}', "[" * 100_000, "\x00"])
def test_a_broken_manifest(text: str, tmp_path: Path) -> None:
    dense().save(tmp_path)
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(InputError, match=r"run\.json"):
        load_run(tmp_path)


@pytest.mark.parametrize("make", [dense, top, values])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_file_is_named(make: Any, damage: str, tmp_path: Path) -> None:
    make().save(tmp_path)
    files = [path for path in tmp_path.iterdir() if path.name != "run.json"]
    for path in files:
        content = path.read_bytes()
        if damage == "remove":
            path.unlink()
        elif damage == "cut":
            path.write_bytes(content[:-1])
        else:
            path.write_bytes(content[:50] + bytes([content[50] ^ 1]) + content[51:])
        with pytest.raises(InputError, match=path.name):
            load_run(tmp_path)
        path.write_bytes(content)
    load_run(tmp_path)


@pytest.mark.parametrize(
    "entries",
    [{"n_train": 2}, {"n_train": "3"}, {"n_query": -1}, {"k": 1}, {"files": {}}, {"evidence": 3}, {"parameters": None},
     {"notes": 3}, {"layout": "dense"}],
)  # fmt: skip
def test_a_manifest_that_does_not_fit_its_files(entries: dict[str, Any], tmp_path: Path) -> None:
    top().save(tmp_path)
    edit(tmp_path, **entries)
    with pytest.raises(InputError, match="damaged"):
        load_run(tmp_path)


def test_saving_again_replaces_the_run_and_leaves_other_files(tmp_path: Path) -> None:
    dense().save(tmp_path)
    (tmp_path / "page.html").write_text("mine")
    top().save(tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"run.json", "scores.parquet", "train.parquet", "queries.parquet", "page.html"}
    values().save(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"run.json", "values.parquet", "train.parquet", "page.html"}
    assert isinstance(load_run(tmp_path), Values)


@pytest.mark.parametrize("fails", ["scores.safetensors", "train.parquet", "queries.parquet"])
def test_a_full_disk_leaves_the_earlier_run_whole(fails: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    dense(1.0).save(tmp_path)
    describe = run_directory.describe

    def full(path: Path) -> Any:
        if path.name == fails:
            raise OSError(errno.ENOSPC, "No space left on device")
        return describe(path)

    with monkeypatch.context() as patch:
        patch.setattr(run_directory, "describe", full)
        with pytest.raises(StorageError, match="disk is full"):
            dense(2.0).save(tmp_path)
    back = Scores.load(tmp_path)
    assert back.array.tolist() == [[1.0]] * 3
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize("renamed", range(4))
def test_a_kill_between_two_renames_never_looks_complete(
    renamed: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    dense(1.0).save(tmp_path)
    finish, done = run_directory._finish, []

    def killed(temporary: Path, path: Path) -> None:
        if len(done) == renamed:
            raise KeyboardInterrupt
        done.append(path)
        finish(temporary, path)

    with monkeypatch.context() as patch:
        patch.setattr(run_directory, "_finish", killed)
        with pytest.raises(KeyboardInterrupt):
            dense(2.0).save(tmp_path)
    with pytest.raises(InputError, match="never completed"):
        load_run(tmp_path)
    dense(3.0).save(tmp_path)
    assert Scores.load(tmp_path).array.tolist() == [[3.0]] * 3


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="Cannot write"):
        dense().save(tmp_path / "file" / "run")
    with pytest.raises(StorageError, match="Cannot write"):
        dense().to_csv(tmp_path / "file" / "a.csv")


def test_replacing_keeps_the_old_file_after_an_exception(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail_halfway() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_halfway()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    with replacing(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new"
