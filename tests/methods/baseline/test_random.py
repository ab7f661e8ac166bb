import numpy as np
import pytest
from scipy import stats

import assay.examples as examples
from assay.methods import streamed
from assay.methods.baseline import Random

TRAIN = examples.read([{"id": f"t{i}", "text": "same"} for i in range(500)])
QUERIES = examples.read([{"id": f"q{i}", "text": "same"} for i in range(40)])


def array(seed: int = 0, train: examples.Examples = TRAIN, queries: examples.Examples = QUERIES) -> np.ndarray:
    return Random(seed=seed).fit(None, train).score(queries).array


def test_standard_normal_and_uncorrelated() -> None:
    scores = array()
    n = scores.size
    assert stats.kstest(scores.ravel(), "norm").statistic < 1.95 / np.sqrt(n)  # the 0.1% point
    for one, other in ((scores[:, :-1], scores[:, 1:]), (scores[:-1], scores[1:]), (scores, array(seed=1))):
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 3.3 / np.sqrt(n - 500)
    rows = np.linalg.eigvalsh(np.corrcoef(scores.T))  # Marchenko-Pastur bounds with room to spare
    assert rows[0] > 0.4
    assert rows[-1] < 1.9


def test_a_pair_keeps_its_score_in_any_company_and_order() -> None:
    some, few = [400, 3, 77], [5, 0]
    part = array(train=TRAIN.select(some), queries=QUERIES.select(few))
    np.testing.assert_array_equal(part, array()[np.ix_(some, few)])


def test_an_example_as_its_own_query_is_no_special_case() -> None:
    scores = array(queries=TRAIN.select(range(40)))
    assert stats.kstest(np.diag(scores[:40]), "norm").pvalue > 0.001
    assert not np.allclose(scores[:40], scores[:40].T)


def test_the_scores_of_the_first_release() -> None:
    np.testing.assert_allclose(array()[:2, :2], [[1.0489032, -0.8501800], [1.3917582, -0.4068771]], rtol=1e-6)


@pytest.mark.parametrize("block", [1, 1500])
def test_top_k_in_blocks_is_the_top_of_the_dense_scores(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    fitted = Random(seed=3).fit(None, TRAIN)
    dense = fitted.score(QUERIES)
    monkeypatch.setattr(streamed, "BLOCK_SCORES", block)
    assert fitted.score(QUERIES, top=5).top(5).to_dict() == dense.top(5).to_dict()
