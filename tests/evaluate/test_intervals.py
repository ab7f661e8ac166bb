"""Bootstrap intervals cover the true mean as often as they say."""

import numpy as np
import pytest

from assay.errors import MethodError
from assay.evaluate.intervals import bootstrap_mean


@pytest.mark.parametrize("n", [8, 24, 100])
def test_coverage_on_normal_data(n: int) -> None:
    """Over 1,500 data sets, also of few values, where plain percentiles would cover 91% (n = 8) and 93% (n = 24)."""
    data = np.random.default_rng(0).normal(3.0, 2.0, (1500, n))
    inside = [(lambda m, a, b: a <= 3.0 <= b)(*bootstrap_mean(values, seed)) for seed, values in enumerate(data)]
    assert 0.93 < np.mean(inside) < 0.97


def test_the_interval_is_around_the_mean_and_repeatable() -> None:
    values = np.random.default_rng(0).exponential(size=40)
    mean, low, high = bootstrap_mean(values, seed=3)
    assert mean == values.mean()
    assert low < mean < high
    assert bootstrap_mean(values, seed=3) == (mean, low, high)
    assert bootstrap_mean(values, seed=4) != (mean, low, high)
    narrow = bootstrap_mean(values, seed=3, level=0.5)
    assert low < narrow[1] < narrow[2] < high


def test_one_value_and_none() -> None:
    assert bootstrap_mean(np.array([2.5])) == (2.5, 2.5, 2.5)
    with pytest.raises(MethodError, match="at least one query"):
        bootstrap_mean(np.array([]))
