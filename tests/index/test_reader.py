"""Reading back, and finding damage of any kind."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from assay.errors import CorruptIndex, IndexMismatch, InputError
from assay.index import Dtype, Writer, dense, open_index, top_k
from assay.index import format as disk

COUNT, DIM = 47, 16


def make(path: Path, dtype: Dtype = "int8") -> torch.Tensor:
    features = torch.randn(2, COUNT, DIM, generator=torch.Generator().manual_seed(0))
    with Writer(path, {"a": 1}, dtype=dtype, dim=DIM, checkpoints=2, shard_rows=10) as writer:
        for checkpoint in (0, 1):
            ids = [f"名{row}" for row in range(COUNT)]
            stats = {"loss": features[checkpoint, :, 0], "residual": features[checkpoint, :, 1]}
            writer.add(checkpoint, ids, features[checkpoint], stats)
        writer.finish()
    return features


@pytest.mark.parametrize(("dtype", "bound"), [("float32", 0.0), ("bfloat16", 2.0**-8), ("int8", 1 / 253)])
@pytest.mark.parametrize("rows_per_tile", [1, 7, 10, 100, None])
def test_round_trip(tmp_path: Path, dtype: Dtype, bound: float, rows_per_tile: int | None) -> None:
    features = make(tmp_path, dtype)
    index = open_index(tmp_path)
    assert (index.rows, len(index), index.dim, index.dtype, index.checkpoints) == (COUNT, COUNT, DIM, dtype, 2)
    assert index.header == {"a": 1}
    assert list(index.ids) == [f"名{row}" for row in range(COUNT)]
    assert index.statistics == ("loss", "residual")
    assert torch.equal(index.stats("residual"), features[:, :, 1])
    for checkpoint in (0, 1):
        tiles = list(index.tiles(checkpoint, rows_per_tile))
        assert [tile.start for tile in tiles] == list(range(0, COUNT, rows_per_tile or COUNT))
        read = torch.cat([tile.features for tile in tiles])
        largest = features[checkpoint].abs().amax(1, keepdim=True)
        assert ((read - features[checkpoint]).abs() <= bound * largest).all()
        torch.testing.assert_close(index.norms()[checkpoint], read.norm(dim=1))
    index.verify()


def test_shards_are_ordinary_safetensors(tmp_path: Path) -> None:
    make(tmp_path)
    for shard in open_index(tmp_path).manifest.shards:
        with safe_open(tmp_path / shard.file, "pt") as file:
            features = file.get_tensor("features")
            assert features.dtype == torch.int8
            assert tuple(features.shape) == (shard.rows, DIM)
            assert file.get_tensor("scale").shape == (shard.rows,)
        assert shard.head_bytes % disk.ALIGN == 0


def test_every_flipped_byte_is_found(tmp_path: Path) -> None:
    """Flip bytes all over a shard: no scan, tile or statistic is returned, and the error names the file."""
    make(tmp_path)
    queries = torch.randn(2, 3, DIM)
    file = tmp_path / "shards" / "c001-r000000020.safetensors"
    whole = file.read_bytes()
    for position in {*range(0, len(whole), 13), *range(16), len(whole) - 1}:
        file.write_bytes(whole[:position] + bytes([whole[position] ^ 0x40]) + whole[position + 1 :])
        index = open_index(tmp_path)
        for use in (
            lambda i: top_k(i, queries, 2),
            lambda i: dense(i, queries),
            lambda i: list(i.tiles(1, 7)),
            lambda i: i.verify(),
        ):
            with pytest.raises(CorruptIndex, match=r"c001-r000000020.*rows 20 to 29"):
                use(index)
    file.write_bytes(whole)
    open_index(tmp_path).verify()


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_damage_is_named_before_its_consequences(tmp_path: Path, dtype: Dtype) -> None:
    """Features that became infinite are reported as damage of the shard, not as a score out of range."""
    make(tmp_path, dtype)
    file = tmp_path / "shards" / "c000-r000000000.safetensors"
    data = bytearray(file.read_bytes())
    data[-64:] = b"\x80\x7f" * 32
    file.write_bytes(data)
    with pytest.raises(CorruptIndex, match="c000-r000000000"):
        top_k(open_index(tmp_path), torch.randn(2, 3, DIM), 2)
    with pytest.raises(CorruptIndex, match="c000-r000000000"):
        dense(open_index(tmp_path), torch.randn(2, 3, DIM))


def test_damaged_ids_and_statistics_are_found_without_a_scan(tmp_path: Path) -> None:
    make(tmp_path)
    shard = open_index(tmp_path).manifest.shards[1]
    data = bytearray((tmp_path / shard.file).read_bytes())
    data[shard.head_bytes - 20] ^= 1
    (tmp_path / shard.file).write_bytes(data)
    with pytest.raises(CorruptIndex, match="ids or statistics"):
        _ = open_index(tmp_path).ids
    with pytest.raises(CorruptIndex, match="ids or statistics"):
        open_index(tmp_path).stats("loss")


def test_truncated_and_missing_shards_are_named_when_opening(tmp_path: Path) -> None:
    make(tmp_path)
    file = tmp_path / "shards" / "c000-r000000010.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[:-5])
    with pytest.raises(CorruptIndex, match=rf"c000-r000000010.*{len(data) - 5} bytes where {len(data)}"):
        open_index(tmp_path)
    file.unlink()
    with pytest.raises(CorruptIndex, match=r"c000-r000000010.*missing"):
        open_index(tmp_path)


def test_a_damaged_manifest_is_found(tmp_path: Path) -> None:
    """Every position: flipped bytes give an error of ours, never another answer."""
    make(tmp_path)
    file = tmp_path / "manifest.json"
    whole = file.read_bytes()
    index = open_index(tmp_path)
    for position in range(0, len(whole), 7):
        file.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        try:
            found = open_index(tmp_path).manifest
        except (CorruptIndex, IndexMismatch):
            continue
        assert found == index.manifest  # white space
    file.write_bytes(whole[:100])
    with pytest.raises(CorruptIndex, match="manifest"):
        open_index(tmp_path)


def test_another_version_is_refused(tmp_path: Path) -> None:
    make(tmp_path)
    file = tmp_path / "manifest.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | {"version": disk.VERSION + 1}))
    with pytest.raises(IndexMismatch, match=r"version 2; this version of assay reads .*version 1. Update assay"):
        open_index(tmp_path)
    file.write_text(json.dumps(content | {"format": "other"}))
    with pytest.raises(IndexMismatch, match="'other'"):
        open_index(tmp_path)


def test_no_index(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="There is no index"):
        open_index(tmp_path / "nothing")
    make(tmp_path)
    with pytest.raises(InputError, match=r"no statistic 'los'\. It has: loss, residual"):
        open_index(tmp_path).stats("los")


def test_tiles_can_be_left_early(tmp_path: Path) -> None:
    make(tmp_path)
    for tile in open_index(tmp_path).tiles(0, 5):
        assert tile.start == 0
        break


def test_tile_memory_is_bounded(tmp_path: Path) -> None:
    """Tiles of all checkpoints together stay within the budget, whatever the dimension."""
    make(tmp_path)
    index = open_index(tmp_path)
    from assay.index.reader import TILE_BYTES, TILE_ROWS

    for checkpoints in (1, 2, 50):
        rows = index.tile_rows(checkpoints)
        assert 1 <= rows <= TILE_ROWS
        assert rows * checkpoints * DIM <= TILE_BYTES
