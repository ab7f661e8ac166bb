"""Building an index of a model's gradients: killed and resumed, grown, refused, damaged, out of room."""

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.support import examples, language_model, saved, text_model, tokenizer
from torch import nn

import assay
from assay.errors import CorruptIndex, DataError, IndexMismatch, InputError, StorageError
from assay.examples import Examples
from assay.index import build as building
from assay.index import format as disk
from assay.index import open_index, texts, writer
from assay.methods import GradCos, TracIn
from assay.models import Checkpoint, Model
from assay.tasks import CausalLM, Classify, Regress

WORDS = ("cat", "dog", "tree", "mat", "you")
TRAIN = examples(
    *(
        f"the {a} sat on the {b} {'and ran ' * (k % 3)}."
        for k, (a, b) in enumerate((a, b) for a in WORDS for b in WORDS)
    )
)
QUERIES = examples("the cat ran", "you saw the mat")


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "_shard_rows", lambda width, dtype: 4)


small = pytest.mark.usefixtures("_small_shards")


@cache
def model_of(count: int = 0, scale: float = 1.0, **options: Any) -> Model:
    """A tiny Llama, with checkpoints if asked for, of which the last is the model as it is."""
    plain = text_model("Llama", dtype=torch.float32, num_hidden_layers=1)
    with torch.no_grad():
        plain.module.get_submodule("model.norm").weight *= scale
    states = [
        {name: (1 - 0.2 * k) * t for name, t in plain.module.state_dict().items()} for k in reversed(range(count))
    ]
    stages = [Checkpoint.of_state(f"step {k}", 0.1 + k, plain.module, state) for k, state in enumerate(states)]
    return Model(plain.module, plain.task, checkpoints=stages, **options)


@pytest.fixture(scope="module")
def whole(_one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What an undisturbed build of two checkpoints writes."""
    path = tmp_path_factory.mktemp("whole") / "index"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(building, "_shard_rows", lambda width, dtype: 4)
        assay.build(model_of(2), TRAIN, path, method="tracin", compression="factored:4")
    return files(path)


def files(folder: Path) -> dict[str, bytes]:
    """Every file and its bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# -- killed ------------------------------------------------------------------------------------------------------------

KILLED = """
import os, random, signal, sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
sys.path.insert(0, {repository!r})
import assay
from assay.index import build as building, texts, writer
from tests.index.test_build import TRAIN, model_of

building._shard_rows = lambda width, dtype: 4
model, path, chance = model_of(2), Path({path!r}), random.Random({seed})
flush, replace = writer.Writer._flush, os.replace


def slow(self, checkpoint):
    flush(self, checkpoint)
    time.sleep(0.02)


def while_writing_texts(source, target):
    if str(target).endswith(texts.FILE):
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)


def attempt(shards):
    # A child builds; it is killed a random while after it has that many shards, or, without a number, at the texts.
    child = os.fork()
    if not child:
        writer.Writer._flush = slow
        if shards is None:
            texts.os.replace = while_writing_texts
        assay.build(model, TRAIN, path, method="tracin", compression="factored:4")
        os._exit(0)
    if shards is not None:
        while len(list(path.glob("shards/*.safetensors"))) < shards:
            assert os.waitpid(child, os.WNOHANG) == (0, 0), "the build ended by itself"
            time.sleep(0.001)
        time.sleep(0.02 * chance.random())
        os.kill(child, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    print(len(list(path.glob("shards/*.safetensors"))))


for shards in (chance.randint(1, 5), chance.randint(8, 11), None):
    attempt(shards)
"""


@small
def test_killed_builds_that_resume_end_in_the_same_bits(
    whole: dict[str, bytes], tmp_path: Path, repository: Path
) -> None:
    """SIGKILL in the first checkpoint, in the second, and while the texts are written: 14 shards in all."""
    path = tmp_path / "killed"
    script = KILLED.format(repository=str(repository), path=str(path), seed=0)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=repository, timeout=300)
    assert done.returncode == 0, done.stderr
    first, second, third = map(int, done.stdout.split())
    assert 1 <= first < 7 < second < third == 14
    with pytest.raises(IndexMismatch, match="unfinished"):
        assay.open(path, model_of(2))
    added: list[int] = []
    flush = writer.Writer._flush
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            writer.Writer, "_flush", lambda self, checkpoint: (added.append(checkpoint), flush(self, checkpoint))
        )
        assay.build(model_of(2), TRAIN, path, method="tracin", compression="factored:4")
    assert not added  # all features were there
    assert files(path) == whole


@small
@pytest.mark.parametrize("moment", [1, 2, 10, 16, 17, 18])
def test_a_full_disk_keeps_what_is_there_and_resumes(
    moment: int, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever file no longer fits, shard, journal, texts or manifest."""
    path, model, count = tmp_path / "index", model_of(2), 0
    write, replace = disk.write, os.replace

    def full(*given: Any) -> None:
        nonlocal count
        count += 1
        if count == moment:
            raise OSError(errno.ENOSPC, "No space left on device")

    def write_until_full(file: Path, parts: Any) -> None:
        full()
        write(file, parts)

    def replace_until_full(source: Any, target: Any) -> None:
        if str(target).endswith(texts.FILE):
            full()
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(disk, "write", write_until_full)
        patch.setattr(texts.os, "replace", replace_until_full)
        if moment <= 17:  # the journal, 14 shards, the texts, the manifest
            with pytest.raises(StorageError, match="same command again"):
                assay.build(model, TRAIN, path, method="tracin", compression="factored:4")
            with pytest.raises(InputError):
                open_index(path)
        else:
            assay.build(model, TRAIN, path, method="tracin", compression="factored:4")
            assert count == 17
    assay.build(model, TRAIN, path, method="tracin", compression="factored:4")
    assert files(path) == whole


# -- grown -------------------------------------------------------------------------------------------------------------


def features(path: Path) -> torch.Tensor:
    index = open_index(path)
    return torch.stack([torch.cat([tile.features for tile in index.tiles(c)]) for c in range(index.checkpoints)])


@small
@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_examples_that_are_appended_are_as_if_built_at_once(dtype: Any, tmp_path: Path) -> None:
    model = model_of(2)
    assay.build(model, TRAIN, tmp_path / "whole", method="tracin", compression="factored:4", dtype=dtype)
    assay.build(model, TRAIN[:10], tmp_path / "grown", method="tracin", compression="factored:4", dtype=dtype)
    for _ in range(2):  # the second time there is nothing to do
        grown = assay.build(model, TRAIN[10:], tmp_path / "grown", append="examples")  # method and all as it was built
    assert (grown.method.name, grown.index.dtype) == ("tracin", dtype)
    one, other = features(tmp_path / "whole"), features(tmp_path / "grown")
    largest = one.abs().amax(2, keepdim=True)
    assert ((one - other).abs() <= (1e-5 if dtype == "float32" else 1.02 / 127) * largest).all()
    whole, parts = (assay.open(tmp_path / name, model).attribute(QUERIES) for name in ("whole", "grown"))
    np.testing.assert_allclose(
        whole.array, parts.array, atol=1e-4 * np.abs(whole.array).max() * (100 if dtype == "int8" else 1)
    )
    assert list(parts.train_ids) == list(TRAIN.ids)
    assert list(parts.train.texts) == list(TRAIN.texts)
    assert parts.provenance.inputs["train"] == "list, list"
    assert parts.provenance.train_fingerprint not in (TRAIN[:10].fingerprint(), TRAIN[10:].fingerprint())


@small
def test_an_append_by_another_model_is_refused_though_the_examples_are_there(tmp_path: Path) -> None:
    assay.build(model_of(), TRAIN[:10], tmp_path / "i")
    before = files(tmp_path / "i")
    for rows in (TRAIN[:10], TRAIN[10:]):
        with pytest.raises(IndexMismatch, match=r"built with model LlamaForCausalLM \(\w{8}\), and LlamaForCausalLM"):
            assay.build(model_of(scale=1.5), rows, tmp_path / "i", append="examples")
    with pytest.raises(DataError, match="occurs twice"):
        assay.build(model_of(), TRAIN[5:15], tmp_path / "i", append="examples")
    assert assay.open(tmp_path / "i", model_of()).index.rows == 10
    assert files(tmp_path / "i").keys() >= before.keys()


@small
def test_checkpoints_that_are_appended_are_as_if_built_at_once(tmp_path: Path) -> None:
    """Bit for bit, also what is noted of where they lie."""
    full = model_of(3)
    first = Model(full.module, full.task, checkpoints=full.checkpoints[:1])
    assay.build(first, TRAIN, tmp_path / "i", method="tracin", origin={"model": "m", "checkpoints": [["a", 0.1]]})
    origin = {"model": "m", "checkpoints": [["a", 0.1], ["b", 1.1], ["c", 2.1]]}
    assay.build(full, TRAIN, tmp_path / "i", append="checkpoints", origin=origin)
    assay.build(full, TRAIN, tmp_path / "whole", method="tracin", origin=origin)
    assert files(tmp_path / "i") == files(tmp_path / "whole")
    assert assay.open(tmp_path / "i", full).index.checkpoints == 3


@small
def test_checkpoints_that_do_not_continue_are_refused(tmp_path: Path) -> None:
    full = model_of(3)
    assay.build(Model(full.module, full.task, checkpoints=full.checkpoints[:2]), TRAIN, tmp_path / "i", method="tracin")
    skipping = Model(full.module, full.task, checkpoints=full.checkpoints[1:])
    with pytest.raises(IndexMismatch, match="has checkpoints step 0, step 1; the model gives step 1, step 2"):
        assay.build(skipping, TRAIN, tmp_path / "i", append="checkpoints")
    other = model_of(3, scale=2.0)
    with pytest.raises(IndexMismatch, match="built with model"):
        assay.build(other, TRAIN, tmp_path / "i", append="checkpoints")
    with pytest.raises(IndexMismatch, match="data"):
        assay.build(full, TRAIN[:20], tmp_path / "i", append="checkpoints")
    assert (
        assay.open(tmp_path / "i", Model(full.module, full.task, checkpoints=full.checkpoints[:2])).index.checkpoints
        == 2
    )


@small
def test_checkpoints_for_an_index_that_grew(tmp_path: Path) -> None:
    full = model_of(2)
    first = Model(full.module, full.task, checkpoints=full.checkpoints[:1])
    assay.build(first, TRAIN[:10], tmp_path / "i", method="tracin")
    assay.build(first, TRAIN[10:], tmp_path / "i", append="examples")
    assay.build(full, TRAIN, tmp_path / "i", append="checkpoints")
    scores = assay.open(tmp_path / "i", full).attribute(QUERIES)
    right = assay.attribute(full, TRAIN, QUERIES, TracIn(compression="factored:16"))
    np.testing.assert_allclose(scores.array, right.array, atol=1e-4 * np.abs(right.array).max())


# -- refused -----------------------------------------------------------------------------------------------------------


def shorter(model: Model) -> Model:
    return Model(model.module, CausalLM(tokenizer(), 32))


REFUSED: list[tuple[str, Any, dict[str, Any], str]] = [
    ("another model", lambda: model_of(scale=1.5), {}, r"model LlamaForCausalLM \(\w{8}\), and LlamaForCausalLM \("),
    ("another tokenizer or context", lambda: shorter(model_of()), {}, "model"),
    ("other modules", lambda: model_of(modules="*.mlp.*"), {}, r"modules all, and \['\*\.mlp\.\*'\]"),
    ("checkpoints", lambda: model_of(2), {"method": "tracin"}, "checkpoints .*step 0"),
    ("another seed", model_of, {"method": GradCos(seed=3)}, "seed 0, and 3"),
    ("another compression", model_of, {"compression": "factored:8"}, "compression factored:4, and factored:8"),
    ("another measurement", model_of, {"method": "trak", "compression": "factored:4"}, "measurement .*Loss.*Margin"),
    ("another reduction", model_of, {"method": GradCos(train_loss="mean")}, "measurement .*sum.*mean"),
    ("another precision", model_of, {"dtype": "int8"}, "dtype = 'float32'; now dtype = 'int8'"),
]


@small
@pytest.mark.parametrize(("make", "changes", "told"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
@pytest.mark.parametrize("finished", [True, False])
def test_another_index_is_refused(
    make: Any, changes: dict[str, Any], told: str, finished: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A finished index says which fact differs; an unfinished one, whose journal knows less, at least refuses."""
    path = tmp_path / "index"
    if finished:
        assay.build(model_of(), TRAIN, path, compression="factored:4")
    else:
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(building, "write_texts", lambda *given: (_ for _ in ()).throw(KeyboardInterrupt))
            assay.build(model_of(), TRAIN, path, compression="factored:4")
    before = files(path)
    with pytest.raises(IndexMismatch, match=told if finished else "was made with"):
        assay.build(make(), TRAIN, path, **({"compression": "factored:4"} | changes))
    assert files(path) == before


@small
def test_another_task_and_other_examples_are_refused(tmp_path: Path) -> None:
    x, y = torch.randn(10, 4), torch.randint(0, 2, (10,))
    net = nn.Linear(4, 2)
    assay.build(Model(net, Classify()), (x, y), tmp_path / "i")
    with pytest.raises(IndexMismatch, match="built with task classify, and regress was given"):
        assay.build(Model(net, Regress()), (x, x[:, :2]), tmp_path / "i")
    with pytest.raises(IndexMismatch, match="built with data"):
        assay.build(Model(net, Classify()), (x, 1 - y), tmp_path / "i")
    with pytest.raises(IndexMismatch, match="task classify, and regress"):
        assay.open(tmp_path / "i", Model(net, Regress()))


def test_no_examples_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least one"):
        assay.build(model_of(), TRAIN[:0], tmp_path / "i")
    assert not (tmp_path / "i").exists()


@small
def test_where_data_and_model_lie_is_no_difference(tmp_path: Path) -> None:
    """A finished index is opened also for the same model and examples under other names, and asked by other methods."""
    assay.build(model_of(name="here"), TRAIN, tmp_path / "i", origin={"model": "somewhere"})
    before = files(tmp_path / "i")
    again = Examples(TRAIN._rows, "elsewhere.jsonl")
    built = assay.build(model_of(name="there"), again, tmp_path / "i", method="graddot")
    assert built.method.name == "graddot"
    assert files(tmp_path / "i") == before
    assert assay.open(tmp_path / "i", model_of(name="third")).attribute(QUERIES).method == "gradcos"


# -- damaged, skipped --------------------------------------------------------------------------------------------------


@small
def test_a_damaged_shard_is_named(tmp_path: Path) -> None:
    model = model_of()
    assay.build(model, TRAIN, tmp_path / "i")
    file = tmp_path / "i" / "shards" / "c000-r000000008.safetensors"
    data = bytearray(file.read_bytes())
    data[-20] ^= 1
    file.write_bytes(data)
    with pytest.raises(CorruptIndex, match=r"c000-r000000008.*rows 8 to 11"):
        assay.open(tmp_path / "i", model).attribute(QUERIES)
    file.unlink()
    with pytest.raises(CorruptIndex, match="c000-r000000008"):
        assay.open(tmp_path / "i", model)


@small
def test_damaged_texts_are_named(tmp_path: Path) -> None:
    model = model_of()
    assay.build(model, TRAIN, tmp_path / "i")
    file = tmp_path / "i" / texts.FILE
    whole = file.read_bytes()
    for broken in (whole[:100], b"", whole[:-8]):
        file.write_bytes(broken)
        with pytest.raises(CorruptIndex, match=texts.FILE):
            assay.open(tmp_path / "i", model).attribute(QUERIES)
    texts.write_texts(tmp_path / "i", TRAIN[:5])
    with pytest.raises(CorruptIndex, match="has 5 rows for an index of 25"):
        assay.open(tmp_path / "i", model).attribute(QUERIES)


@small
@pytest.mark.parametrize("top", [None, 3])
def test_what_was_skipped_and_cut_is_noted(top: int | None, tmp_path: Path) -> None:
    """Row 6 overflows; three rows and a query are longer than the context."""
    module = language_model("Llama", dtype=torch.float32, num_hidden_layers=1)
    model = Model(module, CausalLM(tokenizer(), 8))
    long = "the big red dog ran under the tree and saw the cat"
    rows = examples(*TRAIN.texts[:6], "hello who", long, long, *TRAIN.texts[6:9], long)
    with torch.no_grad():  # of the word "hello" alone
        module.get_submodule("model.embed_tokens").weight[tokenizer().convert_tokens_to_ids("hello")] = float("inf")
    with pytest.raises(InputError, match=rows.ids[6]):
        assay.build(model, rows, tmp_path / "stopped")
    built = assay.build(model, rows, tmp_path / "i", method=GradCos(on_nonfinite="skip"))
    scores = built.score(examples("the cat ran", long), top=top)
    cut = (
        4 + sum(model.task.encode(row).cut for row in rows[:6]) + sum(model.task.encode(row).cut for row in rows[9:12])
    )
    assert scores.provenance.notes == (
        f"{cut} examples were longer than the context and were cut.",
        f"1 examples had a loss or gradient that is not finite and score 0: {rows.ids[6]}.",
    )
    if top is None:
        assert (scores.array[6] == 0).all()
    else:
        assert 6 not in scores.entries.rows()


# -- opened ------------------------------------------------------------------------------------------------------------


@small
def test_opening_with_the_model_given_or_loaded(tmp_path: Path) -> None:
    folder = saved("Llama", tmp_path / "model", num_hidden_layers=1)
    model = assay.load(folder)
    built = assay.build(model, TRAIN, tmp_path / "i", origin={"model": str(folder)})
    right = built.score(QUERIES).array
    for opened in (assay.open(tmp_path / "i"), assay.open(tmp_path / "i", model)):
        assert len(opened) == len(TRAIN)
        np.testing.assert_array_equal(opened.attribute(QUERIES).array, right)
    assay.build(model, TRAIN, tmp_path / "silent")
    with pytest.raises(InputError, match=r"does not know how to load. Give it: assay.open\(path, model\)"):
        assay.open(tmp_path / "silent")
    with pytest.raises(InputError, match="There is no index"):
        assay.open(tmp_path / "nothing")


@small
def test_the_checkpoints_of_a_run_may_stay_on_the_model(tmp_path: Path) -> None:
    """GradCos leaves them out of the index; the same model opens it."""
    model = model_of(2)
    assay.build(model, TRAIN, tmp_path / "i")
    right = assay.attribute(model, TRAIN, QUERIES, GradCos(compression="factored:16"))
    np.testing.assert_allclose(assay.open(tmp_path / "i", model).attribute(QUERIES).array, right.array, atol=1e-6)
    with pytest.raises(IndexMismatch, match="checkpoints"):
        assay.build(model, TRAIN, tmp_path / "t", method="tracin")
        assay.open(tmp_path / "t", model_of(0))
