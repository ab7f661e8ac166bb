"""Products of a tile of stored features with queries: a cheap one with a bound on its error, and an exact one.

`screen` returns float32 products times `factor`, within `error` times the length of a row's features (Cauchy-Schwarz
on what the cheap product leaves out, plus float32 rounding); `exact` returns float64 products.
"""

from functools import cache

import torch
from jaxtyping import Float32, Float64, Int8, Int32, Shaped
from torch import Tensor

INT8_MAX_DIM = 1 << 17  # 127 * 127 * 2^17 < 2^31: sums of int8 products fit int32
UNIT = 2.0**-24  # float32 rounding


class Integer:
    """Products of int8 features with queries in fixed point."""

    def __init__(self, queries: Float64[Tensor, "Q K"]) -> None:
        largest = queries.abs().amax(1, keepdim=True)
        unit = torch.where(largest > 0, largest / (127 * 65536), 1)
        digits, first = _digits((queries / unit).round_())
        self._unit = unit[:, 0]
        step = self._unit * 65536
        self._step = step.float()
        coarse = first * step[:, None]
        # What the first digit leaves out, and the float32 roundings of the product and its factors.
        self.error = (queries - coarse).norm(dim=1) + 16 * UNIT * coarse.norm(dim=1)
        self._first = digits[: len(queries)].T
        self._all = digits.T

    def screen(self, stored: Int8[Tensor, "n K"], factor: Float32[Tensor, " n"]) -> Float32[Tensor, "n Q"]:
        return (_int8_product(stored, self._first) * factor[:, None]).mul_(self._step)

    def exact(self, stored: Int8[Tensor, "n K"]) -> Float64[Tensor, "n Q"]:
        high, middle, low = _int8_product(stored, self._all).double().chunk(3, dim=1)
        return high.mul_(65536).add_(middle, alpha=256).add_(low).mul_(self._unit)


class Real:
    """Products of any features, widened: in float32 to screen, in float64 to score."""

    def __init__(self, queries: Float64[Tensor, "Q K"]) -> None:
        self._double = queries.T.contiguous()
        self._single = self._double.float()
        terms = queries.shape[1]
        # Rounding errors of a sum of K terms: at most K units, and beyond 16 sqrt(K) only with probability
        # 2 exp(-128) (Higham and Mary, 2019, theorem 2.4).
        self.error = (min(terms, 16 * terms**0.5) + 16) * UNIT * queries.norm(dim=1)

    def screen(self, stored: Shaped[Tensor, "n K"], factor: Float32[Tensor, " n"]) -> Float32[Tensor, "n Q"]:
        return (stored.float() @ self._single).mul_(factor[:, None])

    def exact(self, stored: Shaped[Tensor, "n K"]) -> Float64[Tensor, "n Q"]:
        return stored.double() @ self._double


def _digits(whole: Float64[Tensor, "Q K"]) -> tuple[Int8[Tensor, "3*Q K"], Float64[Tensor, "Q K"]]:
    """Signed digits in base 256 of whole numbers up to 127 * 65536, highest first, and the first digit in float64."""
    low = (whole + 128).remainder(256) - 128
    whole = (whole - low) / 256
    middle = (whole + 128).remainder(256) - 128
    high = (whole - middle) / 256
    return torch.cat([high, middle, low]).to(torch.int8), high


def _int8_product(left: Int8[Tensor, "n K"], right: Int8[Tensor, "K m"]) -> Int32[Tensor, "n m"]:
    return torch.ops.aten._int_mm(left, right)


@cache
def exact_integer_product() -> bool:
    """Whether this machine multiplies int8 matrices fast and without saturating; else tiles are widened to float.

    Instruction sets before VNNI add pairs of products in 16 bits; the largest values show whether that happens here.
    """
    if not getattr(torch.cpu, "_is_vnni_supported", bool)():
        return False
    left = torch.full((32, 4096), 127, dtype=torch.int8)
    left[::2] = -127
    right = torch.full((4096, 16), -127, dtype=torch.int8)
    right[:, ::2] = 127
    return torch.equal(_int8_product(left, right).double(), left.double() @ right.double())
