"""Rounding of stored features against its stated bounds."""

import pytest
import torch

from assay.index.quantize import decode, encode, norms


def sample() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(50, 33, generator=generator) * torch.logspace(-20, 20, 50)[:, None]


def test_float32_is_exact() -> None:
    x = sample()
    stored, scale = encode(x, "float32", [""] * 50)
    assert scale is None
    assert torch.equal(decode(stored, scale), x)
    assert stored.data_ptr() != x.data_ptr()  # the caller may go on to overwrite its own


def test_bfloat16_bound() -> None:
    x = sample()
    assert ((decode(*encode(x, "bfloat16", [""] * 50)) - x).abs() <= x.abs() * 2.0**-8).all()


def test_int8_bound_and_range() -> None:
    x = sample()
    stored, scale = encode(x, "int8", [""] * 50)
    assert scale is not None
    assert torch.equal(stored.int().abs().amax(1), torch.full((50,), 127, dtype=torch.int32))
    assert ((decode(stored, scale) - x).abs() <= scale[:, None] * 0.50001).all()


@pytest.mark.parametrize("value", [0.0, 1e-44, 1e-40])
def test_int8_of_rows_too_small_to_scale(value: float) -> None:
    decoded = decode(*encode(torch.full((2, 3), value), "int8", ["a", "b"]))
    assert decoded.isfinite().all()
    assert (decoded <= 1.1 * value).all()


def test_int8_of_the_largest_numbers() -> None:
    x = torch.tensor([[3.4e38, -3.4e38, 1.0]])
    assert torch.allclose(decode(*encode(x, "int8", ["a"])), x, rtol=1e-6, atol=3.4e38 / 254)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_norms_are_of_the_decoded_rows(dtype: str) -> None:
    x = torch.randn(20, 50, generator=torch.Generator().manual_seed(0))
    stored, scale = encode(x, dtype, [""] * 20)  # type: ignore[arg-type]
    torch.testing.assert_close(norms(stored, scale), decode(stored, scale).double().norm(dim=1).float())
