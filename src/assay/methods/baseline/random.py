"""Random: what scores look like that know nothing.

    score(i, q) ~ N(0, 1), a function of the seed and the two ids alone

so it does not change with the order of the data, its batches, or what else is in it. The null distribution
beside which every other method's scores are shown.

Each id is hashed with BLAKE2b (keyed by the seed), the two hashes are mixed by the finaliser of SplitMix64
(Steele, Lea and Flood 2014), and the uniform number that results goes through the inverse of the normal
distribution.

Cost: one hash per example and about 50 ns per score.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float32, UInt64
from scipy.special import ndtri

from assay.examples import Examples
from assay.methods.base import Fitted, Method, option
from assay.methods.streamed import Streamed
from assay.provenance import measured


@dataclass(frozen=True)
class Random(Method):
    """Independent standard normal scores, fixed by the seed and the ids."""

    name: ClassVar[str] = "random"
    family: ClassVar[str] = "baseline"
    unit: ClassVar[str] = "arbitrary"
    summary: ClassVar[str] = "independent standard normal scores: what knowing nothing looks like"
    paper: ClassVar[str] = "none"

    seed: int = option(0, "another seed, other scores")

    def fit(self, model: Any, train: Examples) -> Fitted:
        """Hash the training ids; the model is not looked at."""
        with measured() as cost:
            rows = _hashes(train.ids, self.seed, "train")
        return Streamed(self, train, partial(_normal, rows, self.seed), cost.seconds)


def _normal(
    rows: UInt64[np.ndarray, " n_train"], seed: int, queries: Examples
) -> Float32[np.ndarray, "n_train n_query"]:
    mixed = _mix(_mix(rows)[:, None] ^ _hashes(queries.ids, seed, "query")[None, :])
    uniform = ((mixed >> np.uint64(11)) + 0.5) * 2.0**-53  # 53 bits, never 0 or 1
    return ndtri(uniform).astype(np.float32)


def _hashes(ids: Iterable[str], seed: int, role: str) -> UInt64[np.ndarray, " n"]:
    key = f"{seed}".encode()[:64]
    role_bytes = role.encode().ljust(16, b"\0")
    digests = (hashlib.blake2b(name.encode(), digest_size=8, key=key, person=role_bytes).digest() for name in ids)
    return np.frombuffer(b"".join(digests), dtype="<u8").astype(np.uint64)


def _mix(z: UInt64[np.ndarray, "..."]) -> UInt64[np.ndarray, "..."]:
    """The finaliser of SplitMix64: every input bit moves half of the output bits."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
