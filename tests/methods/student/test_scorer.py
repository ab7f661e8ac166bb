"""Scorers: what they predict, what they say of themselves, and their directory."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from scipy.stats import spearmanr
from tests.students import TOKENS, fitted, sentences, told, worth

from assay.errors import InputError, MethodError
from assay.methods.student import distil as distilling
from assay.methods.student.distil import distil
from assay.methods.student.ngrams import WIDTH, ngrams
from assay.methods.student.pieces import described, pieces
from assay.methods.student.scorer_file import load_scorer, save_scorer
from assay.methods.student.sealed import sealed

NEW = sentences(200, seed=9)


def test_it_predicts_texts_that_it_has_not_seen_and_says_how_well() -> None:
    scorer, held = fitted()
    predicted, right = scorer.predict(NEW), np.array([worth(text) for text in NEW])
    found = float(spearmanr(predicted.value, right).statistic)
    assert found > 0.85
    assert held.low - 0.05 < found < held.high + 0.05
    assert held.within is not None
    assert held.unseen_within is not None
    assert abs(held.within - held.spearman) < 0.1
    assert ((predicted.low < right) & (right < predicted.high)).mean() == pytest.approx(0.9, abs=0.07)
    errors = (predicted.value - right) / predicted.stderr
    assert np.sqrt(np.mean(errors**2)) == pytest.approx(1, abs=0.2)


def test_its_correlation_is_told_from_rows_it_was_not_fitted_to() -> None:
    """Values that are noise are fitted well and predicted not at all."""
    noise = np.random.default_rng(3).normal(size=120)
    _, held = distil(sentences(120), noise, [None] * 120)
    assert held.spearman < 0.25  # far below: a mean of the others is low where a row is high
    assert held.within is None
    assert held.unseen is None


def test_a_student_that_knows_only_the_source_is_seen() -> None:
    """Each source has its own words and its own level of value, and noise within: all random folds see is the source."""
    random, texts, names, values = np.random.default_rng(0), [], [], []
    for k in range(4):
        words = TOKENS[5 * k : 5 * k + 5]
        texts += sentences(50, seed=k, words=words)
        names += [f"s{k}"] * 50
        values += (k + 0.1 * random.normal(size=50)).tolist()
    scorer, held = distil(texts, np.array(values), names)
    assert held.spearman > 0.85
    assert held.within is not None
    assert abs(held.within) < 0.3
    assert held.unseen is not None
    assert held.unseen < 0.5
    assert scorer.shift is not None
    assert scorer.shift > 0.5  # of levels 0, 1, 2, 3


def test_more_rows_than_are_decomposed_give_the_same_regression(monkeypatch: pytest.MonkeyPatch) -> None:
    """By conjugate gradients; alpha is that of the part."""
    texts = sentences(90)
    values = np.array([worth(text) for text in texts])
    monkeypatch.setattr(distilling, "MOST", 60)
    part, _ = distil(texts, values, [None] * 90)
    chosen: list[float] = []
    plain = distilling.fit

    def spied(kernel: np.ndarray, y: np.ndarray) -> Any:
        ridge = plain(kernel, y, chosen[0] if chosen and len(y) == 90 else None)
        chosen.append(ridge.alpha)
        return ridge

    monkeypatch.setattr(distilling, "fit", spied)
    distil(texts, values, [None] * 90)
    monkeypatch.setattr(distilling, "MOST", 90)
    whole, _ = distil(texts, values, [None] * 90)
    np.testing.assert_allclose(part.predict(NEW).value, whole.predict(NEW).value, atol=1e-5)


def test_equal_texts_count_once() -> None:
    texts = sentences(40)
    values = np.array([worth(text) for text in texts])
    once, _ = distil(texts, values, [None] * 40)
    twice, held = distil(texts + texts[:15], np.concatenate([values, values[:15]]), [None] * 55)
    assert held.rows == 40
    np.testing.assert_array_equal(once.value.grams, twice.value.grams)


def test_what_is_unlike_the_sample_is_told() -> None:
    scorer, _ = fitted(400)
    assert scorer.predict(NEW).in_domain.mean() > 0.95
    strange = ["Der Zweck heiligt die Mittel nicht", "def f(x): return x ** 2", "", "0x00ff3c;;{}", "βαθύς ουρανός"]
    found = scorer.predict(strange)
    assert not found.in_domain.any()
    assert (found.novelty > 2 * scorer.threshold).all()


def test_an_ngram_of_a_single_row_leaves_no_trace() -> None:
    texts = sentences(60)
    values = np.array([worth(text) for text in texts])
    texts[7] += " Zanzibar 0171-2837465"
    scorer, _ = distil(texts, values, [None] * 60)
    own = np.flatnonzero(ngrams(["Zanzibar 0171-2837465"]).toarray()[0])
    others = np.flatnonzero((ngrams([text for k, text in enumerate(texts) if k != 7]) > 0).sum(0))
    alone = np.setdiff1d(own, others)
    assert len(alone) > 30
    assert (scorer.value.grams[alone] == 0).all()
    assert (scorer.log_square.grams[alone] == 0).all()
    assert not scorer.seen[alone].any()
    taught, _ = distil(texts, values, [None] * 60, told=[told(text) for text in texts])
    features, row = described([[piece for piece, _ in pieces(text)] for text in texts])
    rows = np.array([np.asarray(features[row == k].sum(0)).ravel() > 0 for k in range(60)]).sum(0)
    assert (taught.words.weights[rows < 2] == 0).all()
    assert (taught.words.weights[rows >= 2] != 0).sum() > 50


def test_too_few_texts_are_refused() -> None:
    with pytest.raises(MethodError, match="19 distinct"):
        distil(sentences(19), np.arange(19.0), [None] * 19)
    with pytest.raises(MethodError, match="1 distinct values"):
        distil(sentences(30), np.ones(30), [None] * 30)


def test_long_texts_are_read_as_far_as_the_model_did() -> None:
    scorer, _ = fitted(longest=30)
    text = "the cat sat on the mat and saw the big red dog"
    one, other = scorer.predict([text, text[:30] + " dog" * 50]).value
    assert one == other


# -- on disk -----------------------------------------------------------------------------------------------------------


def test_a_scorer_comes_back_with_the_same_bits(tmp_path: Path) -> None:
    texts = sentences(120)
    values = np.array([worth(text) for text in texts])
    scorer, _ = distil(texts, values, [None] * 120, told=[told(text) for text in texts])
    scorer = replace(scorer, about={"sample": {"rows": 120}})
    checksum = save_scorer(scorer, tmp_path / "scorer")
    loaded, again = load_scorer(tmp_path / "scorer")
    assert again == checksum
    assert loaded.about == scorer.about
    for name, column in vars(scorer.predict(NEW)).items():
        np.testing.assert_array_equal(column, getattr(loaded.predict(NEW), name))
    assert {file.name for file in (tmp_path / "scorer").iterdir()} == {"scorer.json", "weights.safetensors"}
    assert sum(file.stat().st_size for file in (tmp_path / "scorer").iterdir()) < 2 * 2**20
    assert load_file(tmp_path / "scorer" / "weights.safetensors")["value.grams"].shape == (WIDTH,)


def test_no_training_text_is_inside(tmp_path: Path) -> None:
    scorer, _ = fitted()
    save_scorer(scorer, tmp_path / "scorer")
    content = b"".join(file.read_bytes() for file in (tmp_path / "scorer").iterdir()).lower()
    for text in sentences(120):
        words = text.split()
        assert all(" ".join(words[k : k + 2]).encode() not in content for k in range(len(words) - 1))


def damage_weights(folder: Path) -> None:
    path = folder / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(bytes(content))


def change(folder: Path, reseal: bool = False, **entries: Any) -> None:
    path = folder / "scorer.json"
    content = json.loads(path.read_text("utf-8")) | entries
    if reseal:
        content.pop("checksum")
        content = sealed(content)
    path.write_text(json.dumps(content), "utf-8")


@pytest.mark.parametrize(
    ("break_it", "told"),
    [
        (damage_weights, "content is not what was written"),
        (lambda folder: (folder / "weights.safetensors").unlink(), "missing"),
        (lambda folder: (folder / "scorer.json").unlink(), "holds no scorer.json"),
        (lambda folder: (folder / "scorer.json").write_text("{"), "not readable JSON"),
        (lambda folder: change(folder, about={"held_out": "excellent"}), "checksum"),
        (lambda folder: change(folder, version=1), "version 1"),
        (lambda folder: change(folder, format="assay-run"), "assay-scorer"),
        (lambda folder: change(folder, True, features="ngrams-2"), "ngrams-2"),
        (lambda folder: change(folder, True, numbers={}), "damaged"),
    ],
)
def test_a_scorer_that_was_changed_is_refused(break_it: Any, told: str, tmp_path: Path) -> None:
    save_scorer(fitted()[0], tmp_path / "scorer")
    load_scorer(tmp_path / "scorer")
    break_it(tmp_path / "scorer")
    with pytest.raises(InputError, match=told):
        load_scorer(tmp_path / "scorer")


def test_it_is_not_written_over_something_else(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    for place in (tmp_path, tmp_path / "letter.txt"):
        with pytest.raises(InputError, match="another name"):
            save_scorer(fitted()[0], place)
    assert (tmp_path / "letter.txt").read_text() == "dear"


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.students import fitted
from assay.methods.student.pieces import described, pieces
from assay.methods.student.scorer_file import save_scorer
steps, replace = [int(sys.argv[2])], Path.replace
def dying(self, target):
    if steps[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    steps[0] -= 1
    return replace(self, target)
Path.replace = dying
save_scorer(fitted(60)[0], sys.argv[1])
"""


def test_an_export_that_was_killed_is_no_scorer(tmp_path: Path) -> None:
    """Killed before the last rename: the weights are there, the manifest is not, and the same command goes through."""
    place = tmp_path / "scorer"
    done = subprocess.run(
        [sys.executable, "-c", KILLED, place, "1"], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )
    assert done.returncode == -signal.SIGKILL
    assert (place / "weights.safetensors").exists()
    with pytest.raises(InputError, match="holds no scorer"):
        load_scorer(place)
    (place / ".run.abc.tmp").mkdir(exist_ok=True)
    save_scorer(fitted(60)[0], place)
    load_scorer(place)
