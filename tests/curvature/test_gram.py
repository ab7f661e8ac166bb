"""Dense second moments, their inverses and roots, against plain linear algebra."""

import pytest
import torch
from torch import Tensor

from assay.curvature.gram import SecondMoment, cholesky, factored, gram, solve
from assay.curvature.whitening import Whitening, power
from assay.errors import MethodError


def features(n: int = 200, k: int = 12) -> Tensor:
    mixed = torch.randn(k, k, dtype=torch.float64)
    return torch.randn(n, k, dtype=torch.float64) @ mixed


def test_the_mean_over_any_division_into_parts() -> None:
    phi, weight = features(), torch.rand(200, dtype=torch.float64)
    expected = torch.einsum("n,nk,nl->kl", weight, phi, phi) / weight.sum()
    moment = SecondMoment(12)
    for part in (slice(0, 70), slice(70, 71), slice(71, 200)):
        moment.add(phi[part], weight[part])
    torch.testing.assert_close(moment.mean, expected)
    torch.testing.assert_close(SecondMoment.of(phi.split(7)).mean, phi.T @ phi / 200)


def test_float32_features_are_summed_in_float64() -> None:
    phi = (features() * 1e3).float()
    assert SecondMoment.of([phi]).mean.dtype == torch.float64
    torch.testing.assert_close(SecondMoment.of([phi]).mean, phi.double().T @ phi.double() / 200, rtol=1e-13, atol=0)


def test_the_inverse() -> None:
    moment, psi = SecondMoment.of([features()]).mean, torch.randn(5, 12)
    expected = torch.linalg.solve(moment + 0.3 * torch.eye(12, dtype=torch.float64), psi.double().T).T
    found = solve(factored(moment, 0.3), psi)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected.float())


def test_a_singular_moment_is_refused_with_a_remedy() -> None:
    moment = SecondMoment.of([features(n=5)]).mean
    assert cholesky(moment) is None
    for refused in (lambda: factored(moment, 0.0), lambda: Whitening.symmetric(moment), lambda: power(moment, -1.0)):
        with pytest.raises(MethodError, match=r"singular.*more damping"):
            refused()
    assert cholesky(moment, 1e-2) is not None
    with pytest.raises(MethodError, match="no features"):
        SecondMoment.of([])
    with pytest.raises(MethodError, match="add up to 0"):
        _ = SecondMoment(3).mean


@pytest.mark.parametrize("make", [Whitening.symmetric, Whitening.triangular])
def test_whitened_features_have_the_identity_as_their_moment(make: type[Whitening]) -> None:
    phi = features()
    white = make(SecondMoment.of([phi]).mean)
    torch.testing.assert_close(SecondMoment.of([white(phi)]).mean, torch.eye(12, dtype=torch.float64))


def test_both_roots_give_the_inner_products_of_the_inverse() -> None:
    phi, psi = features(), features(n=4)
    moment = SecondMoment.of([phi]).mean
    expected = phi @ torch.linalg.inv(moment + 0.1 * torch.eye(12, dtype=torch.float64)) @ psi.T
    for white in (Whitening.symmetric(moment, 0.1), Whitening.triangular(moment, 0.1)):
        torch.testing.assert_close(white(phi) @ white(psi).T, expected)


def test_powers() -> None:
    moment = SecondMoment.of([features()]).mean
    torch.testing.assert_close(power(moment, 0.5) @ power(moment, 0.5), moment)
    torch.testing.assert_close(power(moment, -1.0), torch.linalg.inv(moment))
    torch.testing.assert_close(power(moment, 1.0, 2.0), moment + 2 * torch.eye(12, dtype=torch.float64))


@pytest.mark.parametrize("columns", [3, 256, 301, 700])
def test_a_product_by_halves_is_the_product(columns: int) -> None:
    x = torch.randn(17, columns, dtype=torch.float64)
    torch.testing.assert_close(gram(x), x.T @ x)
