"""The end of a run, replayed exactly: where an estimate of the whole run loses most of its fidelity.

    tau_i = d m / d w_i through the last K steps,      lam = d m / d theta_{T-K}

What a step taught is forgotten along steep directions within a few steps, so that of these directions the last visits count, in
the order in which the batches came; no average over a segment sees that. The rest of the run goes on from `lam` by whatever
is cheaper (`methods.gradient.unrolled`). Moments of the optimiser have a cotangent too, which the rest leaves out: a
gradient's echo in them is short beside a segment.

Cost: K / T of `replay`, and K states in memory.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float, Float64

from assay import progress
from assay.examples import Examples
from assay.gradients.blocks import Block, to_vectors
from assay.methods.gradient.base import QuerySide
from assay.methods.replay.adjoint import Adjoint, Backward
from assay.methods.replay.exact import twice_differentiable
from assay.methods.replay.tape import GIB, Tape
from assay.tasks import Loss
from assay.tasks.measurements import Reduction
from assay.training import Recipe, Run
from assay.training.data import encode, evenly
from assay.training.run import assemble

MEMORY = 2 * GIB
"""Bytes that the states of the run may take."""


@dataclass(frozen=True)
class Tail:
    """A recorded run of which the last `count` steps are replayed.

    `run` holds the states that stand for the steps before, evenly spread up to the first replayed one, and then the end.
    """

    tape: Tape = field(repr=False)
    count: int
    run: Run = field(repr=False)

    @staticmethod
    def of(recipe: Recipe, train: Examples, weights: Float[np.ndarray, " n"], share: float, states: int) -> "Tail":
        """Train; of the steps, `share` (one at least, and not all) are left to replay."""
        with twice_differentiable():
            tape = Tape(recipe.steps(train, weights), MEMORY)
            total = len(tape.steps)
            count = max(1, min(round(share * total), total - 1))
            kept = [tape.state(step) for step in evenly(total - count, states)]
            own = recipe.steps(tape.steps.data, weights)  # a module for the run, as the tape goes on with its own
            unseen = [float("nan")] * total  # a tape keeps states, not losses
            return Tail(tape, count, assemble(own, (*kept, tape.last), unseen, tape.seconds))

    @property
    def before(self) -> Run:
        """The run without its end: what is not replayed."""
        return replace(self.run, states=self.run.states[:-1])

    def replay(
        self, queries: Examples, reduction: Reduction, blocks: Sequence[Block]
    ) -> tuple[Float64[np.ndarray, "n q"], QuerySide]:
        """Scores through the last steps; and the queries' directions before them, in the order of the blocks."""
        tape, steps = self.tape, self.tape.steps
        data = encode(queries, steps.data.task)
        backward, adjoint = Backward(steps), Adjoint.of(steps, tape.end.gradients(data, Loss(reduction)))
        with twice_differentiable(), progress.task("replaying the end", self.count) as advance:
            for state in tape.back_to(len(steps) - self.count):
                backward(adjoint, state)
                advance()
        named = dict(zip(steps.layout.names, steps.layout.rows(adjoint.state["params"]), strict=True))
        cut = sum(item.cut for item in data.items)
        side = QuerySide(to_vectors(blocks, named), tape.end.losses(data), cut)
        return -adjoint.tau.T.cpu().numpy(), side
