"""Compressions that depend on data: an index keeps what was found, and nothing is fitted twice."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.support import arrays, quadratic, shaken
from torch import Tensor, nn

import assay
from assay.compress import eigenbasis
from assay.compress.eigenbasis import Eigenbasis
from assay.compress.elementwise import Scaled
from assay.errors import CorruptIndex, IndexMismatch, MethodError
from assay.index import build as building
from assay.index import open_index
from assay.index.fitted import file_name
from assay.methods import LESS, GradCos, LoGra, TrackStar
from assay.models import Checkpoint, Model
from assay.moments import AdamMoments

small = pytest.mark.usefixtures("_small_shards")


@pytest.fixture
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "_shard_rows", lambda width, dtype: 4)


def moments(module: nn.Module, scale: float = 1.0) -> AdamMoments:
    ones = {name: torch.ones_like(p.detach()) for name, p in module.named_parameters()}
    return AdamMoments({n: 0.1 * p for n, p in ones.items()}, {n: scale * p for n, p in ones.items()}, 3)


def model_of(checkpoints: int = 0, scale: float = 1.0) -> Model:
    torch.manual_seed(0)
    net = shaken(nn.Sequential(nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 5))).double().eval()
    states = [{n: (1 - 0.1 * k) * t.clone() for n, t in net.state_dict().items()} for k in reversed(range(checkpoints))]
    stages = [
        Checkpoint.of_state(f"step {k}", 0.1 + k, net, state, partial(moments, net, scale))
        for k, state in enumerate(states)
    ]
    return Model(net, quadratic(), checkpoints=stages)


def rows(n: int, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(n, 6, generator=draw, dtype=torch.float64) * torch.tensor([3.0, 2.0, 1.0, 0.5, 0.2, 0.1])


class Stop(Exception):
    pass


def stopped_after(monkeypatch: pytest.MonkeyPatch, shards: int) -> None:
    """The build dies once it has written so many shards."""
    from assay.index.writer import Writer

    flush, count = Writer._flush, 0

    def counting(self: Any, checkpoint: int) -> None:
        nonlocal count
        if count == shards:
            raise Stop
        flush(self, checkpoint)
        count += 1

    monkeypatch.setattr(Writer, "_flush", counting)


@small
@pytest.mark.parametrize(
    "method", [LoGra("eigen:2"), TrackStar("factored:3"), GradCos("eigen:3")], ids=lambda m: m.name
)
def test_a_build_that_stopped_goes_on_with_the_matrices_it_began_with(
    method: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, train = model_of(), arrays(rows(10))
    whole = assay.build(model, train, tmp_path / "whole", method=method)
    with monkeypatch.context() as patch:
        stopped_after(patch, 1)
        with pytest.raises(Stop):
            assay.build(model, train, tmp_path / "index", method=method)
    for kind in (Eigenbasis, Scaled):
        monkeypatch.setattr(kind, "fit", lambda self, evidence: pytest.fail("fitted again"))
    again = assay.build(model, train, tmp_path / "index", method=method)
    for name in sorted(p.relative_to(whole.index.path) for p in whole.index.path.rglob("*") if p.is_file()):
        assert (again.index.path / name).read_bytes() == (whole.index.path / name).read_bytes(), name
    opened = assay.open(tmp_path / "index", model)
    np.testing.assert_array_equal(opened.attribute(arrays(rows(3, 1))).array, whole.score(arrays(rows(3, 1))).array)


@small
def test_examples_and_checkpoints_are_added_with_the_same_matrices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, method, new = tmp_path / "index", GradCos("eigen:2"), arrays(rows(6, 2))
    assay.build(model_of(), arrays(rows(10)), path, method=method)
    before = (path / file_name(0)).read_bytes()
    added = assay.read(([*rows(6, 2).numpy()], np.zeros(6)), name="new")
    with monkeypatch.context() as patch:
        patch.setattr(Eigenbasis, "fit", lambda self, evidence: pytest.fail("fitted again"))
        grown = assay.build(model_of(), added, path, append="examples")
    assert len(grown.index) == 16
    assert (path / file_name(0)).read_bytes() == before
    alone = assay.attribute(model_of(), new, new, "gradcos").array
    found = assay.open(path, model_of()).attribute(new).array[10:]
    assert np.corrcoef(alone.ravel(), found.ravel())[0, 1] > 0.9  # the same space for both

    stages = model_of(2)
    path, tracin = tmp_path / "stages", assay.methods.TracIn("eigen:2")
    first = Model(stages.module, stages.task, checkpoints=stages.checkpoints[:1])
    assay.build(first, arrays(rows(10)), path, method=tracin)
    longer = assay.build(stages, arrays(rows(10)), path, method=tracin, append="checkpoints")
    at_once = assay.build(stages, arrays(rows(10)), tmp_path / "at once", method=tracin)
    assert longer.index.header["fitted"] == at_once.index.header["fitted"]
    np.testing.assert_array_equal(longer.score(new).array, at_once.score(new).array)


def test_damage_is_named(tmp_path: Path) -> None:
    path = tmp_path / "index"
    assay.build(model_of(), arrays(rows(10)), path, method=LoGra("eigen:2"))
    file = path / file_name(0)
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(CorruptIndex, match=r"compression-c000\.safetensors' is damaged"):
        assay.open(path, model_of()).attribute(arrays(rows(2)))
    file.write_bytes(content[:20])
    with pytest.raises(CorruptIndex, match=r"compression-c000\.safetensors' cannot be read"):
        assay.open(path, model_of()).attribute(arrays(rows(2)))
    file.unlink()
    with pytest.raises(CorruptIndex, match=r"compression-c000\.safetensors' cannot be read"):
        assay.open(path, model_of()).attribute(arrays(rows(2)))


def test_features_of_another_transform_are_refused(tmp_path: Path) -> None:
    path, queries = tmp_path / "index", arrays(rows(2))
    assay.build(model_of(1), arrays(rows(10)), path, method=TrackStar("factored:2"))
    opened = assay.open(path, model_of(1))
    with pytest.raises(IndexMismatch, match="transform scaled by the second moment, and none was given"):
        opened.attribute(queries, "gradcos")
    with pytest.raises(IndexMismatch, match="transform scaled by the second moment, and Adam's step was given"):
        opened.attribute(queries, "less")
    assay.build(model_of(1), arrays(rows(10)), tmp_path / "plain", method="tracin", compression="factored:2")
    with pytest.raises(IndexMismatch, match="transform none, and Adam's step was given"):
        assay.open(tmp_path / "plain", model_of(1)).attribute(queries, "less")


@small
def test_other_moments_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are not kept, but their checksum is."""
    path, method, train = tmp_path / "index", LESS("sjlt:32"), arrays(rows(10))
    with monkeypatch.context() as patch:
        stopped_after(patch, 1)
        with pytest.raises(Stop):
            assay.build(model_of(1), train, path, method=method)
    with pytest.raises(IndexMismatch, match="fitted"):
        assay.build(model_of(1, scale=2.0), train, path, method=method)
    built = assay.build(model_of(1), train, path, method=method)
    expected = assay.attribute(model_of(1), train, arrays(rows(2, 1)), method).array
    np.testing.assert_array_equal(built.score(arrays(rows(2, 1))).array, expected)
    assert not (path / file_name(0)).exists()
    later = assay.read(([*rows(6, 2).numpy()], np.zeros(6)), name="new")
    with pytest.raises(IndexMismatch, match="fitted"):
        assay.build(model_of(1, scale=2.0), later, path, append="examples")


def test_the_last_checkpoint_is_found_again(tmp_path: Path) -> None:
    """TrackStar takes the last of several."""
    path, train, queries = tmp_path / "index", arrays(rows(10)), arrays(rows(3, 1))
    built = assay.build(model_of(3), train, path, method="trackstar")
    assert [stage["name"] for stage in open_index(path).header["checkpoints"]] == ["step 2"]
    found = assay.open(path, model_of(3)).attribute(queries)
    np.testing.assert_array_equal(found.array, built.score(queries).array)


def test_a_large_training_set_is_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Evenly, so that an eigenbasis is that of the sample alone."""
    train = arrays(rows(40))
    monkeypatch.setattr(eigenbasis, "SAMPLE", 8)
    some = eigenbasis.sample(train)
    assert list(some.ids) == [train.ids[k] for k in range(0, 40, 5)]


def test_an_unfitted_one_is_refused_in_words() -> None:
    with pytest.raises(MethodError, match="'eigen:4' depends on the training data"):
        Eigenbasis(rank=4).bind((), torch.device("cpu"), torch.float32)
