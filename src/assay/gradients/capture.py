"""Capture of compressed per-example gradients with the weights frozen.

One forward pass and one backward pass *without* weight gradients is the floor: every layer gives the gradient at its
output whether or not its weight needs one. Hooks take a layer's input when it runs and the gradient at its output
when it arrives; each is compressed at once, and the per-example gradient is the sum of products of two thin factors.
Blocks that no rule covers are taken example by example, by a forward and a backward pass for each.
"""

from collections import Counter
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from assay.gradients.blocks import Layout, Site, lay_out
from assay.gradients.functional import each_gradient, requiring_gradients
from assay.gradients.rules import Factored, NotByExample, OneHot, Side, Whole
from assay.gradients.sketch import Compression, Sketch, sum_outer, sum_outer_flat
from assay.models import Model
from assay.tasks import Batch, Measurement
from assay.tasks.base import evaluating


class Capture:
    """Gives features of batches while its hooks are on the module; made by `capturing`.

    `misfits`: modules whose inputs turned out not to be arranged by example; `seen`: modules whose rule was used.
    """

    def __init__(self, model: Model, layout: Layout, sketch: Sketch) -> None:
        self.model, self.layout, self.sketch = model, layout, sketch
        self.misfits: set[nn.Module] = set()
        self.seen: set[nn.Module] = set()
        self._sites = {site.module: site for site in layout.sites}
        self._additive = sketch.linear if sketch.additive is None else sketch.additive
        self._active: dict[nn.Module, Site] = {}  # the sites of the pass that runs; empty: hooks are silent
        self._batch = 0
        self._dtype = torch.float64 if precision(model) == torch.float64 else torch.float32
        self._features = torch.empty(0)
        self._runs: Counter[int] = Counter()  # how often a block was used in the pass: tied or repeated layers
        self._waiting: dict[int, Tensor] = {}
        self._latest: tuple[Any, Tensor, Side] | None = None  # for inputs that several layers share (q, k, v)
        self._source: Tensor | None = None  # a zero added to the first outputs, where gradients flow to

    @property
    def width(self) -> int:
        """Numbers in a feature vector."""
        return self.sketch.width

    def __call__(
        self, batch: Batch, measurement: Measurement
    ) -> tuple[Float[Tensor, "batch width"], Float[Tensor, " batch"]]:
        """Features of the measurement's gradient, and the measurement itself.

        Features are float32, float64 for a float64 model. If a layer's input is not arranged by example in this
        batch, the pass is repeated without its rule.
        """
        slow = set(self.layout.direct)
        while True:
            features, values, misfits = self._pass(batch, measurement, slow)
            if not misfits:
                break
            self.misfits |= misfits
            slow |= {block for module in misfits for block in self._sites[module].blocks.values()}
        if slow:
            self._by_example(batch, measurement, slow, features)
        return features, values

    def _pass(self, batch: Batch, measurement: Measurement, slow: set[int]) -> tuple[Tensor, Tensor, set[nn.Module]]:
        """One forward and one backward pass; the features of all blocks but the slow ones, and the misfits."""
        self._batch, self._source, self._found, self._runs = len(batch), None, set[nn.Module](), Counter[int]()
        self._features = torch.zeros(len(batch), self.width, dtype=self._dtype, device=self.model.device)
        if self.sketch.offset is not None:
            self._features += self.sketch.offset.to(self._features)
        self.sketch.begin(self.model.task.positions(batch))
        sites = [site.less(slow) for site in self.layout.sites]
        self._active = {site.module: site for site in sites if site.blocks}
        try:
            with torch.enable_grad():
                values = self.model.task.measure(self.model.module, batch, measurement, self._observe)
                if values.requires_grad and not self._found:
                    torch.autograd.grad(values.sum(), _leaves(values), allow_unused=True)
            for block, gradient in self._waiting.items():
                self._features[:, self.sketch.slots[block]] += self.sketch.emit(block, gradient)
            return self._features, values.detach(), self._found
        finally:
            self._active, self._source, self._features, self._waiting = {}, None, torch.empty(0), {}
            self._latest = None

    def _by_example(self, batch: Batch, measurement: Measurement, slow: set[int], features: Tensor) -> None:
        blocks = {k: self.layout.blocks[k] for k in sorted(slow)}
        names = [name for block in blocks.values() for name in block.parameters]
        with requiring_gradients(self.model.module, [self.model.parameters[name] for name in names]):
            for b, gradients in enumerate(each_gradient(self.model, batch, measurement, names)):
                for k, block in blocks.items():
                    numbers = self.sketch.whole(k, block.assemble(gradients).to(self._dtype))
                    features[b, self.sketch.slots[k]] += numbers[0]

    # -- hooks -------------------------------------------------------------------------------------------------------

    def ran(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """After a layer ran: compress its input, and wait for the gradient at its output."""
        site = self._active.get(module)
        if site is None or not torch.is_grad_enabled():
            return None
        inputs = [*args, *kwargs.values()]
        if len(inputs) != 1 or not isinstance(inputs[0], Tensor) or module in self.layout.unseen:
            self._found.add(module)
            return None
        x = inputs[0]
        if site.rule.broadcasts and x.shape[:1] == (1,) and self._batch > 1:
            x, output = x.expand(self._batch, *x.shape[1:]), output.expand(self._batch, *output.shape[1:])
        try:
            late = self._early(site, x.detach())
        except NotByExample:
            self._found.add(module)
            return None
        self.seen.add(module)
        self._runs.update(site.blocks.values())
        if not output.requires_grad:
            if self._source is None:
                self._source = torch.zeros((), dtype=output.dtype, device=output.device, requires_grad=True)
            output = output + self._source.to(output.dtype)
        output.register_hook(late)
        return output

    def _early(self, site: Site, x: Tensor) -> Callable[[Tensor], None]:
        """Compress what the input tells; returns what to do with the gradient at the output."""
        if isinstance(site.rule, Factored):
            return self._early_factored(site, site.rule, x)
        assert isinstance(site.rule, Whole)
        return self._early_whole(site, site.rule, x)

    def _early_factored(self, site: Site, rule: Factored, x: Tensor) -> Callable[[Tensor], None]:
        (block,) = site.blocks.values()
        batch, sketch = self._batch, self.sketch
        compress, compress_late = (sketch.left, sketch.right) if rule.early_is_left else (sketch.right, sketch.left)
        known = compress(block, self._side(rule, site.module, x))

        def late(d: Tensor) -> None:
            other = compress_late(block, rule.late(site.module, d, batch))
            left, right = (known, other) if rule.early_is_left else (other, known)
            numbers = sketch.pair(block, left, right, self._dtype) if self._additive or self._runs[block] == 1 else None
            if numbers is None:
                time = left.index.shape[1] if isinstance(left, OneHot) else left.shape[1]
                self._put(block, sketch.formed(block, sum_outer(left, right, self._dtype), time))
            else:
                self._features[:, sketch.slots[block]] += numbers

        return late

    def _side(self, rule: Factored, module: nn.Module, x: Tensor) -> Side:
        """The early side; the same object for all layers that it is equal for, so that work on it is done once."""
        shared = rule.shared(module)
        if shared is None:
            return rule.early(module, x, self._batch)
        # the input is kept until the next one, so that its memory holds nothing else meanwhile
        key = (type(rule).early, shared, x.data_ptr(), x.shape, x.stride(), x.dtype, x._version)
        if self._latest is None or self._latest[0] != key:
            self._latest = (key, x, rule.early(module, x, self._batch))
        return self._latest[2]

    def _early_whole(self, site: Site, rule: Whole, x: Tensor) -> Callable[[Tensor], None]:
        batch, sketch = self._batch, self.sketch
        kept = rule.early(site.module, x, batch)

        def late(d: Tensor) -> None:
            gradients = rule.gradients(site.module, kept, d, batch)
            for key, block in site.blocks.items():
                gradient = gradients[key].to(self._dtype)
                if sketch.linear:
                    self._features[:, sketch.slots[block]] += sketch.whole(block, gradient)
                else:  # its sides are not compressed
                    self._put(block, gradient)

        return late

    def _observe(
        self,
        module: nn.Module,
        x: Float[Tensor, "tokens cols"],
        d: Float[Tensor, "tokens rows"],
        example: Int[Tensor, " tokens"],
    ) -> None:
        """A layer whose output was computed in pieces shows inputs and output gradients of some tokens."""
        site = self._active.get(module)
        if site is None:
            return
        self.seen.add(module)
        (block,) = site.blocks.values()
        self._runs[block] += 1
        rule = site.rule
        assert isinstance(rule, Factored)
        assert not rule.early_is_left
        right = self.sketch.right(block, rule.early(module, x[None], 1))
        left = self.sketch.left(block, d)
        assert isinstance(left, Tensor)
        assert isinstance(right, Tensor)
        first, last = int(example[0]), int(example[-1])
        rows, example, count = slice(first, last + 1), example - first, last - first + 1
        numbers = self.sketch.tokens(block, left, right[0], example, count) if self._additive else None
        if numbers is None:
            gradient = sum_outer_flat(left, right[0], example, count, self._dtype)
            self._put(block, self.sketch.formed(block, gradient, len(left)), rows, partial=True)
        else:
            self._features[rows, self.sketch.slots[block]] += numbers

    def _put(
        self, block: int, gradient: Float[Tensor, "n p q"], rows: slice = slice(None), partial: bool = False
    ) -> None:
        """Add a contribution of some examples to a block. A sketch that is not linear waits until all are in."""
        if self.sketch.linear or (not partial and self._runs[block] == 1):
            self._features[rows, self.sketch.slots[block]] += self.sketch.emit(block, gradient)
        else:
            if block not in self._waiting:
                self._waiting[block] = gradient.new_zeros(self._batch, *gradient.shape[1:])
            self._waiting[block][rows] += gradient


@contextmanager
def capturing(model: Model, compression: Compression | Sketch, layout: Layout | None = None) -> Generator[Capture]:
    """Hooks on, weights frozen, evaluation mode; everything as it was on the way out, also after an error.

    A sketch is taken as it is, bound to the layout's blocks.
    """
    layout = layout or lay_out(model)
    bound = isinstance(compression, Sketch)
    sketch = compression if bound else compression.bind(layout.blocks, model.device, precision(model))
    model.task.prepare(model.module)
    capture = Capture(model, layout, sketch)
    with ExitStack() as undo:
        undo.enter_context(evaluating(model.module))
        undo.enter_context(requiring_gradients(model.module, ()))
        for site in layout.sites:
            undo.callback(site.module.register_forward_hook(capture.ran, with_kwargs=True).remove)
        yield capture


def _leaves(values: Tensor) -> list[Tensor]:
    """All tensors that the graph starts from: gradients must flow to each of them for every hook to be called."""
    leaves: list[Tensor] = []
    seen: set[Any] = {None}
    queue: list[Any] = [values.grad_fn]
    while queue:
        node = queue.pop()
        if node not in seen:
            seen.add(node)
            leaves += [node.variable] if hasattr(node, "variable") else []
            queue += [following for following, _ in node.next_functions]
    return leaves


def precision(model: Model) -> torch.dtype:
    """The dtype of the parameters that take part."""
    return next((p.dtype for p in model.parameters.values() if p.is_floating_point()), torch.float32)
