"""What attributing, valuing or indexing will cost, before it runs: seconds, peak memory, disk, coverage.

    seconds = sum over steps of  operations / (speed * efficiency) + bytes / bandwidth + calls * overhead

Operations and bytes are counted from the layers and from a sample of examples (`workload.py`); speed and bandwidth of
the machine are measured for a fifth of a second (`machine.py`). The constants below were fitted on a core of a CPU on
a language model of 15 million parameters and a perceptron of 109 thousand; time then came out within a factor of 2 and
memory within 1.5. Loading the model and reading the files are not counted, and the model is not run.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any

from assay.compress import SJLT, Factored, Identity, parse
from assay.curvature.covariance import WIDEST
from assay.errors import MethodError
from assay.examples import Examples, read
from assay.gradients.blocks import Layout, lay_out
from assay.gradients.features import EXAMPLES, NUMBERS, window_rows
from assay.gradients.sketch import Compression
from assay.index.format import DTYPES, Dtype
from assay.methods import (
    BM25,
    EKFAC,
    EKFACCG,
    KFAC,
    TFIDF,
    TRAK,
    DataInf,
    Diagonal,
    Embedding,
    GradDot,
    LiSSA,
    PathKrylov,
    Random,
    Registered,
    SelfInfluence,
    find,
)
from assay.methods.gradient.base import GradientMethod
from assay.methods.gradient.influence import InfluenceMethod
from assay.methods.gradient.lissa import PRODUCTS
from assay.methods.gradient.unrolled import Unrolled
from assay.models import Model
from assay.runtime.machine import Machine, measure, resident_memory
from assay.runtime.workload import Data, data_of, network_of
from assay.tasks.head import CHUNK_ELEMENTS
from assay.training import Recipe

EFFICIENCY = 0.85
"""Of the measured speed, in the layers' products."""
THIN = 0.25
"""Of the measured speed, in products with a side of a few numbers (random projections, queries)."""
ACTIVATIONS = 8
"""Times that each number between layers is read or written by elementwise work, forward and backward."""
FORMED = 6
"""The same for each number of a gradient that is formed."""
SCATTERED = 160
"""The same for each number that a count-sketch adds into its buckets, in no order."""
CALL = 60e-6
"""Seconds of overhead of a module in a pass forward and backward, hooks included."""
EXAMPLE = 60e-6
"""Seconds of overhead of an example: reading it, its fingerprint, its text."""
START = 0.1
"""Seconds before anything is computed."""
DECOMPOSED = 20
"""Operations of an eigendecomposition in float64, as a multiple of the matrix's size cubed."""
KEPT = 1.6
"""Activations kept for the backward pass, as a multiple of the numbers between layers."""
HASHED = 1.5e9
"""Bytes fingerprinted a second."""
WORDS = {"bm25": 4e6, "tfidf": 1.2e6}
"""Characters a second whose words are counted."""


@dataclass(frozen=True)
class Step:
    """A part of the work."""

    name: str
    seconds: float


@dataclass(frozen=True)
class Plan:
    """A prediction; `peak_memory` (of the whole process) and `disk` in bytes, `coverage` None without a model."""

    method: str
    seconds: float
    peak_memory: int
    disk: int
    coverage: float | None
    steps: tuple[Step, ...]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return asdict(self)

    def __str__(self) -> str:
        """A line for each step and figure."""
        steps = [f"{step.name:40s} {step.seconds:8.1f} s" for step in self.steps]
        covered = [] if self.coverage is None else [f"{'coverage':40s} {self.coverage:8.1%}"]
        figures = [
            f"{'together':40s} {self.seconds:8.1f} s",
            f"{'peak memory':40s} {self.peak_memory / 2**20:8.0f} MiB",
            f"{'disk':40s} {self.disk / 2**20:8.0f} MiB",
        ]
        return "\n".join([*steps, *figures, *covered, *self.notes])


def plan(
    model: Any, train: Any, queries: Any = None, method: str | Registered = "gradcos", *, dtype: Dtype = "float32"
) -> Plan:
    """Predict the cost of `attribute`, or, without queries, of `build` (of `value` for a value method).

    `dtype` is that of the index. Raises MethodError for a method whose cost is not known, DataError for data that do
    not fit the model.
    """
    chosen = find(method)
    train, queries = read(train), None if queries is None else read(queries)
    match chosen:
        case GradientMethod():
            return _Gradients(chosen.staged(_model(model, chosen)), train, chosen, dtype).plan(queries)
        case Unrolled():
            return _unrolled(model, train, _needed(queries, chosen), chosen)
        case SelfInfluence():
            return _Gradients(_model(model, chosen), train, chosen, dtype).values()
        case Embedding() if chosen.encoder == "model":
            return _embedding(_model(model, chosen), train, _needed(queries, chosen), chosen)
        case BM25() | TFIDF() | Random():
            return _words(train, _needed(queries, chosen), chosen)
        case _:
            raise MethodError(
                f"The cost of '{chosen.name}' with these parameters cannot be predicted. Time it on a few examples."
            )


def _model(model: Any, method: Registered) -> Model:
    if not isinstance(model, Model):
        raise MethodError(
            f"The cost of '{method.name}' depends on a model, and {type(model).__name__} was given. Give one."
        )
    return model


def _needed(queries: Examples | None, method: Registered) -> Examples:
    if queries is None:
        raise MethodError(f"The method '{method.name}' has no index to build; give queries to plan an attribution.")
    return queries


def _unrolled(given: Any, train: Examples, queries: Examples, method: Unrolled) -> Plan:
    if not isinstance(given, Recipe):
        raise MethodError(
            f"The cost of '{method.name}' depends on a recipe, and {type(given).__name__} was given. Give assay.Recipe(...)."
        )
    return _Gradients(Model(given.initial(), given.task), train, GradDot(), "float32").unrolled(given, queries, method)


# -- gradients ---------------------------------------------------------------------------------------------------------


class _Gradients:
    """Time and memory of the gradient family's parts for one model, data and method."""

    def __init__(self, model: Model, train: Examples, method: GradientMethod | SelfInfluence, dtype: Dtype) -> None:
        self.model, self.train, self.method = model, train, method
        self.dtype: Dtype = dtype
        self.layout: Layout = lay_out(model)
        self.machine: Machine = measure(model.device)
        self.data = data_of(model, train)
        self.network = network_of(model, model.task.encode(train[0]))
        self.numbers = sum(block.size for block in self.layout.blocks)
        self.stages = len(model.stages()) if isinstance(method, SelfInfluence) else len(method.stages(model))

    def plan(self, queries: Examples | None) -> Plan:
        """Of an attribution, or of an index."""
        assert isinstance(self.method, GradientMethod)
        compression = self.method.compressor()
        if queries is None and not self.method.compresses:
            raise MethodError(
                f"The method '{self.method.name}' has no index to build; give queries to plan an attribution."
            )
        if queries is None and isinstance(compression, Identity):
            compression = Factored(self.method.seed)  # as `build` does
        live = isinstance(compression, Identity) and not self.method.stores
        width = self._width(compression)
        asked = None if queries is None else data_of(self.model, queries)
        count = 0 if asked is None else asked.examples
        steps = [
            Step("fingerprints, rules checked", self._check(2 if queries is None or live else 3)),
            Step("gradients of the training examples", self._pass(self.data, compression, count if live else 0)),
        ]
        if asked is not None:
            steps.append(Step("gradients of the queries", self._pass(asked, compression)))
        disk = 0 if live else int(len(self.train) * self.stages * (width * DTYPES[self.dtype].itemsize + 64))
        if not live:
            steps.append(Step("writing and reading the index", 4 * disk / self.machine.bytes))
        queried = 4 * count * width * (2.2 if live else 2 + self.stages)
        memory = queried + self._working(compression, width, live) + self._rules(compression)
        if isinstance(self.method, TRAK) and asked is not None:
            steps.append(Step("Gram matrices", self.stages * self._gram(width)))
            memory += 4 * 8 * width**2
        if isinstance(self.method, EKFACCG | LiSSA | DataInf):
            steps.insert(1, self.solves(self.method, count))
            memory += 4 * self.numbers * (4 * count if not isinstance(self.method, DataInf) else 2)
        if isinstance(self.method, InfluenceMethod):
            fit, held = self._curvature(self.method)
            steps.insert(1, fit)
            memory += held
        temporary = ("The index is temporary, in TMPDIR.",) if disk and asked is not None else ()
        return self._planned(steps, memory, disk, temporary)

    def values(self) -> Plan:
        """Of self-influence."""
        compression = parse(self.method.compression, self.method.seed)
        steps = [
            Step("fingerprints, rules checked", self._check(2)),
            Step("gradients of the training examples", self._pass(self.data, compression)),
        ]
        memory = self._working(compression, self._width(compression), False) + self._rules(compression)
        return self._planned(steps, memory, 0, ())

    def _planned(self, steps: list[Step], memory: float, disk: int, notes: tuple[str, ...]) -> Plan:
        covered = self.layout.coverage
        slow = sum(self.layout.blocks[k].size for k in self.layout.direct)
        said = [f"{slow:,} parameters are taken example by example."] if slow else []
        data = f"{self.data.tokens:,.0f} positions in {self.data.batches:,.0f} batches, from a sample of the examples."
        return Plan(
            self.method.name,
            sum(step.seconds for step in steps),
            int(self.machine.resident + memory),
            disk,
            covered,
            tuple(steps),
            (data, *said, *notes),
        )

    # -- seconds

    def _pass(self, data: Data, compression: Compression, queries: int = 0) -> float:
        """Features of examples at all checkpoints, or with `queries` their products with so many gradients."""
        captured = self._floor(data) + self._compress(data, compression, queries) + self._slow(data)
        return self.stages * (data.examples * (data.encoding + EXAMPLE) + captured)

    def _floor(self, data: Data, passes: float = 2.0) -> float:
        """Forward, and backward without weight gradients."""
        net, machine = self.network, self.machine
        operations = passes * (2 * net.products * data.positions + 6 * net.attention * data.squares)
        moved = passes / 2 * ACTIVATIONS * 4 * net.sides * data.positions
        return operations / (EFFICIENCY * machine.flops) + moved / machine.bytes + data.batches * net.calls * CALL

    def _compress(self, data: Data, compression: Compression, queries: int) -> float:
        machine, blocks = self.machine, self.layout.blocks
        if isinstance(compression, Factored):
            k = compression.rank
            sides = sum((block.rows + block.cols) * (block.cols > 1) for block in blocks)
            return 2 * k * data.positions * (sides + k * len(blocks)) / (THIN * machine.flops)
        operations = 2 * data.positions * sum(b.size for b in blocks if b.cols > 1)
        operations += 2 * queries * data.examples * self.numbers * EFFICIENCY / THIN
        times = FORMED + (SCATTERED if isinstance(compression, SJLT) else 0)
        return operations / (EFFICIENCY * machine.flops) + times * 4 * data.examples * self.numbers / machine.bytes

    def _curvature(self, method: InfluenceMethod) -> tuple[Step, float]:
        """Passes over the fitting examples, moments of the sides in each, eigenvectors once; and what is held of it."""
        share = min(1.0, method.fitting_examples / len(self.train))
        sides = [n for b in self.layout.blocks if b.cols > 1 for n in (b.rows, b.cols) if n <= WIDEST]
        squares, cubes = sum(n**2 for n in sides), sum(n**3 for n in sides)
        speed = EFFICIENCY * self.machine.flops
        factored, corrected = not isinstance(method, Diagonal), not isinstance(method, KFAC)
        per_pass = self._floor(self.data) + self._slow(self.data) + self.data.examples * self.data.encoding
        seconds = share * (factored + corrected) * (per_pass + factored * 2 * squares * self.data.positions / speed)
        if corrected:
            seconds += share * self._compress(self.data, Identity(), 0)
        seconds += self._check(1) + factored * DECOMPOSED * cubes / speed
        if method.damping == "cv":
            seconds *= 2
        held = 4 * self.numbers + factored * 4 * squares + 12 * (self.numbers if corrected else squares)
        return Step("curvature", seconds), held

    def solves(self, method: EKFACCG | LiSSA | DataInf, queries: int) -> Step:
        """The queries through an inverse matrix that is not kept: products with the curvature, or two gradient passes."""
        match method:
            case EKFACCG():
                return Step("products, at most", self.products(method.iterations, method.fitting_examples, queries))
            case LiSSA():
                series = self.products(method.depth * method.repeats, method.batch_size, queries)
                return Step("products", series + self.products(PRODUCTS, method.fitting_examples, 1))
            case DataInf():
                share = min(1.0, method.fitting_examples / len(self.train))
                return Step("curvature", 2 * share * self._pass(self.data, Identity()))

    def products(self, count: int, rows: int, queries: int) -> float:
        """So many products of all queries with the Gauss-Newton matrix of so many examples."""
        return count * min(1.0, rows / len(self.train)) * (1 + 3 * queries) * self._floor(self.data, 1.0)

    def unrolled(self, recipe: Recipe, queries: Examples, method: Unrolled) -> Plan:
        """Training, and for each segment its curvature and its scans."""
        asked, scans = data_of(self.model, queries), method.segments * len(range(method.per_segment)[method.inside])
        count = asked.examples
        if isinstance(method, PathKrylov):
            curvature = method.segments * self.products(method.krylov, method.fitting_examples, count)
            held = 4 * self.numbers * count * method.krylov
        else:
            fit, held = self._curvature(EKFAC(fitting_examples=method.fitting_examples))
            curvature = scans * fit.seconds
        steps = [
            Step("training", recipe.epochs * self._floor(self.data, 3.0)),
            Step("curvature of the segments", curvature),
            Step("gradients of the training examples", scans * self._pass(self.data, Identity(), count)),
            Step("gradients of the queries", self._pass(asked, Identity())),
        ]
        states = 4 * self.numbers * method.segments * method.per_segment * 3
        memory = held + states + 4 * count * self.numbers * 2.2 + self._working(Identity(), self.numbers, True)
        plan = self._planned(steps, memory + self._rules(Identity()), 0, ())
        return replace(plan, method=method.name)

    def _slow(self, data: Data) -> float:
        """Blocks that no rule covers: a pass an example."""
        if not self.layout.direct:
            return 0.0
        return self._floor(data, 3.0) + (data.examples - data.batches) * self.network.calls * CALL

    def _check(self, layouts: int) -> float:
        """Fingerprints, and for each checkpoint and set of examples the rules against automatic differentiation."""
        size = sum(p.numel() * p.element_size() for p in self.model.module.parameters())
        data = self.data
        one = Data(1, data.positions / data.examples, data.squares / data.examples, 1, 0, 1, 0, 0)
        check = self._floor(one, 2.0) + 4 * self._floor(one, 2.0) + 2 * FORMED * 4 * self.numbers / self.machine.bytes
        return START + 2 * size / HASHED + layouts * self.stages * check

    def _gram(self, width: int) -> float:
        """In float64, at half the speed."""
        return (2 * len(self.train) * width**2 + width**3 / 3) / (0.5 * EFFICIENCY * self.machine.flops)

    # -- bytes

    def _width(self, compression: Compression) -> int:
        """Numbers in a feature vector, without making the matrices."""
        match compression:
            case Factored(rank=k):
                return sum(min(k, block.rows) * min(k, block.cols) for block in self.layout.blocks)
            case SJLT(dim=dim):
                return dim
            case _:
                return self.numbers

    def _working(self, compression: Compression, width: int, live: bool) -> float:
        """Activations of a batch, formed gradients, a window of features."""
        net, batch = self.network, self.data.batch
        kept = KEPT * 4 * net.held * batch + 2 * 4 * min(CHUNK_ELEMENTS, net.widest * batch)
        window = 4 * width * min(window_rows(width), len(self.train)) if not live else 0
        formed = 0.0
        if not isinstance(compression, Factored):
            largest = max(block.size for block in self.layout.blocks)
            together = min(self.data.together, EXAMPLES, max(1, NUMBERS // max(largest, 1 if live else width)))
            formed = 2.5 * 4 * largest * together
        return kept + formed + window * (1 if isinstance(self.method, SelfInfluence) else 2)

    def _rules(self, compression: Compression) -> float:
        """The matrices of the compression; the gradient of one example while rules are checked."""
        matrices = 12 * self.numbers if isinstance(compression, SJLT) else 0
        return matrices + 2 * 4 * self.numbers


# -- other families ----------------------------------------------------------------------------------------------------


def _embedding(model: Model, train: Examples, queries: Examples, method: Embedding) -> Plan:
    """One forward pass each."""
    machine = measure(model.device)
    network = network_of(model, model.task.encode(train[0]))
    width = network.attention or network.sides

    def seconds(examples: Examples) -> float:
        data = data_of(model, examples)
        operations = 2 * network.products * data.positions + 2 * network.attention * data.squares
        moved = ACTIVATIONS / 2 * 4 * network.sides * data.positions
        called = data.batches * network.calls * CALL / 2 + data.examples * (data.encoding + EXAMPLE)
        return operations / (EFFICIENCY * machine.flops) + moved / machine.bytes + called

    steps = (Step("representations", seconds(train) + seconds(queries)),)
    batch = min(4096, data_of(model, train).positions)
    memory = 8 * width * (len(train) + len(queries)) + 4 * batch * network.widest + 4 * len(train) * len(queries)
    return Plan(method.name, steps[0].seconds, int(machine.resident + memory), 0, None, steps)


def _words(train: Examples, queries: Examples, method: Registered) -> Plan:
    """Reading the training texts once, then scores for each query."""
    step = max(1, len(train) // 64)
    sample = [len(train.texts[k]) for k in range(0, len(train), step)][:64]
    characters = len(train) * sum(sample) / len(sample)
    pairs = len(train) * len(queries)
    reading = characters / WORDS[method.name] if method.name in WORDS else len(train) * 2e-6
    steps = (Step("reading the training texts", reading), Step("scores", pairs * 1e-7))
    memory = resident_memory() + (12 * characters if method.name in WORDS else 0) + 8 * pairs
    return Plan(method.name, sum(s.seconds for s in steps), int(memory), 0, None, steps)
