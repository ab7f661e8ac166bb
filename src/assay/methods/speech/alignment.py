"""Which symbol each frame holds: the most probable path that spells a transcript (Viterbi)."""

import numpy as np
from jaxtyping import Float, Int64

from assay.tasks.ctc import BLANK


def align(
    scores: Float[np.ndarray, "time c"], labels: Int64[np.ndarray, " n"]
) -> tuple[Int64[np.ndarray, " time"], float]:
    """The symbol of each frame (0: blank) and the path's mean log probability a frame, nats.

    States are blank, y_1, blank, y_2, ..., blank; a path moves on by one, or by two over a blank between different symbols.
    """
    states = np.full(2 * len(labels) + 1, BLANK, dtype=np.int64)
    states[1::2] = labels
    skip = np.zeros(len(states), bool)
    skip[3::2] = labels[1:] != labels[:-1]
    best = np.full(len(states), -np.inf)
    best[:2] = scores[0, states[:2]]
    back = np.zeros((len(scores), len(states)), np.int64)
    for t in range(1, len(scores)):
        moves = np.stack([
            best, np.r_[-np.inf, best[:-1]], np.where(skip, np.r_[-np.inf, -np.inf, best[:-2]][: len(best)], -np.inf)
        ])  # fmt: skip
        back[t] = moves.argmax(0)
        best = moves.max(0) + scores[t, states]
    state = len(states) - 1 if best[-1] >= best[-2] else len(states) - 2
    total, path = float(best[state]), np.empty(len(scores), np.int64)
    for t in reversed(range(len(scores))):
        path[t] = states[state]
        state -= back[t, state]
    return path, total / len(scores)
