import math

import numpy as np
import pytest

import assay.examples as examples
from assay.errors import MethodError
from assay.methods import streamed
from assay.methods.lexical import BM25


def read(texts: list[str]) -> examples.Examples:
    return examples.read([{"text": text} for text in texts])


def random_texts(n: int, seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    vocabulary = [f"w{j}" for j in range(40)]
    weights = 1 / np.arange(1, 41)
    return [" ".join(rng.choice(vocabulary, size=rng.integers(1, 30), p=weights / weights.sum())) for _ in range(n)]


def naive(train: list[str], query: str, k1: float, b: float) -> list[float]:
    """The formula, word by word, in float64."""
    rows = [text.split() for text in train]
    N, avg = len(rows), sum(map(len, rows)) / len(rows)
    scores = []
    for row in rows:
        score = 0.0
        for w in query.split():
            n = sum(w in other for other in rows)
            tf = row.count(w)
            idf = math.log(1 + (N - n + 0.5) / (n + 0.5))
            score += idf * tf * (k1 + 1) / (tf + k1 * (1 - b + b * len(row) / avg)) if tf else 0.0
        scores.append(score)
    return scores


def test_by_hand_on_three_texts() -> None:
    train = read(["the cat sat", "The dog; the cat?", "a bird"])  # lengths 3, 4, 2: mean 3
    scores = BM25().fit(None, train).score(read(["cat", "THE the", "fish"]))
    idf = math.log(1 + 1.5 / 2.5)  # "cat" and "the" are in two of the three texts
    one_in_3, one_in_4 = 2.5 / (1 + 1.5), 2.5 / (1 + 1.5 * (0.25 + 0.75 * 4 / 3))
    two_in_4 = 2 * 2.5 / (2 + 1.5 * (0.25 + 0.75 * 4 / 3))
    expected = [[idf * one_in_3, 2 * idf * one_in_3, 0], [idf * one_in_4, 2 * idf * two_in_4, 0], [0, 0, 0]]
    np.testing.assert_allclose(scores.array, expected, rtol=1e-6)
    assert (scores.method, scores.unit, scores.coverage) == ("bm25", "arbitrary", None)


@pytest.mark.parametrize(("k1", "b"), [(1.5, 0.75), (0.0, 0.75), (2.0, 0.0), (0.9, 1.0)])
def test_against_the_formula(k1: float, b: float) -> None:
    train, queries = random_texts(50, 0), random_texts(8, 1)
    array = BM25(k1=k1, b=b).fit(None, read(train)).score(read(queries)).array
    np.testing.assert_allclose(array, np.array([naive(train, query, k1, b) for query in queries]).T, rtol=1e-6)


def test_every_word_counts_for_more_than_nothing() -> None:
    everywhere = BM25().fit(None, read(["same"] * 5)).score(read(["same", "other same", "other"])).array
    assert (everywhere[:, 0] > 0).all()
    np.testing.assert_array_equal(everywhere[:, 0], everywhere[:, 1])  # a word that no text has adds nothing
    assert (everywhere[:, 2] == 0).all()


@pytest.mark.parametrize("block", [1, 150, 2**22])
def test_top_k_in_blocks_is_the_top_of_the_dense_scores(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamed, "BLOCK_SCORES", block)
    fitted, queries = BM25().fit(None, read(random_texts(50, 0))), read(random_texts(8, 1))
    dense, top = fitted.score(queries), fitted.score(queries, top=7)
    assert top.top(7).to_dict() == dense.top(7).to_dict()
    assert not top.is_dense


@pytest.mark.parametrize("train", [["...", "!?"], ["...", "a"]])
@pytest.mark.parametrize("top", [None, 3])
def test_texts_without_words_score_zero(train: list[str], top: int | None) -> None:
    scores = BM25().fit(None, read(train)).score(read(["--", "b"]), top=top)
    assert len(scores.top()) == 0
    if top is None:
        assert (scores.array == 0).all()


def test_only_the_completion_is_searched_for_when_asked() -> None:
    train = read(["red", "blue"])
    queries = examples.read([{"prompt": "red ", "completion": "blue"}])
    whole = BM25().fit(None, train).score(queries).array
    completion = BM25(query="completion").fit(None, train).score(queries).array
    assert (whole > 0).all()
    assert completion[0, 0] == 0 < completion[1, 0]


def test_provenance_is_enough_to_repeat() -> None:
    train, queries = read(["a b", "b"]), read(["b"])
    provenance = BM25(k1=2.0).fit(None, train).score(queries).provenance
    assert provenance.parameters == {"k1": 2.0, "b": 0.75, "query": "whole"}
    assert (provenance.train_fingerprint, provenance.query_fingerprint) == (
        train.fingerprint(), queries.fingerprint(),
    )  # fmt: skip
    assert provenance.seconds > 0
    assert provenance.peak_memory > 0


@pytest.mark.parametrize("wrong", [{"k1": -1.0}, {"k1": math.nan}, {"b": 1.5}, {"b": -0.1}, {"query": "prompt"}])
def test_refuses_parameters_out_of_range(wrong: dict) -> None:
    with pytest.raises(MethodError, match="bm25 cannot take"):
        BM25(**wrong)
