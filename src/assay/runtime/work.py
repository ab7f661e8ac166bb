"""The parts that methods are made of, for one model and its training examples: passes, compressions, products, bytes.

    seconds = sum over steps of  operations / (speed * efficiency) + bytes / bandwidth + calls * overhead

Operations and bytes are counted from the layers and from a sample of examples (`workload.py`); speed and bandwidth of
the machine are measured for a fifth of a second (`machine.py`).
"""

from collections.abc import Sequence

from assay.compress import SJLT, Factored
from assay.compress.elementwise import Elementwise, Stepped
from assay.examples import Examples
from assay.gradients.blocks import Block, Layout, lay_out
from assay.gradients.features import EXAMPLES, NUMBERS, window_rows
from assay.gradients.sketch import Compression
from assay.models import Model
from assay.runtime.machine import Machine, measure
from assay.runtime.steps import Plan, Step
from assay.runtime.workload import Data, data_of, network_of
from assay.tasks.head import CHUNK_ELEMENTS

EFFICIENCY = 0.85
"""Of the measured speed, in the layers' products."""
THIN = 0.25
"""Of the measured speed, in products with a side of a few numbers (random projections, queries)."""
DOUBLE = 0.5
"""Of the speed in float32, in float64."""
ACTIVATIONS = 8
"""Times that each number between layers is read or written by elementwise work, forward and backward."""
TANGENTS = 6
"""Times more in a pass in forward mode for several vectors, in which attention and norms are taken apart into single steps."""
FORMED = 6
"""The same for each number of a gradient that is formed."""
SCATTERED = (740.0, 13500.0)
"""Operations that take as long as adding a number into its bucket of a count-sketch, in no order, and as finding the bucket for a
batch. Caches serve it, so that it goes with the speed and not with the bandwidth.
"""
GHOST = 3
"""Times that each number of an example's side is read or written for a product that needs no gradient formed."""
SPARED = {2.0: 1, 3.0: 1, 4.0: 2, 6.0: 4, 8.0: 4, 12.0: 8}
"""Of so many products of a layer, those that a layer without a gradient to its inputs is spared."""
CALL = 60e-6
"""Seconds of overhead of a module in a pass forward and backward, hooks included."""
TRACED = 9
"""Times that overhead where a pass is differentiated in forward mode, or twice, for several vectors at once."""
EXAMPLE = 12e-6
"""Seconds of overhead of an example beside reading and encoding it, which is measured."""
COPIED = 160
"""Times for each number of exact features that is copied into fresh memory in float64, squared and added up."""
MAPPED = {Stepped: 120, Elementwise: 45}
"""The same for each number of a gradient that is mapped number by number, temporaries included."""
START = 0.02
"""Seconds before anything is computed."""
KEPT = 1.6
"""Activations kept for the backward pass, as a multiple of the numbers between layers."""
HASHED = 1.5e9
"""Bytes fingerprinted a second."""


class Work:
    """Seconds and bytes of the parts, for one model and data."""

    def __init__(self, model: Model, train: Examples) -> None:
        self.model, self.train = model, train
        self.layout: Layout = lay_out(model)
        self.machine: Machine = measure(model.device)
        self.data = data_of(model, train)
        self.network = network_of(model, model.task.encode(train[0]))
        self.numbers = sum(block.size for block in self.layout.blocks)

    # -- seconds

    def computed(self, operations: float, efficiency: float = EFFICIENCY) -> float:
        """Multiplications and additions at a share of the measured speed."""
        return operations / (efficiency * self.machine.flops)

    def moved(self, numbers: float) -> float:
        """Numbers of float32 read or written."""
        return 4 * numbers / self.machine.bytes

    def floor(self, data: Data, passes: float = 2.0, activations: float = ACTIVATIONS) -> float:
        """So many products a layer with its activations: 1 is a forward pass, 2 with a backward pass to the inputs, 3 with
        one to the weights too. A layer that reads the example itself has no pass to its inputs.
        """
        net = self.network
        products = passes * net.products - SPARED.get(passes, 0) * net.first
        operations = 2 * products * data.positions + 6 * passes * net.attention * data.squares
        moved = passes / 2 * activations * net.sides * data.positions
        return self.computed(operations) + self.moved(moved) + data.batches * net.calls * CALL

    def traced(self) -> float:
        """Overhead of a batch in a pass whose derivatives are taken forward, or twice."""
        return TRACED * self.network.calls * CALL

    def encoded(self, data: Data) -> float:
        """Reading and encoding the examples."""
        return data.examples * (data.encoding + EXAMPLE)

    def captured(self, data: Data, compression: Compression) -> float:
        """Features of examples at one checkpoint."""
        return self.encoded(data) + self.floor(data) + self.compressed(data, compression) + self.slow(data)

    def scanned(self, data: Data, queries: int, squares: bool = False) -> float:
        """Products of exact gradients with those of so many queries, and squared lengths, each block the cheaper way:
        at T positions `T q` products a number, or the gradient formed, `T + q`.
        """
        time, seconds = self.positions(data), self.encoded(data) + self.floor(data) + self.slow(data)
        for block in self.layout.blocks:
            if block.cols > 1:
                ghost, formed = self.ways(block, time, queries, squares)
                if formed <= ghost:
                    after = (queries + squares) * block.size
                    seconds += self.computed(2 * data.examples * (formed - after))
                    seconds += self.computed(2 * data.examples * after, THIN)
                    seconds += self.moved(FORMED * data.examples * block.size)
                else:
                    seconds += self.computed(2 * data.examples * ghost)
                    seconds += self.moved(GHOST * data.examples * time * queries * block.cols)
        return seconds

    def positions(self, data: Data) -> float:
        """At which a layer's matrix is applied in an example, in the mean."""
        return self.network.applied * data.positions / data.examples

    def ways(self, block: Block, time: float, queries: int, squares: bool) -> tuple[float, float]:
        """Multiplications an example without forming its gradient, and by forming it (see `compress.against`)."""
        length = squares * time**2 * (block.rows + block.cols)
        return time * queries * block.size + length, (time + queries + squares) * block.size

    def compressed(self, data: Data, compression: Compression) -> float:
        """What a compression does beyond the pass: products with thin matrices, or forming each block's gradient."""
        if isinstance(compression, Factored):
            return self._projected(data, compression.rank)
        inner = compression.base if isinstance(compression, Elementwise) else compression
        blocks = self.layout.blocks
        seconds = self.computed(2 * self.network.applied * data.positions * sum(b.size for b in blocks if b.cols > 1))
        mapped = next((times for kind, times in MAPPED.items() if isinstance(compression, kind)), 0)
        seconds += self.moved((FORMED + mapped) * data.examples * self.numbers)
        if isinstance(inner, SJLT):
            number, bucket = SCATTERED
            seconds += self.computed((number * data.examples + bucket * data.batches) * self.numbers, 1.0)
        if isinstance(inner, Factored):
            k = inner.rank
            sides = sum(min(k, b.rows) * b.size + min(k, b.rows) * min(k, b.cols) * b.cols for b in blocks)
            seconds += self.computed(2 * data.examples * sides, THIN)
        return seconds

    def _projected(self, data: Data, k: int) -> float:
        sides = sum((b.rows + b.cols) * (b.cols > 1) for b in self.layout.blocks)
        inner = sum(min(k, b.rows) * min(k, b.cols) for b in self.layout.blocks)
        return self.computed(2 * data.positions * (k * sides + inner), THIN)

    def slow(self, data: Data) -> float:
        """Blocks that no rule covers: a pass an example."""
        if not self.layout.direct:
            return 0.0
        return self.floor(data, 3.0) + (data.examples - data.batches) * self.network.calls * CALL

    def check(self, layouts: int) -> float:
        """Fingerprints, and each time the rules against automatic differentiation."""
        size = sum(p.numel() * p.element_size() for p in self.model.module.parameters())
        data = self.data
        one = Data(1, data.positions / data.examples, data.squares / data.examples, 1, 0, 1, 0, 0)
        check = 5 * self.floor(one, 2.0) + self.moved(2 * FORMED * self.numbers)
        return START + 2 * size / HASHED + layouts * check

    # -- bytes

    def width(self, compression: Compression) -> int:
        """Numbers in a feature vector, without making the matrices."""
        match compression:
            case Elementwise(base=base):
                return self.width(base)
            case Factored(rank=k):
                return sum(min(k, block.rows) * min(k, block.cols) for block in self.layout.blocks)
            case SJLT(dim=dim):
                return dim
            case _:
                return self.numbers

    def activations(self) -> float:
        """Those of a batch, kept for the backward pass."""
        net, batch = self.network, self.data.batch
        return KEPT * 4 * net.held * batch + 2 * 4 * min(CHUNK_ELEMENTS, net.widest * batch)

    def scanning(self, queries: int, squares: bool = False) -> float:
        """Bytes of a scan against queries' gradients: activations, and the gradients that are formed."""
        time, largest = self.positions(self.data), 0
        for block in self.layout.blocks:
            ways = self.ways(block, time, queries, squares)
            largest = max(largest, block.size if ways[1] <= ways[0] else 0)
        together = min(self.data.together, EXAMPLES, max(1, NUMBERS // max(largest, 1)))
        return self.activations() + 2.5 * 4 * largest * together + 2 * 4 * self.numbers

    def working(self, compression: Compression, windows: int = 2) -> float:
        """Activations of a batch, formed gradients, windows of features; the compression's own matrices."""
        width = self.width(compression)
        window = 4 * width * min(window_rows(width), len(self.train))
        formed = 0.0
        if not isinstance(compression, Factored):
            largest = max(block.size for block in self.layout.blocks)
            together = min(self.data.together, EXAMPLES, max(1, NUMBERS // max(largest, width)))
            formed = (6 if isinstance(compression, Elementwise) else 2.5) * 4 * largest * together
        inner = compression.base if isinstance(compression, Elementwise) else compression
        matrices = 12 * self.numbers if isinstance(inner, SJLT) else 0
        return self.activations() + formed + window * windows + matrices + 2 * 4 * self.numbers

    # -- together

    def planned(
        self, method: str, steps: Sequence[Step], memory: float, disk: int = 0, notes: tuple[str, ...] = ()
    ) -> Plan:
        """The plan of these steps; `memory` above what the process holds now."""
        slow = sum(self.layout.blocks[k].size for k in self.layout.direct)
        said = [f"{slow:,} parameters are taken example by example."] if slow else []
        data = f"{self.data.tokens:,.0f} positions in {self.data.batches:,.0f} batches, from a sample of the examples."
        return Plan(
            method,
            sum(step.seconds for step in steps),
            int(self.machine.resident + memory),
            disk,
            self.layout.coverage,
            tuple(steps),
            (data, *said, *notes),
        )
