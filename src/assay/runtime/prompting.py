"""Prompts: an example is read once, and every query behind its kept keys and values; a server is asked for every pair."""

from dataclasses import replace

from assay.examples import Examples
from assay.inference import Server
from assay.methods.inference.icp import ICP, demand, expected
from assay.models import Model
from assay.runtime.machine import resident_memory
from assay.runtime.steps import Plan, Step
from assay.runtime.work import Work
from assay.runtime.workload import Data, data_of

ANSWER = 0.5
"""Seconds that a server is taken to need for a request; nobody knows before it is asked."""
KEPT = 60
"""Bytes on disk of a kept answer."""


def plan_probing(model: Model | Server, train: Examples, queries: Examples, method: ICP) -> Plan:
    """Of a local model by its operations, of a server by its requests."""
    pairs = len(train) * len(queries)
    if isinstance(model, Server):
        requests, _ = demand(model, train, queries)
        waiting = requests * ANSWER / model.concurrency
        seconds = waiting if model.rate is None else max(waiting, 60.0 * requests / model.rate)
        notes = (
            expected(model, method, train, queries),
            f"The time is for {ANSWER:g} s an answer; the server's own is not known before it is asked.",
        )
        memory = resident_memory() + 32 * pairs
        return Plan(method.name, seconds, int(memory), KEPT * requests, None, (Step("answers", seconds),), notes)
    work, asked = Work(model, train), data_of(model, queries)
    behind = _times(asked, len(train) + 1, work.data.tokens / len(train))
    steps = (
        Step("examples", work.floor(replace(work.data, batches=len(train)), 1.0) + work.encoded(work.data)),
        Step("queries behind each", work.floor(behind, 1.0)),
    )
    memory = work.machine.resident + 12 * pairs + 4 * asked.batch * work.network.widest
    return Plan(method.name, sum(step.seconds for step in steps), int(memory), 0, None, steps)


def _times(data: Data, times: int, before: float) -> Data:
    """So many passes over the queries, each behind so many positions that attention also looks at."""
    squares = data.squares + 2 * before * data.positions
    return replace(
        data,
        examples=times * data.examples,
        positions=times * data.positions,
        squares=times * squares,
        batches=times * data.batches,
        tokens=times * data.tokens,
    )
