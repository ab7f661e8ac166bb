"""Building, resuming after kills, appending, refusing."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from assay.errors import DataError, IndexMismatch, InputError, NonFiniteError, StorageError
from assay.index import Dtype, Writer, default_shard_rows, open_index
from assay.index import format as disk

HEADER = {"model": {"fingerprint": "abc", "layers": [1, 2]}, "task": "causal-lm"}
DIM = 24


def rows(
    count: int, checkpoint: int = 0, start: int = 0, dim: int = DIM
) -> tuple[list[str], Tensor, dict[str, Tensor]]:
    """Ids, features and a statistic of rows start : start + count, each row from its own seed."""
    seeds = range(10_000 * checkpoint + start, 10_000 * checkpoint + start + count)
    both = torch.stack([torch.randn(dim + 1, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
    return [f"é{row}" for row in range(start, start + count)], both[:, :dim], {"loss": both[:, dim]}


def build(
    path: Path,
    count: int,
    *,
    dtype: Dtype = "int8",
    checkpoints: int = 1,
    batch: int = 7,
    shard_rows: int = 10,
    header: Mapping[str, Any] = HEADER,
    stop_after: int | None = None,
) -> None:
    """Build or resume; `stop_after` batches it is left as a kill would leave it."""
    batches = 0
    with Writer(path, header, dtype=dtype, dim=DIM, checkpoints=checkpoints, shard_rows=shard_rows) as writer:
        if writer.complete:
            return
        for checkpoint in range(checkpoints):
            for start in range(writer.done(checkpoint), count, batch):
                if batches == stop_after:
                    return
                writer.add(checkpoint, *rows(min(batch, count - start), checkpoint, start))
                batches += 1
            writer.end(checkpoint)
        writer.finish()


def contents(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


@pytest.mark.parametrize("batch", [1, 7, 10, 45])
def test_shards_do_not_depend_on_batches(tmp_path: Path, batch: int) -> None:
    build(tmp_path / "a", 45, batch=10, checkpoints=2)
    build(tmp_path / "b", 45, batch=batch, checkpoints=2)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert len(open_index(tmp_path / "a").manifest.shards) == 10


@pytest.mark.parametrize("stop_after", range(0, 14))
def test_interrupted_and_resumed_equals_undisturbed(tmp_path: Path, stop_after: int) -> None:
    build(tmp_path / "whole", 45, checkpoints=2)
    build(tmp_path / "torn", 45, checkpoints=2, stop_after=stop_after)
    with pytest.raises(InputError, match="unfinished"):
        open_index(tmp_path / "torn")
    build(tmp_path / "torn", 45, checkpoints=2)
    assert contents(tmp_path / "whole") == contents(tmp_path / "torn")


FORKS = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import test_writer
for line in sys.stdin:
    appended, path = line.rstrip().split(maxsplit=1)
    child = os.fork()
    if child == 0:
        test_writer.large(Path(path), appended == "append")
        os._exit(0)
    print(child, flush=True)
    print(os.waitpid(child, 0)[1], flush=True)
"""


@pytest.fixture(scope="module")
def forks() -> Iterator[subprocess.Popen[str]]:
    """A process that has imported everything and forks a builder for each line it reads."""
    command = [sys.executable, "-c", FORKS, str(Path(__file__).parent)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


def run_and_kill(forks: subprocess.Popen[str], path: Path, appended: bool, shards: int, after: float) -> bool:
    """Start a builder and kill it `after` seconds behind its so-many-th new shard; whether that was before it ended."""
    assert forks.stdin is not None
    assert forks.stdout is not None
    wanted = len(list(path.glob("shards/*.safetensors"))) + shards
    print("append" if appended else "build", path, file=forks.stdin, flush=True)
    builder = int(forks.stdout.readline())
    deadline = time.monotonic() + 30
    while len(list(path.glob("shards/*.safetensors"))) < wanted and time.monotonic() < deadline:
        time.sleep(0.0005)
    time.sleep(after)
    with suppress(ProcessLookupError):
        os.kill(builder, signal.SIGKILL)
    status = int(forks.stdout.readline())
    assert status in (0, signal.SIGKILL)
    return status == signal.SIGKILL


def large(path: Path, appended: bool = False) -> None:
    """A build, or an append to it, long enough to be killed in: 120 shards."""
    if appended:
        writer = Writer.append(path, HEADER | {"more": 1}, may_change={"more"})
    else:
        writer = Writer(path, HEADER, dtype="int8", dim=DIM, checkpoints=2, shard_rows=10)
    with writer:
        if writer.complete:
            return
        total = 900 if appended else 600
        for checkpoint in (0, 1):
            for start in range(writer.done(checkpoint), total, 10):
                writer.add(checkpoint, *rows(min(10, total - start), checkpoint, start))
        writer.finish()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], dict[str, bytes]]:
    path = tmp_path_factory.mktemp("undisturbed") / "index"
    large(path)
    built = contents(path)
    large(path, appended=True)
    return built, contents(path)


@pytest.mark.parametrize("seed", range(3))
def test_killed_at_random_moments_equals_undisturbed(
    tmp_path: Path, forks: subprocess.Popen[str], undisturbed: tuple[dict[str, bytes], dict[str, bytes]], seed: int
) -> None:
    """SIGKILL three times during a build and during an append; meanwhile the old index stays readable."""
    built, grown = undisturbed
    moments = random.Random(seed)
    path = tmp_path / "index"
    kills = 0
    for appended, wanted in ((False, built), (True, grown)):
        for _ in range(3):
            kills += run_and_kill(forks, path, appended, moments.randint(0, 12), moments.uniform(0, 0.004))
            if appended:
                assert open_index(path).rows in (600, 900)
        large(path, appended)
        assert contents(path) == wanted
    assert kills >= 2


def test_what_a_kill_can_leave_is_dropped(tmp_path: Path) -> None:
    build(tmp_path / "whole", 45)
    build(tmp_path / "torn", 45, stop_after=5)
    path = tmp_path / "torn"
    shards = path / disk.SHARDS
    (shards / "c000-r000000030.safetensors").write_bytes(b"renamed, not yet in the journal")
    (shards / "c000-r000000040.safetensors.tmp").write_bytes(b"half")
    (shards / "c000-r000000900.safetensors").write_bytes(b"of an append that was abandoned")
    (path / "manifest.json.tmp").write_bytes(b"{")
    with open(path / disk.JOURNAL, "ab") as journal:
        journal.write(b'{"file": "sha')
    damaged = shards / "c000-r000000010.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\0")
    with Writer(path, HEADER, dtype="int8", dim=DIM, shard_rows=10) as writer:
        assert writer.done(0) == 10  # what follows the damaged shard is built again
    build(path, 45)
    assert contents(path) == contents(tmp_path / "whole")


def test_killed_after_the_manifest(tmp_path: Path) -> None:
    build(tmp_path / "whole", 45, stop_after=3)
    journal = (tmp_path / "whole" / disk.JOURNAL).read_bytes()
    build(tmp_path / "whole", 45)
    before = contents(tmp_path / "whole")
    (tmp_path / "whole" / disk.JOURNAL).write_bytes(journal)
    build(tmp_path / "whole", 45)
    assert contents(tmp_path / "whole") == before


def test_a_finished_index_has_nothing_to_do(tmp_path: Path) -> None:
    build(tmp_path / "i", 20)
    before = contents(tmp_path / "i")
    with Writer(tmp_path / "i", HEADER, dtype="int8", dim=DIM, shard_rows=10) as writer:
        assert writer.complete
        assert writer.done(0) == 20
        with pytest.raises(InputError, match="complete"):
            writer.add(0, *rows(1, 0, 20))
        writer.finish()
    assert contents(tmp_path / "i") == before


# ---------------------------------------------------------------- appending


def test_append_rows(tmp_path: Path) -> None:
    build(tmp_path / "i", 25, checkpoints=2)
    old = {name: data for name, data in contents(tmp_path / "i").items() if name.startswith(disk.SHARDS)}
    with Writer.append(tmp_path / "i", HEADER | {"data": "more"}, may_change={"data"}) as writer:
        assert [writer.done(c) for c in (0, 1)] == [25, 25]
        for checkpoint in (0, 1):
            writer.add(checkpoint, *rows(17, checkpoint, 25))
        writer.finish()
    index = open_index(tmp_path / "i")
    assert index.header["data"] == "more"
    assert list(index.ids) == rows(42)[0]
    assert old.items() <= contents(tmp_path / "i").items()
    build(tmp_path / "once", 42, checkpoints=2)
    once = open_index(tmp_path / "once")
    for checkpoint in (0, 1):
        tiles = [torch.cat([t.features for t in i.tiles(checkpoint, 9)]) for i in (index, once)]
        assert torch.equal(*tiles)
    assert torch.equal(index.stats("loss"), once.stats("loss"))
    with Writer.append(tmp_path / "i", HEADER | {"data": "more"}, may_change={"data"}) as writer:
        assert writer.complete


def test_append_checkpoint(tmp_path: Path) -> None:
    """Also over shards of unequal size, interrupted; equal to what two checkpoints at once give."""
    build(tmp_path / "i", 25)
    with Writer.append(tmp_path / "i", HEADER | {"data": 2}, may_change={"data"}) as writer:
        writer.add(0, *rows(6, 0, 25))
        writer.finish()
    header = HEADER | {"data": 2, "checkpoints": 2}
    for upto in (28, 31):  # the first time it stops inside the last shard
        with Writer.append(tmp_path / "i", header, checkpoints=2, may_change={"checkpoints"}) as writer:
            start = writer.done(1)
            assert start == (0 if upto == 28 else 25)
            writer.add(1, *rows(upto - start, 1, start))
            if upto == 31:
                with pytest.raises(DataError, match="31 rows"):
                    writer.add(1, *rows(1, 1, 31))
                writer.finish()
        assert open_index(tmp_path / "i").checkpoints == (1 if upto == 28 else 2)
    build(tmp_path / "once", 31, checkpoints=2)
    made = [torch.cat([t.features for t in open_index(tmp_path / name).tiles(1)]) for name in ("i", "once")]
    assert torch.equal(*made)


def test_append_refuses(tmp_path: Path) -> None:
    build(tmp_path / "i", 25)
    with pytest.raises(IndexMismatch, match="task"):
        Writer.append(tmp_path / "i", HEADER | {"task": "classify"}, may_change={"data"})
    with pytest.raises(InputError, match="at least as many"):
        Writer.append(tmp_path / "i", HEADER, checkpoints=0)
    writer = Writer.append(tmp_path / "i", HEADER | {"data": 1}, may_change={"data"})
    with writer, pytest.raises(DataError, match="'é24' occurs twice"):
        writer.add(0, *rows(3, 0, 24))
    with pytest.raises(IndexMismatch, match=r"data = 1; now .*data = 2.*journal.jsonl' to abandon"):
        Writer.append(tmp_path / "i", HEADER | {"data": 2}, may_change={"data"})
    (tmp_path / "i" / disk.JOURNAL).unlink()
    Writer.append(tmp_path / "i", HEADER | {"data": 2}, may_change={"data"}).close()


def test_a_pending_append_survives_opening_the_old_index(tmp_path: Path) -> None:
    build(tmp_path / "i", 25)
    changed = HEADER | {"data": 1}
    with Writer.append(tmp_path / "i", changed, may_change={"data"}) as writer:
        writer.add(0, *rows(10, 0, 25))
    build(tmp_path / "i", 25)
    with Writer.append(tmp_path / "i", changed, may_change={"data"}) as writer:
        assert writer.done(0) == 35


# ---------------------------------------------------------------- refusing


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"header": {**HEADER, "model": {"fingerprint": "xyz", "layers": [1, 2]}}},
            r"header.model.fingerprint = 'abc'; now .* = 'xyz'",
        ),
        ({"header": {**HEADER, "seed": 3}}, r"header.seed = None; now header.seed = 3"),
        ({"dtype": "float32"}, "dtype = 'int8'; now dtype = 'float32'"),
        ({"checkpoints": 2}, "checkpoints = 1; now checkpoints = 2"),
        ({"shard_rows": 11}, "shard_rows = 10; now shard_rows = 11"),
    ],
)
@pytest.mark.parametrize("stop_after", [3, None])
def test_other_settings_are_refused(
    tmp_path: Path, change: dict[str, Any], message: str, stop_after: int | None
) -> None:
    build(tmp_path / "i", 45, stop_after=stop_after)
    before = contents(tmp_path / "i")
    with pytest.raises(IndexMismatch, match=message):
        build(tmp_path / "i", 45, **change)
    assert contents(tmp_path / "i") == before


def test_a_header_compares_as_json(tmp_path: Path) -> None:
    build(tmp_path / "i", 20, header={"widths": (1, 2)}, stop_after=1)
    build(tmp_path / "i", 20, header={"widths": [1, 2]})


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    first = Writer(tmp_path / "i", HEADER, dtype="int8", dim=DIM)
    with first, pytest.raises(StorageError, match="another process"):
        Writer(tmp_path / "i", HEADER, dtype="int8", dim=DIM)
    Writer(tmp_path / "i", HEADER, dtype="int8", dim=DIM).close()


def test_a_directory_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(StorageError, match=r"not an index \(it contains 'thesis.tex'\)"):
        Writer(tmp_path, HEADER, dtype="int8", dim=DIM)
    assert list(contents(tmp_path)) == ["thesis.tex"]
    with pytest.raises(StorageError):
        Writer(tmp_path / "thesis.tex", HEADER, dtype="int8", dim=DIM)


def test_bad_rows_are_refused(tmp_path: Path) -> None:
    ids, features, stats = rows(5)
    with Writer(tmp_path / "i", HEADER, dtype="bfloat16", dim=DIM, checkpoints=2, shard_rows=10) as writer:
        for value in (torch.nan, torch.inf, 3.4e38):  # the last is finite in float32 only
            bad = features.clone()
            bad[3, 2] = value
            with pytest.raises(NonFiniteError, match="'é3'"):
                writer.add(0, ids, bad, stats)
        with pytest.raises(NonFiniteError, match="loss of example 'é1'"):
            writer.add(0, ids, features, {"loss": torch.tensor([0, torch.nan, 0, 0, 0])})
        with pytest.raises(DataError, match="'a' occurs twice"):
            writer.add(0, ["b", "a", "c", "a", "d"], features, stats)


def test_checkpoints_must_have_the_same_rows(tmp_path: Path) -> None:
    with Writer(tmp_path / "i", HEADER, dtype="int8", dim=DIM, checkpoints=2, shard_rows=10) as writer:
        writer.add(0, *rows(20))
        ids, features, stats = rows(20, 1)
        with pytest.raises(DataError, match="other ids"):
            writer.add(1, ids[::-1], features, stats)
    with Writer(tmp_path / "j", HEADER, dtype="int8", dim=DIM, checkpoints=2, shard_rows=10) as writer:
        writer.add(0, *rows(20))
        writer.add(1, *rows(13, 1))
        with pytest.raises(ValueError, match="different numbers of rows"):
            writer.finish()


def test_an_empty_index_is_refused(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "i", HEADER, dtype="int8", dim=DIM)
    with writer, pytest.raises(DataError, match="at least one row"):
        writer.finish()


def test_rows_after_the_end_are_refused(tmp_path: Path) -> None:
    with Writer(tmp_path / "i", HEADER, dtype="int8", dim=DIM, shard_rows=10) as writer:
        writer.add(0, *rows(13))
        writer.end(0)
        with pytest.raises(DataError, match="ended after 13 rows"):
            writer.add(0, *rows(1, 0, 13))


# ---------------------------------------------------------------- disk


def test_a_full_disk_keeps_what_is_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The third shard fails half-way; nothing half-written has a final name, and the build goes on later."""
    build(tmp_path / "whole", 45)
    written = 0
    real = open

    class Full:
        def __init__(self, file: Any) -> None:
            self._file = file

        def write(self, data: bytes) -> int:
            nonlocal written
            written += 1
            if written > 14:
                self._file.write(bytes(data)[: len(data) // 2])
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return self._file.write(data)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._file, name)

        def __enter__(self) -> "Full":
            return self

        def __exit__(self, *_: object) -> None:
            self._file.close()

    def limited(path: Any, mode: str = "r", **kwargs: Any) -> Any:
        file = real(path, mode, **kwargs)
        return Full(file) if str(path).endswith(".safetensors.tmp") else file

    monkeypatch.setattr(disk, "open", limited, raising=False)
    with pytest.raises(StorageError, match=r"disk is full. Complete and kept: \d+ rows of checkpoint 0. Free space"):
        build(tmp_path / "i", 45)
    left = contents(tmp_path / "i")
    assert not [name for name in left if name.endswith(".tmp")]
    shards = {name: data for name, data in left.items() if name.startswith(disk.SHARDS)}
    assert shards
    assert shards.items() <= contents(tmp_path / "whole").items()
    monkeypatch.undo()
    build(tmp_path / "i", 45)
    assert contents(tmp_path / "i") == contents(tmp_path / "whole")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_journal_that_cannot_be_written(tmp_path: Path) -> None:
    with Writer(tmp_path / "i", HEADER, dtype="int8", dim=DIM, shard_rows=10) as writer:
        (tmp_path / "i" / disk.JOURNAL).unlink()
        (tmp_path / "i" / disk.JOURNAL).symlink_to("/dev/full")
        with pytest.raises(StorageError, match="disk is full"):
            writer.add(0, *rows(10))
        assert writer.done(0) == 0


def test_default_shard_rows() -> None:
    assert default_shard_rows(1024, "int8") == 4096
    assert default_shard_rows(100_000, "float32") == 167
    assert default_shard_rows(10**9, "float32") == 1


def test_the_manifest_is_readable(tmp_path: Path) -> None:
    build(tmp_path / "i", 25)
    manifest = json.loads((tmp_path / "i" / "manifest.json").read_text())
    assert manifest["header"] == HEADER
    assert [s["start"] for s in manifest["shards"]] == [0, 10, 20]
