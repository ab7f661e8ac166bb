"""Learning rate schedules: the factor on `lr` at each step.

Of T steps the first W = round(warmup * T) climb, step t with factor (t + 1) / W, so that none is lost on a rate of 0;
the others follow the schedule, with s = (t - W) / (T - W) in [0, 1):

    constant  1          linear  1 - s          cosine  (1 + cos(pi * s)) / 2

(the last by Loshchilov & Hutter 2017, 1608.03983).
"""

import math
from collections.abc import Callable

SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda s: 1.0,
    "linear": lambda s: 1.0 - s,
    "cosine": lambda s: (1.0 + math.cos(math.pi * s)) / 2.0,
}


def factors(schedule: str, warmup: float, total: int) -> tuple[float, ...]:
    """The factor at each of `total` steps; `warmup` is the share of steps that climb."""
    climbing = round(warmup * total)
    shape = SCHEDULES[schedule]
    return tuple(
        (step + 1) / climbing if step < climbing else shape((step - climbing) / (total - climbing))
        for step in range(total)
    )
