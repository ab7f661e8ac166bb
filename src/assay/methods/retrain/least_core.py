"""The least core: values such that no coalition is paid less than it is worth by more than e, with e as small as possible.

    minimise e   subject to   sum_i phi_i = v(all),   sum_{i in S} phi_i + e >= v(S) for the sampled S,   v(S) = U(S) - U(empty)

Of all phi with the smallest e the one of smallest length is taken, which is unique and treats equals equally. e is found by
linear programming, phi as a least-distance problem, solved as nonnegative least squares (Lawson and Hanson 1974, chapter 23).

Paper: Yan and Procaccia 2021, AAAI, equations 2 to 4 (10 n sampled coalitions hold most others). Cost: one fit a coalition, and
programs of n unknowns with one constraint a coalition. With all coalitions it is the exact least core.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar, cast

import numpy as np
from jaxtyping import Bool, Float64

from assay.errors import MethodError
from assay.methods.base import option
from assay.methods.retrain.base import Retraining, Session
from assay.methods.retrain.estimate import Estimate, forever
from assay.methods.retrain.exact import all_utilities, masks
from assay.methods.retrain.pool import Runner
from assay.methods.retrain.samplers import MaximumReuse, Subsets, Unit
from assay.methods.retrain.semivalue import ends
from assay.progress import task


@dataclass(frozen=True)
class LeastCore(Retraining):
    """The division that leaves the least reason to any coalition to walk away."""

    name: ClassVar[str] = "least-core"
    summary: ClassVar[str] = "the division that leaves coalitions the least reason to walk away"
    paper: ClassVar[str] = "Yan and Procaccia 2021"

    subsets: int | None = option(None, "random coalitions; by default 10 a player")
    exact: int = option(12, "so many players or fewer are enumerated; 0: never")

    def check(self) -> None:
        """At least one coalition."""
        super().check()
        self.expect(self.subsets is None or self.subsets >= 1, "subsets", "1 or more")
        self.expect(0 <= self.exact <= 16, "exact", "0 to 16")

    def estimate(self, session: Session) -> Estimate:
        """Utilities, then the two programs."""
        with session.runner() as runner:
            n = runner.game.players
            if n <= self.exact:
                utilities = all_utilities(runner)
                coalitions = masks(np.arange(2**n, dtype=np.int64), n)
            else:
                coalitions, utilities = sampled(runner, self.subsets or 10 * n, 0.5, self.seed)
            nobody = np.zeros(n, bool)
            everybody, empty = runner.utility(~nobody), runner.utility(nobody)
        proper = coalitions.any(1) & ~coalitions.all(1)
        values, e = least_core(coalitions[proper], utilities[proper] - empty, everybody - empty)
        notes = (f"{int(proper.sum()):,} coalitions; each is paid at least its worth less {e:.6g}.",
                 ends(everybody, empty, values))  # fmt: skip
        return Estimate(values, None, None, None, notes)


def sampled(
    runner: Runner, count: int, share: float, seed: int
) -> tuple[Bool[np.ndarray, "m n"], Float64[np.ndarray, " m"]]:
    """Random coalitions, each player in with probability `share`, and their utilities."""
    units: list[Subsets] = []

    def draws() -> Iterator[tuple[Unit, ...]]:
        for unit, *_ in forever(MaximumReuse(share), runner.game.players, seed):
            units.append(cast(Subsets, unit))
            yield (unit,)

    found: list[np.ndarray] = []
    with task("utilities", count) as advance:
        for (utilities,) in islice(runner.run(draws()), -(-count // 16)):
            found.append(utilities)
            advance(len(utilities))
    return np.concatenate([unit.masks for unit in units[: len(found)]])[:count], np.concatenate(found)[:count]


def least_core(
    coalitions: Bool[np.ndarray, "m n"], worth: Float64[np.ndarray, " m"], total: float
) -> tuple[Float64[np.ndarray, " n"], float]:
    """Phi and e. Raises MethodError if the solver fails."""
    from scipy import optimize

    m, n = coalitions.shape
    inside = coalitions.astype(np.float64)
    found: Any = cast(Any, optimize).linprog(
        np.r_[np.zeros(n), 1.0],
        A_ub=np.hstack([-inside, -np.ones((m, 1))]), b_ub=-worth,
        A_eq=np.r_[np.ones(n), 0.0][None, :], b_eq=[total], bounds=[(None, None)] * (n + 1), method="highs",
    )  # fmt: skip
    if not found.success:
        raise MethodError(
            f"The linear program of the least core was not solved ({found.message}); sample more coalitions."
        )
    e = float(found.x[-1])
    phi = _shortest(inside, worth - e, total)
    return (np.asarray(found.x[:n]) if phi is None else phi), e


def _shortest(
    inside: Float64[np.ndarray, "m n"], floor: Float64[np.ndarray, " m"], total: float
) -> Float64[np.ndarray, " n"] | None:
    """The shortest phi with inside @ phi >= floor and sum total; None where the solver gives up."""
    from scipy import optimize

    n = inside.shape[1]
    start = np.full(n, total / n)  # phi = start + Z x, with Z an orthonormal basis of what sums to 0
    Z = np.linalg.qr(np.hstack([np.ones((n, 1)), np.eye(n)[:, 1:]]))[0][:, 1:]
    G = inside @ Z
    h = floor - inside @ start - 1e-9 * max(1.0, float(np.abs(floor).max()))
    scale = float(np.abs(h).max()) or 1.0
    E, f = np.vstack([G.T, h[None, :] / scale]), np.r_[np.zeros(n - 1), 1.0]
    try:
        u, _ = cast(Any, optimize).nnls(E, f, maxiter=50 * E.shape[1])
    except RuntimeError:
        return None
    r = E @ u - f
    if (h <= 0).all():
        return start
    if abs(r[-1]) < 1e-14:
        return None
    return start + Z @ (-r[:-1] / r[-1] * scale)
