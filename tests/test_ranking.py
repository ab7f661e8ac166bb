import numpy as np
import pytest

from assay.errors import InputError, NonFiniteError
from assay.ranking import NONE, TopK, best

RANDOM = np.random.default_rng(0)
TIED = [RANDOM.integers(-2, 4, n).astype(float).tolist() for n in (1, 2, 3, 7, 20, 20, 20)]


def naive(column: list[float], k: int, sign: int) -> list[int]:
    rows = sorted(range(len(column)), key=lambda row: (-sign * column[row], row))
    return [row for row in rows if sign * column[row] > 0][:k]


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("k", [1, 2, 3, 5, 19, 20, 35])
def test_best_is_a_full_sort_with_ties_by_row(k: int, sign: int) -> None:
    for column in TIED:
        assert best(np.array(column), k, sign).tolist() == naive(column, k, sign)


@pytest.mark.parametrize("k", [1, 2, 5, 20, 25])
def test_top_k_of_columns(k: int) -> None:
    block = TIED[-3:]
    top = TopK.of_columns((np.array(column) for column in block), k)
    assert top.k == min(k, 20)
    for query, column in enumerate(block):
        for sign in (1, -1):
            rows, scores = top.side(query, sign)
            assert rows.tolist() == naive(column, k, sign)
            assert scores.tolist() == [column[row] for row in rows]
    assert top.rows().tolist() == sorted({row for q in block for sign in (1, -1) for row in naive(q, k, sign)})


def test_ends_of_the_wrong_sign_are_neither_helpful_nor_harmful() -> None:
    rows = np.array([[4, 2, 0]])
    top = TopK.of_ends(rows, np.array([[2, 0, -1]], np.float32), rows[:, ::-1], np.array([[-1, 0, 2]], np.float32))
    assert top.helpful_rows.tolist() == [[4, NONE, NONE]]
    assert top.harmful_rows.tolist() == [[0, NONE, NONE]]
    assert top.side(0, 1)[1].tolist() == [2.0]


def test_refuses_nan_and_k_below_one() -> None:
    with pytest.raises(NonFiniteError, match=r"\(1,\)"):
        TopK.of_columns([np.array([0.0, np.nan])], 1)
    with pytest.raises(InputError, match="at least 1"):
        TopK.of_columns([np.array([0.0])], 0)
