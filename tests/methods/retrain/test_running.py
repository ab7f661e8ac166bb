"""Running: the cache on disk, a kill, other processes, stopping rules, groups."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.tree import DecisionTreeClassifier
from tests.methods.retrain import games

import assay
from assay import progress
from assay.errors import DataError, InputError, MethodError
from assay.methods import Banzhaf, LeaveOneOut, Shapley
from assay.methods.retrain import pool
from assay.methods.retrain.cache import HEADER, RECORD, Cache, key_of
from assay.methods.retrain.game import Evaluator, Function, Game
from assay.methods.retrain.pool import Runner
from assay.methods.retrain.samplers import Subsets
from assay.methods.retrain.stopping import RankStability, Seconds, StandardError, State, TopK, Updates, parse_stop

(X, Y), (XV, YV) = games.data(24)
TRAIN, VALID = assay.read((X, Y)), assay.read((XV, YV))


def keys(count: int) -> list[bytes]:
    return [key_of(np.arange(count) == k) for k in range(count)]


# -- the cache ---------------------------------------------------------------------------------------------------------


def test_what_was_written_is_there_and_the_first_value_holds(tmp_path: Path) -> None:
    cache = Cache(tmp_path, "f" * 64)
    names, values = keys(5), np.array([0.1, -2.0, np.pi, 1e-300, 0.0])
    np.testing.assert_array_equal(cache.settle(names, values), values)
    np.testing.assert_array_equal(cache.settle(names[:2], values[:2] + 1), values[:2])
    cache.close()
    again = Cache(tmp_path, "f" * 64)
    assert again.found == 5
    assert [again[name] for name in names] == values.tolist()
    assert Cache(tmp_path, "e" * 64).found == 0
    assert os.path.getsize(next(tmp_path.glob("fff*"))) == HEADER + 5 * RECORD


@pytest.mark.parametrize("cut", [1, 17, 31, 40])
def test_a_record_cut_short_is_lost_and_the_rest_goes_on(tmp_path: Path, cut: int) -> None:
    cache = Cache(tmp_path, "f" * 64)
    cache.settle(keys(5), np.arange(5.0))
    cache.close()
    file = next(tmp_path.iterdir())
    os.truncate(file, file.stat().st_size - cut)
    again = Cache(tmp_path, "f" * 64)
    assert again.found == 5 - 1 - cut // RECORD
    again.settle(keys(5), np.arange(5.0))
    again.close()
    assert Cache(tmp_path, "f" * 64).found == 5


def test_a_changed_record_is_not_believed_and_another_file_is_refused(tmp_path: Path) -> None:
    cache = Cache(tmp_path, "f" * 64)
    cache.settle(keys(3), np.arange(3.0))
    cache.close()
    file = next(tmp_path.iterdir())
    content = bytearray(file.read_bytes())
    content[HEADER + RECORD + 18] ^= 1
    file.write_bytes(content)
    assert Cache(tmp_path, "f" * 64).found == 2
    file.write_bytes(b"something else entirely" * 10)
    with pytest.raises(InputError, match="not a cache"):
        Cache(tmp_path, "f" * 64)


def test_two_runs_may_append_at_once(tmp_path: Path) -> None:
    one, other = Cache(tmp_path, "f" * 64), Cache(tmp_path, "f" * 64)
    names = keys(6)
    one.settle(names[:4], np.arange(4.0))
    other.settle(names[2:], np.arange(4.0))
    assert Cache(tmp_path, "f" * 64).found == 6


def note(values: Any, word: str) -> str:
    return next(text for text in values.provenance.notes if word in text)


def test_a_run_continues_from_the_cache_with_the_same_result(tmp_path: Path) -> None:
    def method(updates: int, **more: Any) -> Shapley:
        return Shapley(stop=f"updates:{updates}", **more)

    alone = assay.value(LogisticRegression(), TRAIN, VALID, method(12))
    assay.value(LogisticRegression(), TRAIN, VALID, method(5, cache=str(tmp_path)))
    resumed = assay.value(LogisticRegression(), TRAIN, VALID, method(12, cache=str(tmp_path)))
    np.testing.assert_array_equal(resumed.array, alone.array)
    np.testing.assert_array_equal(resumed.stderr, alone.stderr)
    repeated = assay.value(LogisticRegression(), TRAIN, VALID, method(12, cache=str(tmp_path)))
    np.testing.assert_array_equal(repeated.array, alone.array)
    looked, known = (games.number_of(note(repeated, "utilities,"), word) for word in ("utilities", "out"))
    assert looked == known


def test_the_cache_keeps_models_data_and_seeds_apart(tmp_path: Path) -> None:
    """In one directory, with each of them changed in turn: what a run without a cache finds."""

    def loo(depth: int = 2, on: Any = VALID, seed: int = 0, cache: str | None = str(tmp_path)) -> list[float]:
        model = DecisionTreeClassifier(splitter="random", max_depth=depth)
        return assay.value(model, TRAIN, on, LeaveOneOut(seed=seed, cache=cache)).array.tolist()

    usual = loo()
    for change in ({"depth": 1}, {"on": TRAIN}, {"seed": 1}):
        assert loo(**change) == loo(**change, cache=None) != usual  # type: ignore[arg-type]
    assert loo() == usual


def test_groups_are_remembered_by_their_rows(tmp_path: Path) -> None:
    """By whatever method."""
    by = tuple("abc"[k % 3] for k in range(24))
    assay.value(LogisticRegression(), TRAIN, VALID, Shapley(by=by, cache=str(tmp_path)))
    again = assay.value(LogisticRegression(), TRAIN, VALID, Shapley(by=by, cache=str(tmp_path)))
    looked, known = (games.number_of(note(again, "utilities,"), word) for word in ("utilities", "out"))
    assert looked == known == 8
    other = assay.value(LogisticRegression(), TRAIN, VALID, LeaveOneOut(by=by, cache=str(tmp_path)))
    assert games.number_of(note(other, "utilities,"), "out") == 4  # all, and all but one each


class Remembering(Function):
    """A game whose evaluator returns how often it was asked since it forgot."""

    def evaluator(self) -> Any:
        class Asked(Evaluator):
            times = 0

            def reset(self) -> None:
                self.times = 0

            def __call__(self, rows: np.ndarray) -> float:
                self.times += 1
                return float(self.times)

        return Asked()


def test_a_unit_starts_without_memory_and_what_was_settled_first_holds() -> None:
    units = [Subsets(np.eye(4, dtype=bool)[:2]), Subsets(np.eye(4, dtype=bool)[1:4])]
    with Runner(Game(Remembering(4, lambda mask: 0.0, "asked")), Cache(None, "")) as runner:
        found = [utilities.tolist() for (utilities,) in runner.run((unit,) for unit in units)]
    # The second unit counts from 1 again; its first set, {1}, was worth 2 before and stays so.
    assert found == [[1.0, 2.0], [2.0, 2.0, 3.0]]


KILLED = """
import sys, time
import numpy as np
from sklearn.linear_model import LogisticRegression
import assay
from assay.methods import Shapley
from tests.methods.retrain import games

def slow(model, X, y):
    time.sleep(0.005)
    return float((model.predict(X) == y).mean())

train, valid = games.data(14)
values = assay.value(LogisticRegression(), train, valid, Shapley(scoring=slow, stop="updates:6", tolerance=0, cache=sys.argv[1]))
np.save(sys.argv[2], values.array)
print([text for text in values.provenance.notes if "utilities," in text][0])
"""


def test_a_kill_costs_nothing_that_was_done(tmp_path: Path, repository: Path) -> None:
    """SIGKILL in the middle; the same command then ends with the bits of a run that nobody disturbed."""
    script = tmp_path / "killed.py"
    script.write_text(KILLED, "utf-8")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(repository / "src"), str(repository)])}

    def start(cache: str, out: str) -> subprocess.Popen[str]:
        words = [sys.executable, str(script), str(tmp_path / cache), str(tmp_path / out)]
        return subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True, cwd=repository)

    whole = start("whole", "whole.npy")
    running = start("cut", "cut.npy")
    deadline = time.monotonic() + 120
    while not any(file.stat().st_size > HEADER + 30 * RECORD for file in (tmp_path / "cut").glob("*")):
        assert time.monotonic() < deadline
        assert running.poll() is None, "it ended before it could be killed"
        time.sleep(0.005)
    running.send_signal(signal.SIGKILL)
    running.wait()
    running.stdout.close()  # type: ignore[union-attr]
    assert not (tmp_path / "cut.npy").exists()
    told, _ = start("cut", "cut.npy").communicate()
    whole.communicate()
    np.testing.assert_array_equal(np.load(tmp_path / "cut.npy"), np.load(tmp_path / "whole.npy"))
    assert 30 <= games.number_of(told, "out") < games.number_of(told, "utilities")


# -- processes ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other processes are started without waiting to see whether it is worth it."""
    monkeypatch.setattr(pool, "ALONE", 0.0)


def test_a_short_run_starts_no_process() -> None:
    game = Game(Function(6, lambda mask: float(mask.sum()), "short"))
    with Runner(game, Cache(None, ""), processes=2) as runner:
        units = ((Subsets(np.eye(6, dtype=bool)[[k]]),) for k in range(6))
        assert [float(batch[0][0]) for batch in runner.run(units)] == [1.0] * 6
        assert runner._pool is None  # pyright: ignore[reportPrivateUsage]


@pytest.mark.parametrize("method", [Shapley(stop="updates:30"), Banzhaf(stop="updates:160")], ids=lambda m: m.name)
@pytest.mark.usefixtures("_at_once")
def test_more_processes_give_the_same_bits(method: Any) -> None:
    from dataclasses import replace

    model = DecisionTreeClassifier(max_depth=3, random_state=0)
    one = assay.value(model, TRAIN, VALID, method)
    two = assay.value(model, TRAIN, VALID, replace(method, processes=2))
    np.testing.assert_array_equal(one.array, two.array)
    np.testing.assert_array_equal(one.stderr, two.stderr)


@pytest.mark.usefixtures("_at_once")
def test_other_processes_do_work_and_errors_in_them_arrive() -> None:
    """Units computed elsewhere carry the other process's number."""

    def number(mask: np.ndarray) -> float:
        time.sleep(0.02)
        return float(os.getpid())

    drawn = ((Subsets(np.random.default_rng(k).random((2, 40)) < 0.5),) for k in range(10_000))
    found: set[float] = set()
    with Runner(Game(Function(40, number, "process")), Cache(None, ""), processes=2) as runner:
        deadline = time.monotonic() + 100
        for (utilities,) in runner.run(drawn):
            found.update(utilities.tolist())
            if len(found) == 2 or time.monotonic() > deadline:
                break
    assert len(found) == 2
    assert os.getpid() in found


# -- stopping ----------------------------------------------------------------------------------------------------------


def state(values: Any, stderr: Any, updates: int = 100, seconds: float = 1.0, history: Any = ()) -> State:
    array = np.asarray(values, dtype=float)
    return State(array, np.asarray(stderr, dtype=float), np.full(len(array), updates), updates, seconds, history)


def test_rules_and_their_combinations() -> None:
    values, exact, rough = [1.0, -2.0, 0.5], [0.05, 0.09, 0.01], [0.05, 0.2, 0.01]
    assert StandardError(0.05)(state(values, exact))
    assert not StandardError(0.05)(state(values, rough))
    assert not StandardError(0.05)(state(values, exact, updates=4))
    assert Updates(100)(state(values, exact))
    assert not Updates(101)(state(values, exact))
    assert Updates(33, each=True)(state(values, exact))
    assert not Updates(34, each=True)(state(values, exact))
    assert Seconds(1)(state(values, exact))
    assert not Seconds(2)(state(values, exact))
    assert TopK(1)(state(values, exact, updates=96))
    assert not TopK(1)(state([1.0, 0.9, 0.0], rough, updates=96))
    past = [(40, np.array([0.8, -1.0, 0.4])), (90, np.array([-1.0, 1.0, 0.0]))]
    assert RankStability(0.01)(state(values, exact, history=past))
    assert not RankStability(0.01)(state(values, exact, history=[(40, np.array([-1.0, 2.0, 0.0]))]))
    either, both = StandardError(0.05) | Seconds(2), StandardError(0.05) & Seconds(2)
    assert either(state(values, exact))
    assert not both(state(values, exact))


def test_rules_as_text() -> None:
    text = "stderr:0.05 | rank:0.01 & updates:10n | top:3 | seconds:60"
    assert str(parse_stop(text)) == text
    assert parse_stop("updates:500") == Updates(500)
    assert parse_stop(Seconds(3)) == Seconds(3)
    for wrong in ("", "stderr", "stderr:x", "stderr:-1", "mins:3", "top:1.5", "updates:5 |", "seconds:5n"):
        with pytest.raises(MethodError, match="stopping rule"):
            parse_stop(wrong)


def test_a_run_stops_where_its_rule_says() -> None:
    utility, _ = games.additive(8, noise=0.5)
    loose = games.run(
        utility, Shapley(stop=StandardError(0.05) | Updates(300), exact=0, tolerance=0, sampler="permutation")
    )
    assert loose.stderr.max() <= 0.05 * np.abs(loose.array).max()
    assert 16 <= games.number_of(loose.provenance.notes[0], "updates") < 300
    assert loose.provenance.parameters["stop"] == "stderr:0.05 | updates:300"


def test_a_run_says_what_is_ahead_and_how_to_be_able_to_go_on(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    told: list[str] = []
    for method in (
        Shapley(stop="stderr:0.05 | updates:5", exact=0, sampler="permutation"),
        Shapley(stop="stderr:0.05 & updates:1n | seconds:0.001", exact=0, cache=str(tmp_path)),
        Banzhaf(stop="updates:2n", exact=0),
    ):
        utility, _ = games.additive(8, noise=0.5)
        with progress.shown():
            games.run(utility, method)
        told.append(" ".join(capsys.readouterr().err.split()))
    assert "8 players; stops at stderr:0.05 | updates:5; an update is up to 9 fits, 45 at most. With a cache" in told[0]
    assert "an update is up to 18 fits." in told[1]
    assert "cache" not in told[1]
    assert "an update is one fit, 16 at most." in told[2]


# -- confidence, groups, seeds -----------------------------------------------------------------------------------------


def test_confidence_says_how_often_a_repeated_run_agrees() -> None:
    values = assay.value(LogisticRegression(), TRAIN, VALID, Shapley(stop="updates:40"))
    found = values.confidence(5)
    assert found["highest"].sum() == pytest.approx(5)
    assert found["lowest"].sum() == pytest.approx(5)
    assert found["highest"][values.array.argmax()] > 0.5
    assert found["lowest"][values.array.argmax()] < 0.05


def test_groups_by_source_label_cluster_and_name() -> None:
    frame = pd.DataFrame({"x": X[:, 0], "z": X[:, 1], "y": Y, "source": [f"s{k % 3}" for k in range(24)]})
    train, valid = assay.read(frame, label="y"), assay.read((XV[:, :2], YV))
    for by, count in (("source", 3), ("label", 2), ("cluster:4", 4), (tuple("abcde"[k % 5] for k in range(24)), 5)):
        values = assay.value(LogisticRegression(), train, valid, Shapley(by=by))
        assert len(values.ids) == count
        text = note(values, "U(all)").replace(",", "").split()
        assert values.array.sum() == pytest.approx(float(text[2]) - float(text[5]), abs=1e-5)
        assert sum(values.train.columns["examples"]) == 24
    for by, error in (("sauce", MethodError), (("a", "b"), MethodError), ("cluster:99", MethodError)):
        with pytest.raises(error):
            assay.value(LogisticRegression(), train, valid, Shapley(by=by))
    with pytest.raises(DataError, match="no sources"):
        assay.value(LogisticRegression(), TRAIN, VALID, Shapley(by="source"))


def test_leave_one_out_over_seeds_has_paired_differences() -> None:
    model = DecisionTreeClassifier(splitter="random", max_depth=2)
    several = assay.value(model, TRAIN, VALID, LeaveOneOut(repeats=3))
    each = [assay.value(model, TRAIN, VALID, LeaveOneOut(seed=seed)).array for seed in range(3)]
    np.testing.assert_allclose(several.array, np.mean(each, axis=0), atol=1e-12)
    np.testing.assert_allclose(several.stderr, np.std(each, axis=0, ddof=1) / np.sqrt(3), atol=1e-12)
    assert each[0].tolist() != each[1].tolist()
