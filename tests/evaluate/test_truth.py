"""The truth store: right numbers, each trained once, whatever kills it; one directory, one truth."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from tests.support import examples, language_model, tokenizer
from torch import nn

import assay
from assay.errors import InputError, MethodError, NonFiniteError
from assay.evaluate import LeaveGroupOut, LeaveOneOut, LeaveTopOut, Truth, truth
from assay.evaluate.subsets import RandomSubsets
from assay.training.retrain import Job, Work, retrained

N, Q = 24, 5


def data() -> tuple[Any, Any]:
    generator = torch.Generator().manual_seed(1)
    x, w = torch.randn(N + Q, 4, generator=generator), torch.randn(4, 3, generator=generator)
    y = (x @ w).argmax(1)
    return (x[:N], y[:N]), (x[N:], y[N:])


def recipe(**changes: Any) -> assay.Recipe:
    settings: dict[str, Any] = {"optimizer": "sgd", "lr": 0.3, "epochs": 2, "batch_size": 8, "seed": 3} | changes
    return assay.Recipe(lambda: nn.Linear(4, 3), assay.tasks.Classify(), **settings)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """Every job that is trained in this process."""
    jobs: list[Job] = []
    original = Work.losses

    def counted(self: Work, job: Job) -> Any:
        jobs.append(job)
        return original(self, job)

    monkeypatch.setattr(Work, "losses", counted)
    return jobs


def make(path: Path, subsets: Any = 6, **options: Any) -> Truth:
    train, queries = data()
    return truth(options.pop("recipe", recipe()), train, queries, path, subsets, processes=1, **options)


def test_losses_are_those_of_training_with_these_weights(tmp_path: Path) -> None:
    train, queries = data()
    found = make(tmp_path, seeds=2)
    assert found.masks.sum(1).tolist() == [N // 2] * 6
    for k in range(2):
        given = recipe(seed=3 + k)
        assert found.full_runs[k].tolist() == given.train(train).loss_of(queries).double().tolist()
        for j in (0, 5):
            weights = found.masks[j].astype(float)
            assert found.runs[k, j].tolist() == given.train(train, weights).loss_of(queries).double().tolist()
    assert np.array_equal(found.losses, found.runs.mean(0))
    assert np.array_equal(found.full, found.full_runs.mean(0))


def test_rebatching_trains_on_the_subset_alone(tmp_path: Path) -> None:
    (x, y), queries = data()
    found = make(tmp_path, rebatch=True)
    kept = torch.from_numpy(found.masks[2])
    assert found.losses[2].tolist() == recipe().train((x[kept], y[kept])).loss_of(queries).double().tolist()
    with pytest.raises(MethodError, match="batches differs"):
        make(tmp_path)


def test_only_what_is_missing_is_trained(tmp_path: Path, trained: list[Job]) -> None:
    first = make(tmp_path)
    assert len(trained) == 7
    again = make(tmp_path)
    assert len(trained) == 7
    assert np.array_equal(first.losses, again.losses)
    more = make(tmp_path, 9, seeds=2)  # three subsets more, and all ten retrainings with another seed
    assert len(trained) == 7 + 3 + 10
    assert np.array_equal(more.masks[:6], first.masks)
    assert np.array_equal(more.runs[0, :6], first.losses)
    fewer = make(tmp_path, 4)
    assert len(trained) == 20
    assert np.array_equal(fewer.losses, first.losses[:4])
    next(tmp_path.glob("*-seed4.safetensors")).unlink()
    make(tmp_path, 9, seeds=2)
    assert len(trained) == 21


def test_families_share_what_they_have_in_common(tmp_path: Path, trained: list[Job]) -> None:
    make(tmp_path, LeaveOneOut())
    assert len(trained) == N + 1
    scores = assay.attribute(None, *data(), method=assay.methods.Random())
    found = make(tmp_path, LeaveTopOut(scores, 1))
    assert len(trained) == N + 1
    assert [int(np.flatnonzero(~mask)[0]) for mask in found.masks] == scores.array.argmax(0).tolist()
    assert Truth.open(tmp_path, "leave one out").names[0] == f"without {found.train_ids[0]}"
    with pytest.raises(InputError, match="no single family"):
        Truth.open(tmp_path, "random")


def test_masks_of_each_family() -> None:
    train, queries = (assay.read(part) for part in data())
    names, masks = LeaveOneOut(5, seed=2).members(train)
    assert masks.sum(1).tolist() == [N - 1] * 5
    assert names[0] == f"without {train.ids[int(np.flatnonzero(~masks[0])[0])]}"
    labels = [int(label) for label in train.labels]
    names, masks = LeaveGroupOut("label").members(train)
    assert [sorted(np.flatnonzero(~mask)) for mask in masks] == [
        [row for row in range(N) if f"without {labels[row]}" == name] for name in names
    ]
    names, masks = LeaveGroupOut(["a", None, "b"] * 8).members(train)
    assert names == ("without a", "without b")
    assert np.flatnonzero(~masks[1]).tolist() == list(range(2, N, 3))
    scores = assay.attribute(None, train, queries, method=assay.methods.Random())
    _, masks = LeaveTopOut(scores, 3).members(train)
    for q in range(Q):
        assert sorted(np.flatnonzero(~masks[q])) == sorted(np.argsort(-scores.array[:, q])[:3])
    _, masks = RandomSubsets(4, 0.25, 1).members(train)
    assert masks.sum(1).tolist() == [6] * 4
    assert len({mask.tobytes() for mask in masks}) == 4


@pytest.mark.parametrize(
    ("subsets", "says"),
    [
        (0, "0 random subsets"),
        (RandomSubsets(3, 0.0), "fraction of 0.0"),
        (RandomSubsets(3, 1.0), "fraction of 1.0"),
        (LeaveOneOut(N + 1), f"between 1 and {N}"),
        (LeaveGroupOut("source"), "fewer than two groups by source"),
        (LeaveGroupOut(["a", "b"]), "2 groups were given"),
    ],
)
def test_subsets_that_cannot_be_drawn(subsets: Any, says: str, tmp_path: Path) -> None:
    with pytest.raises(MethodError, match=says):
        make(tmp_path / "new", subsets)
    assert not (tmp_path / "new").exists()


def test_a_directory_belongs_to_one_truth(tmp_path: Path) -> None:
    make(tmp_path, 2)
    before = sorted(path.name for path in tmp_path.iterdir())
    (x, y), queries = data()
    for other, says in (
        ((recipe(lr=0.2), (x, y), queries), "recipe.lr"),
        ((recipe(seed=4), (x, y), queries), "recipe.initial model, recipe.seed"),
        ((recipe(), (x + 1, y), queries), "train"),
        ((recipe(), (x, y), (queries[0][1:], queries[1][1:])), "queries"),
        ((LogisticRegression(), (x, y), queries), "recipe"),
    ):
        with pytest.raises(MethodError, match=f"{says}.* differs"):
            truth(*other, tmp_path, 2, processes=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    make(tmp_path, 2, recipe=recipe(checkpoints=2))  # how many states a run keeps changes no loss


def test_damage_and_absence_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no truth"):
        Truth.open(tmp_path)
    make(tmp_path, 3)
    file = next(tmp_path.glob("*-seed3.safetensors"))
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"not what was written.*Delete it"):
        Truth.open(tmp_path)
    file.unlink()
    with pytest.raises(InputError, match=r"1 of 4 retrainings .* are missing"):
        Truth.open(tmp_path)
    manifest = json.loads((tmp_path / "truth.json").read_text()) | {"version": 99}
    (tmp_path / "truth.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="Update Assay"):
        Truth.open(tmp_path)


def test_an_estimator_is_retrained_too(tmp_path: Path) -> None:
    (x, y), (xq, yq) = ((x.numpy(), y.numpy()) for x, y in data())
    found = truth(LogisticRegression(C=0.5), (x, y), (xq, yq), tmp_path, 4, processes=1)
    kept = found.masks[1]
    proba = LogisticRegression(C=0.5).fit(x[kept], y[kept]).predict_proba(xq)
    assert found.losses[1] == pytest.approx(-np.log(proba[np.arange(Q), yq]))


def test_texts_are_retrained_too(tmp_path: Path) -> None:
    train = examples("the cat sat", "a dog ran", "hello who are you", "the dog sat on the mat")
    given = assay.Recipe(
        language_model("Llama", dtype=torch.float32), assay.tasks.CausalLM(tokenizer(), 64), batch_size=2
    )
    found = truth(given, train, train[:2], tmp_path, 2, processes=1)
    expected = given.train(train, found.masks[0].astype(float)).loss_of(train[:2])
    assert found.losses[0].tolist() == expected.double().tolist()


SCRIPT = """
import sys, torch, assay
from assay.evaluate import truth
x, y, xq, yq = torch.load(sys.argv[1])
recipe = assay.Recipe(lambda: torch.nn.Linear(4, 3), assay.tasks.Classify(), optimizer="sgd", lr=0.3, epochs=60,
                      batch_size=8, seed=3)
print(truth(recipe, (x, y), (xq, yq), sys.argv[2], 8, processes=2).losses.sum())
"""


def test_a_kill_costs_what_was_under_way(tmp_path: Path, trained: list[Job]) -> None:
    """Two processes, killed with -9 after three retrainings: the workers end too, the rest is trained here, same bits."""
    (x, y), (xq, yq) = data()
    torch.save((x, y, xq, yq), tmp_path / "data.pt")
    store = tmp_path / "store"
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "data.pt"), str(store)]
    process = subprocess.Popen(command, env=os.environ, stderr=subprocess.DEVNULL)
    patience = time.monotonic() + 300
    while len(list(store.glob("*.safetensors"))) < 3 and process.poll() is None and time.monotonic() < patience:
        time.sleep(0.01)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    workers = [int(pid) for pid in children.read_text().split()] if children.exists() else []
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    kept = len(list(store.glob("*.safetensors")))
    assert 3 <= kept < 9
    resumed = truth(recipe(epochs=60), (x, y), (xq, yq), store, 8, processes=1)
    assert len(trained) == 9 - kept
    whole = truth(recipe(epochs=60), (x, y), (xq, yq), tmp_path / "undisturbed", 8, processes=1)
    assert np.array_equal(resumed.losses, whole.losses)
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.monotonic() < patience
        time.sleep(0.05)


def test_errors_of_a_worker_arrive(tmp_path: Path) -> None:
    """A NonFiniteError in another process is one here, and the directory stays usable."""

    class Broken(nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return super().forward(input) * float("nan")

    with pytest.raises(NonFiniteError, match=r"The loss of example .* is nan at step 0"):
        truth(assay.Recipe(lambda: Broken(4, 3), assay.tasks.Classify()), *data(), tmp_path, 2, processes=2)
    assert (tmp_path / "truth.json").exists()


def test_processes_below_one(tmp_path: Path) -> None:
    train, queries = data()
    given = recipe()
    work = Work(given, given.encode(train), given.encode(queries))
    with pytest.raises(MethodError, match="processes is 0"):
        list(retrained(work, [Job(np.ones(N), 0)], 0))
    with pytest.raises(MethodError, match="seeds is 0"):
        truth(given, train, queries, tmp_path, seeds=0)
