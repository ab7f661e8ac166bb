"""KNN-Shapley of every utility against the enumeration of all subsets."""

import math
from collections.abc import Callable
from importlib import import_module
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch

import assay
from assay.methods import KNNShapley
from assay.methods.neighbors import knn_shapley, order
from assay.methods.neighbors.utilities import SOLVERS, Near
from assay.methods.neighbors.utilities.weighted import votes

SIZES = [(1, 3), (2, 5), (4, 1), (5, 3), (6, 6), (7, 2)]
CLASSES = 3


def brute_force(n: int, utility: Callable[[tuple[int, ...]], float]) -> np.ndarray:
    """Shapley values by their definition."""
    found = np.zeros(n)
    for i in range(n):
        others = [j for j in range(n) if j != i]
        for size in range(n):
            for subset in combinations(others, size):
                gain = utility(tuple(sorted((*subset, i)))) - utility(subset)
                found[i] += gain / (n * math.comb(n - 1, size))
    return found


def near(n: int, seed: int = 0, regression: bool = False) -> Near:
    rng = np.random.default_rng(seed)
    gain = rng.normal(size=(2, n)) if regression else rng.integers(0, 2, (2, n)).astype(float)
    distance = np.sort(rng.random((2, n)), axis=1)
    numbers = [torch.from_numpy(a) for a in (gain, distance, rng.normal(size=2))]
    return Near(numbers[0], numbers[1], numbers[2], CLASSES, radius=0.6)


def played(name: str, data: Near, q: int, k: int) -> Callable[[tuple[int, ...]], float]:
    """The utility of one query as its page says it, of positions from near to far."""
    gain, distance = data.gain[q].numpy(), (data.gain if data.distance is None else data.distance)[q].numpy()
    signed = votes(data, k)[q].numpy() if name == "weighted" else gain

    def utility(subset: tuple[int, ...]) -> float:
        nearest = list(subset[:k])
        if name == "classic":
            return float(gain[nearest].sum() / k)
        if name == "soft":
            return float(gain[nearest].mean()) if nearest else 1 / CLASSES
        if name == "regression":
            return -float((gain[nearest].sum() / k - data.target[q].item()) ** 2)
        if name == "threshold":
            inside = [j for j in subset if distance[j] <= data.radius]
            return float(gain[inside].mean()) if inside else 1 / CLASSES
        return (1 + float(np.sign(signed[nearest].sum()))) / 2

    return utility


@pytest.mark.parametrize(("n", "k"), SIZES)
@pytest.mark.parametrize("name", list(SOLVERS))
def test_values_are_those_of_the_enumeration(name: str, n: int, k: int) -> None:
    data = near(n, regression=name == "regression")
    found = SOLVERS[name](data, k).numpy()
    for q in range(2):
        utility = played(name, data, q, k)
        np.testing.assert_allclose(found[q], brute_force(n, utility), atol=1e-12)
        assert found[q].sum() == pytest.approx(utility(tuple(range(n))) - utility(()), abs=1e-12)


def test_weighted_votes_in_chunks_of_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    weighted = import_module("assay.methods.neighbors.utilities.weighted")
    data = near(12)
    whole = weighted.weighted(data, 3).numpy()
    monkeypatch.setattr(weighted, "STATES", 1)
    np.testing.assert_allclose(weighted.weighted(data, 3).numpy(), whole, atol=1e-14)
    utility = played("weighted", data, 0, 3)
    assert whole[0].sum() == pytest.approx(utility(tuple(range(12))) - utility(()), abs=1e-12)


# -- from data to values -----------------------------------------------------------------------------------------------

rng = np.random.default_rng(1)
X, XV = rng.normal(size=(8, 3)), rng.normal(size=(5, 3))
Y, YV = np.array([0, 1, 2, 0, 1, 1, 2, 0]), np.array([0, 1, 2, 2, 7])


def naive(method: KNNShapley, metric: str, X: np.ndarray, y: Any, x: np.ndarray, label: Any) -> np.ndarray:
    """One query's values in the order of the training data, by sorting and enumeration."""
    cosine = 1 - X @ x / np.linalg.norm(X, axis=1) / np.linalg.norm(x)
    distance = cosine if metric == "cosine" else np.square(X - x).sum(1)
    nearest = np.argsort(distance, kind="stable")
    soft = lambda s: np.mean(y[nearest][list(s[: method.k])] == label) if s else 1 / len(set(Y.tolist()))  # noqa: E731
    found = np.zeros(len(X))
    found[nearest] = brute_force(len(X), soft)
    return found


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_scores_and_values_of_data(metric: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    method = KNNShapley(k=3, metric=metric, scale=False)
    expected = np.stack([naive(method, metric, X, Y, x, label) for x, label in zip(XV, YV, strict=True)], 1)
    values = assay.value(None, (X, Y), (XV, YV), method)
    np.testing.assert_allclose(values.array, expected.mean(1), atol=1e-12)
    np.testing.assert_allclose(assay.attribute(None, (X, Y), (XV, YV), method).array, expected, atol=1e-7)
    monkeypatch.setattr(knn_shapley, "BLOCK", 1)
    np.testing.assert_allclose(assay.value(None, (X, Y), (XV, YV), method).array, values.array, atol=1e-15)


def test_valued_on_itself_nobody_plays_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    method = KNNShapley(k=3, scale=False)
    expected = np.zeros(len(X))
    for i in range(len(X)):
        others = np.arange(len(X)) != i
        expected[others] += naive(method, "euclidean", X[others], Y[others], X[i], Y[i]) / len(X)
    np.testing.assert_allclose(assay.value(None, (X, Y), method=method).array, expected, atol=1e-12)
    monkeypatch.setattr(knn_shapley, "SPAN", 41)  # five queries a part
    monkeypatch.setattr(knn_shapley, "BLOCK", 17)  # two queries a block
    np.testing.assert_allclose(assay.value(None, (X, Y), method=method).array, expected, atol=1e-12)


def test_equal_distances_in_the_order_of_the_data() -> None:
    x, y = np.zeros((4, 2)), np.array([1, 0, 1, 0])
    values = assay.value(None, (x, y), (x[:1], y[:1]), KNNShapley(k=1, utility="classic", scale=False))
    same = [1.0, 0.0, 1.0, 0.0]
    expected = brute_force(4, lambda s: same[s[0]] if s else 0.0)
    np.testing.assert_allclose(values.array, expected, atol=1e-15)


@pytest.mark.parametrize("stretch", [1.0, 1e20])
def test_fast_order_is_a_stable_sort(stretch: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also over a range of floats that does not fit into 32 bits with the row, and in chunks."""
    distance = torch.from_numpy(rng.integers(0, 30, (7, 200)).astype(np.float32)) / 7
    distance[3] *= stretch
    expected = torch.sort(distance, dim=1, stable=True).indices
    assert torch.equal(order.nearest_first(distance), expected)
    monkeypatch.setattr(order, "CHUNK", 400)
    assert torch.equal(order.nearest_first(distance), expected)
    assert order.nearest_first(distance[:0]).shape == (0, 200)


def test_distances_near_the_largest_float_are_sorted_too() -> None:
    distance = 3e38 * (1 + 0.1 * torch.from_numpy(rng.random((64, 50)).astype(np.float32)))
    assert torch.equal(order.nearest_first(distance), torch.sort(distance, dim=1, stable=True).indices)


def test_the_same_bits_on_several_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knn_shapley, "SPAN", 16)
    alone = assay.value(None, (X, Y), method=KNNShapley(k=3))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        together = assay.value(None, (X, Y), method=KNNShapley(k=3))
        assert torch.get_num_threads() == 3
        with pytest.raises(ZeroDivisionError):
            list(order.on_all_cores(lambda k: 1 // k, range(3, -1, -1), torch.device("cpu")))
        assert list(order.on_all_cores(lambda k: k * k, range(9), torch.device("cpu"))) == [k * k for k in range(9)]
    finally:
        torch.set_num_threads(threads)
    assert np.array_equal(alone.array, together.array)
