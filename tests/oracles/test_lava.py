"""LAVA against transports that can be solved by hand, a linear program, and finite differences of the mass."""

from typing import Any

import numpy as np
import pytest
from scipy.optimize import linprog, minimize

import assay
from assay.errors import MethodError
from assay.methods import LAVA
from assay.methods.neighbors.lava import class_distances, dual

pytest.importorskip("ot")
rng = np.random.default_rng(0)


ENTROPY = 0.1


def transport(cost: np.ndarray, a: np.ndarray) -> float:
    """The optimal value, by a general solver of the dual: max <a, f> + <b, g> - e sum exp((f + g - C) / e)."""
    n, v = cost.shape

    def negated(x: np.ndarray) -> tuple[float, np.ndarray]:
        plan = np.exp((x[:n, None] + x[None, n:] - cost) / ENTROPY)
        slope = np.r_[a - plan.sum(1), 1 / v - plan.sum(0)]
        return -float(a @ x[:n] + x[n:].sum() / v - ENTROPY * plan.sum()), -slope

    found: Any = minimize(negated, np.zeros(n + v), jac=True, method="BFGS", options={"gtol": 1e-10, "maxiter": 5000})
    return -float(found.fun)


def test_the_gradient_is_that_of_the_mass() -> None:
    """More mass on i, less on all others alike: the calibrated gradient is the derivative."""
    cost = rng.random((5, 4))
    u, _ = dual(cost, ENTROPY)
    for i in range(5):
        direction = np.full(5, -0.25)
        direction[i] = 1.0
        up, down = (transport(cost, np.full(5, 0.2) + h * direction) for h in (1e-3, -1e-3))
        assert (up - down) / 2e-3 == pytest.approx(u[i] - (u.sum() - u[i]) / 4, abs=2e-5)


def test_little_entropy_is_the_exact_cost() -> None:
    cost = rng.random((6, 4))
    rows, columns = np.kron(np.eye(6), np.ones(4)), np.kron(np.ones(6), np.eye(4))
    exact: Any = linprog(
        cost.ravel(), A_eq=np.vstack([rows, columns]), b_eq=np.r_[np.full(6, 1 / 6), np.full(4, 1 / 4)]
    )
    assert dual(cost, 0.002)[1] == pytest.approx(exact.fun, rel=0.01)


def test_values_of_data_with_a_wrong_label_and_twins() -> None:
    centre = np.repeat([[0.0, 0.0], [6.0, 0.0]], 20, axis=0)
    x, xv = centre + rng.normal(size=(40, 2)), centre + rng.normal(size=(40, 2))
    y = np.repeat([0, 1], 20)
    x[7], wrong = x[3], y.copy()
    wrong[[5, 30]] = 1 - wrong[[5, 30]]
    values = assay.value(None, (x, wrong), (xv, y), LAVA(scale=False))
    assert set(np.argsort(values.array)[:2].tolist()) == {5, 30}
    assert values.array[3] == pytest.approx(values.array[7], abs=1e-9)
    assert values.array.sum() == pytest.approx(0, abs=1e-8)  # calibrated
    order = rng.permutation(40)
    moved = assay.value(None, (x[order], wrong[order]), (xv, y), LAVA(scale=False)).array
    np.testing.assert_allclose(moved, values.array[order], atol=1e-4)  # costs are float32 distances


def test_values_are_the_calibrated_dual_of_the_costs_as_written_down() -> None:
    """The way from training class a to validation class b is not the way from b to a."""
    x, xv = rng.normal(size=(7, 2)), rng.normal(size=(5, 2)) + np.array([2.0, 0.0])
    y, yv = np.array([0, 1, 0, 1, 1, 0, 1]), np.array([0, 1, 1, 0, 1])
    cost = np.square(x[:, None] - xv[None]).sum(2)
    apart = class_distances(cost, y, yv, 2)
    assert apart[0, 1] != pytest.approx(apart[1, 0], rel=0.05)
    whole = np.array([[cost[i, j] + 0.5 * apart[y[i], yv[j]] for j in range(5)] for i in range(7)])
    u, _ = dual(whole, 0.1 * whole.mean())
    expected = [-(u[i] - np.delete(u, i).mean()) for i in range(7)]
    found = assay.value(None, (x, y), (xv, yv), LAVA(labels=0.5, scale=False)).array
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_distances_of_classes() -> None:
    x, xv = np.array([0.0, 1.0, 5.0]), np.array([2.0, 3.0])
    cost = (x[:, None] - xv[None, :]) ** 2
    found = class_distances(cost, np.array([0, 0, 1]), np.array([0, 0]), 2)
    np.testing.assert_allclose(found, [[4.0, 0.0], [6.5, 0.0]])  # {0,1} to {2,3}: 2 each; 5 to 2 and 3: (9 + 4) / 2


def test_what_cannot_be_solved_is_refused() -> None:
    with pytest.raises(MethodError, match="on="):
        assay.value(None, (np.zeros((3, 2)), np.zeros(3, int)), method="lava")
