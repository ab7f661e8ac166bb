import math

import numpy as np
import pytest

from assay.explore.null import Null


def test_the_middle_half_of_the_null_is_that_of_the_scores() -> None:
    rng = np.random.default_rng(0)
    scores = 3 + 2 * rng.standard_normal(100_001)
    null = Null.of(scores)
    assert null is not None
    assert null.median == pytest.approx(3, abs=0.03)
    assert null.spread == pytest.approx(2, abs=0.03)
    lower, upper = np.quantile(scores, [0.25, 0.75])
    assert null.expected(np.array([-math.inf, lower, upper, math.inf])) == pytest.approx(
        100_001 * np.array([0.25, 0.5, 0.25]), rel=0.02
    )


def test_all_random_scores_lie_within_reach_in_nineteen_of_twenty_cases() -> None:
    draws = np.random.default_rng(1).standard_normal((4_000, 200))
    reach = Null.of(np.repeat([-0.67449, -0.67449, 0.0, 0.67449, 0.67449], 40))  # a normal distribution's quartiles
    assert reach is not None
    inside = ((draws < reach.high) & (draws > reach.low)).all(axis=1).mean()
    assert inside == pytest.approx(0.95, abs=0.012)  # 3.5 standard errors of 4,000 draws


def test_what_stands_out_is_counted() -> None:
    scores = np.concatenate([np.linspace(-1, 1, 99), [50.0, 60.0, -70.0]])
    null = Null.of(scores)
    assert null is not None
    assert (null.above, null.below, null.count) == (2, 1, 102)


@pytest.mark.parametrize("scores", [[], [1.0], [2.0, 2.0, 2.0], [0, 0, 0, 0, 0, 9]])
def test_without_a_spread_there_is_no_null(scores: list[float]) -> None:
    assert Null.of(np.array(scores, dtype=np.float64)) is None
