"""Methods without gradients: words, representations, random numbers."""

from assay.examples import Examples
from assay.methods import Embedding, Registered
from assay.models import Model
from assay.runtime.machine import resident_memory
from assay.runtime.steps import Plan, Step
from assay.runtime.work import START, Work
from assay.runtime.workload import Data, data_of

COUNTED = {"bm25": 4e6, "tfidf": 1.2e6}
"""Characters a second whose words are counted."""


def plan_embedding(model: Model, train: Examples, queries: Examples, method: Embedding) -> Plan:
    """One forward pass each."""
    work, asked = Work(model, train), data_of(model, queries)
    width = work.network.attention or work.network.sides

    def seconds(data: Data) -> float:
        return work.floor(data, 1.0) + work.encoded(data)

    steps = (Step("representations", START + seconds(work.data) + seconds(asked)),)
    batch = min(4096, work.data.positions)
    pairs = len(train) * len(queries)
    memory = 8 * width * (len(train) + len(queries)) + 4 * batch * work.network.widest + 4 * pairs
    return Plan(method.name, steps[0].seconds, int(work.machine.resident + memory), 0, None, steps)


def plan_words(train: Examples, queries: Examples, method: Registered) -> Plan:
    """Reading the training texts once, then scores for each query."""
    step = max(1, len(train) // 64)
    sample = [len(train.texts[k]) for k in range(0, len(train), step)][:64]
    characters = len(train) * sum(sample) / len(sample)
    pairs = len(train) * len(queries)
    reading = characters / COUNTED[method.name] if method.name in COUNTED else len(train) * 2e-6
    steps = (Step("reading the training texts", reading), Step("scores", START + pairs * 1e-7))
    memory = resident_memory() + (12 * characters if method.name in COUNTED else 0) + 8 * pairs
    return Plan(method.name, sum(s.seconds for s in steps), int(memory), 0, None, steps)
