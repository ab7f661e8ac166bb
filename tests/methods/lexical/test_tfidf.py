import math
from collections import Counter

import numpy as np
import pytest

import assay.examples as examples
from assay.errors import MethodError
from assay.methods import streamed
from assay.methods.lexical import TFIDF


def read(texts: list[str]) -> examples.Examples:
    return examples.read([{"text": text} for text in texts])


def random_texts(n: int, seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice([f"w{j}" for j in range(15)], size=rng.integers(1, 20))) for _ in range(n)]


def grams(text: str, longest: int) -> Counter:
    w = text.split()
    return Counter(" ".join(w[i : i + n]) for n in range(1, longest + 1) for i in range(len(w) - n + 1))


def naive(train: list[str], queries: list[str], longest: int) -> np.ndarray:
    """The formula with dictionaries, in float64."""
    rows = [grams(text, longest) for text in train]
    n = Counter(gram for row in rows for gram in row)

    def unit(row: Counter) -> dict[str, float]:
        weight = {w: tf * (math.log((1 + len(rows)) / (1 + n[w])) + 1) for w, tf in row.items() if w in n}
        norm = math.sqrt(sum(x * x for x in weight.values()))
        return {w: x / norm for w, x in weight.items()}

    train_rows, query_rows = map(unit, rows), [unit(grams(text, longest)) for text in queries]
    return np.array([[sum(x * q.get(w, 0.0) for w, x in row.items()) for q in query_rows] for row in train_rows])


@pytest.mark.parametrize("longest", [1, 2, 3])
def test_against_the_formula(longest: int) -> None:
    train, queries = random_texts(40, 0), [*random_texts(6, 1), "w1 unseen w2", "unseen"]
    array = TFIDF(ngrams=longest).fit(None, read(train)).score(read(queries)).array
    assert array.dtype == np.float32
    np.testing.assert_allclose(array, naive(train, queries, longest), rtol=1e-6, atol=1e-9)


def test_identical_texts_score_one_and_disjoint_ones_zero() -> None:
    texts = ["The cat sat on the mat.", "a bird sang", "one"]
    array = TFIDF().fit(None, read(texts)).score(read(["the CAT sat on the mat", "a bird sang", "one"])).array
    np.testing.assert_allclose(array, np.eye(3), atol=1e-7)
    assert (array[~np.eye(3, dtype=bool)] == 0).all()


@pytest.mark.parametrize("block", [1, 100, 2**22])
def test_top_k_in_blocks_is_the_top_of_the_dense_scores(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamed, "BLOCK_SCORES", block)
    fitted, queries = TFIDF().fit(None, read(random_texts(40, 0))), read(random_texts(6, 1))
    assert fitted.score(queries, top=5).top(5).to_dict() == fitted.score(queries).top(5).to_dict()


@pytest.mark.parametrize("train", [["...", "!?"], ["...", "a"]])
def test_texts_without_words_score_zero(train: list[str]) -> None:
    assert (TFIDF().fit(None, read(train)).score(read(["--", "b"])).array == 0).all()


def test_refuses_parameters_out_of_range() -> None:
    with pytest.raises(MethodError, match="ngrams=0"):
        TFIDF(ngrams=0)
