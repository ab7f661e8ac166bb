"""Bootstrap intervals cover the true mean as often as they say."""

import numpy as np
import pytest

from assay.errors import MethodError
from assay.evaluate.intervals import bootstrap_mean, two_way
from assay.evaluate.metrics.lds import pseudo_values


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


def correlated(rng: np.random.Generator, rho: np.ndarray, m: int, shared: float) -> tuple[np.ndarray, np.ndarray]:
    """[m, q] normal pairs with a correlation for each query; `shared` of the variance is common to all queries."""
    x, e = (
        np.sqrt(shared) * rng.normal(size=(m, 1)) + np.sqrt(1 - shared) * rng.normal(size=(m, len(rho)))
        for _ in range(2)
    )
    return x, rho * x + np.sqrt(1 - rho**2) * e


@pytest.mark.parametrize(
    ("queries", "subsets", "rho", "spread", "shared"),
    [(20, 40, 0.5, 0.2, 0.0), (12, 40, 0.3, 0.3, 0.6), (30, 20, 0.0, 0.0, 0.2)],
)
def test_two_way_intervals_cover_the_true_correlation(
    queries: int, subsets: int, rho: float, spread: float, shared: float
) -> None:
    """Of 95% intervals for new queries and new subsets, 93% to 97% hold the mean Spearman correlation of all queries.

    600 simulations each, so that the share found has a standard deviation of 0.9%; the seed is fixed.
    """
    rng = np.random.default_rng(11)
    population = np.tanh(np.arctanh(rho) + spread * rng.normal(size=200_000))
    true = float((6 / np.pi * np.arcsin(population / 2)).mean())
    held, simulations = 0, 600
    for simulation in range(simulations):
        theirs = np.tanh(np.arctanh(rho) + spread * rng.normal(size=queries))
        x, y = correlated(rng, theirs, subsets, shared)
        found = two_way(pseudo_values(x, y), seed=simulation)
        held += found.low <= true <= found.high
    assert 0.93 <= held / simulations <= 0.97, held / simulations


def test_two_way_is_the_sum_of_both_parts() -> None:
    """Level of a query plus level of a subset, nothing else: the variance is that of both means."""
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=400), 2 * rng.normal(size=300)
    found = two_way(a[:, None] + b[None, :])
    assert found.resamples.std() == pytest.approx(np.sqrt(a.var(ddof=1) / 400 + b.var(ddof=1) / 300), rel=1e-6)
    assert found.mean == pytest.approx(a.mean() + b.mean())
    assert found.above == float((found.resamples > 0).mean())


def test_two_way_does_not_count_noise_thrice() -> None:
    """Where every cell is noise of its own, the interval is that of a mean of all cells."""
    values = np.random.default_rng(3).normal(size=(200, 150))
    found = two_way(values)
    assert found.resamples.std() == pytest.approx(1 / np.sqrt(values.size), rel=0.15)


def test_two_way_reaches_to_the_metric_as_it_is_told() -> None:
    """Near its bound a rank correlation's bias is larger than its spread."""
    rng = np.random.default_rng(5)
    x, y = correlated(rng, np.full(50, 0.999), 60, 0.0)
    values = pseudo_values(x, y)
    plain = two_way(values)
    for told in (plain.low - 0.01, plain.mean, plain.high + 0.01):
        found = two_way(values, told)
        assert found.low <= found.mean == told <= found.high
        assert found.low <= plain.low
        assert found.high >= plain.high


def test_two_way_refuses_a_single_subset() -> None:
    with pytest.raises(MethodError, match="1 subsets"):
        two_way(np.zeros((5, 1)))
