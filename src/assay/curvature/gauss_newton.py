"""The exact Gauss-Newton matrix of the training objective, as a product with vectors.

    J(theta) = (1/n) sum_i sum_t c_t l(z_t, y_t),        z = outputs of the module at the predicted positions
    H v = (1/n) sum_i J_i^T D_i J_i v + decay v,          J_i = dz/dtheta,   D_i = d^2 l / dz^2

with `D = c (diag(p) - p p^T)` for cross-entropy and `D = c I` for half the squared error, so that H is the Fisher matrix
of the model's own predictive distribution (Schraudolph 2002; Martens 2020, 1412.1193, section 9). A product is a
forward-mode derivative (`J v`), the small matrix D, and a backward pass (`J^T u`); nothing of size params^2 is formed.
Many vectors go at once: they share the forward pass.

Cost of a product with q vectors: about `1 + 3 q` forward passes of the set. Memory: q vectors, and the activations and
outputs of one batch times the vectors that fit (`NUMBERS`). Sums over examples are in the dtype of the vectors, at least
float32. The module is in evaluation mode, and attention runs by its plain formula, as fused kernels have no forward mode.

Vectors are blocks flattened one behind the other, as features without compression are (`gradients.blocks.to_vectors`).
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from assay.errors import MethodError, ModelError
from assay.examples import Examples
from assay.gradients.blocks import Block, to_parameters, to_vectors
from assay.gradients.features import pack
from assay.gradients.functional import requiring_gradients
from assay.models import Model
from assay.tasks import Batch, Item, Task
from assay.tasks.base import evaluating
from assay.tasks.measurements import Reduction

Vectors = Float[Tensor, "q params"]
Product = Callable[[Vectors], Vectors]
"""A linear map of each row."""

POSITIONS = 2048
"""Positions (tokens, with padding) in a batch."""
NUMBERS = 2**26
"""Outputs of a batch times the vectors multiplied at once, at most (256 MiB of float32, held a few times)."""

_Tensors = Mapping[str, Tensor]


class _Outputs(nn.Module):
    """The task's outputs as a module's forward, so that `functional_call` reaches every parameter of the borrowed one."""

    def __init__(self, module: nn.Module, task: Task) -> None:
        super().__init__()
        self.module, self.task = module, task

    def forward(self, batch: Batch) -> Tensor:
        return self.task.outputs(self.module, batch)


@dataclass(frozen=True)
class GaussNewton:
    """`v -> H v` on a fixed set of examples; made by `on`.

    `batches` hold the encoded examples, `count` is n, `decay` the weight decay that belongs to J. `vectorised`: whether
    several vectors go through the module in one call.
    """

    model: Model
    blocks: tuple[Block, ...]
    batches: tuple[Batch, ...]
    count: int
    reduction: Reduction = "sum"
    decay: float = 0.0
    vectorised: bool = True

    @staticmethod
    def on(
        model: Model,
        examples: Examples,
        blocks: Sequence[Block],
        reduction: Reduction = "sum",
        decay: float = 0.0,
        most: int = 256,
    ) -> "GaussNewton":
        """The matrix of these examples, in batches of at most `most`. `reduction`: of an example's loss over its positions.

        Raises MethodError for a task without outputs, ModelError for a module without forward-mode derivatives.
        """
        if model.task.link is None:
            raise MethodError(
                f"The task '{model.task.name}' knows its loss only, so its Gauss-Newton matrix is not known. Choose a "
                "method with the empirical Fisher matrix, or the task Classify or Regress."
            )
        model.task.prepare(model.module)
        items = [model.task.encode(example) for example in examples]
        batches = tuple(batched(model, items, most))
        matrix = GaussNewton(model, tuple(blocks), batches, len(items), reduction, decay)
        return replace(matrix, vectorised=matrix.probe())

    @property
    def size(self) -> int:
        """Numbers in a vector."""
        return sum(block.size for block in self.blocks)

    @property
    def dtype(self) -> torch.dtype:
        """Of its arithmetic."""
        return self._parameter().dtype

    def part(self, number: int) -> "GaussNewton":
        """The matrix of one of the batches alone: an estimate of the whole."""
        return replace(self, batches=self.batches[number : number + 1], count=len(self.batches[number]))

    def __call__(self, vectors: Vectors) -> Vectors:
        """`H v` for each row, in its dtype."""
        total = torch.zeros_like(vectors)
        with self._borrowed():
            params = self._parameters()
            for batch in self.batches:
                total += self._batch(params, batch, vectors)
        return total.div_(self.count).add_(vectors, alpha=self.decay)

    def probe(self) -> bool:
        """Whether the module maps several vectors in one call as it maps one after the other.

        Raises ModelError if it has no forward-mode derivative at all.
        """
        batch = self.batches[0].select(0)
        draw = torch.Generator().manual_seed(0)
        vectors = torch.randn(2, self.size, generator=draw).to(self.model.device, self.dtype)
        with self._borrowed():
            params = self._parameters()
            with torch.no_grad():
                self.model.task.outputs(self.model.module, batch)  # what is wrong with the module itself shows here
            try:
                one = replace(self, vectorised=False)._batch(params, batch, vectors)
            except (RuntimeError, NotImplementedError) as error:
                raise ModelError(
                    f"{type(self.model.module).__name__} has a layer without forward-mode derivative "
                    f"({str(error).splitlines()[0]}), which products with the Gauss-Newton matrix need. Choose ekfac, "
                    "or modules=... without that layer."
                ) from error
            try:
                many = self._batch(params, batch, vectors)
            except (RuntimeError, NotImplementedError):
                return False  # control flow that depends on values, or an operation without batching rule
        return torch.allclose(one, many, rtol=1e-3, atol=1e-4 * float(one.abs().max()))

    def _borrowed(self) -> ExitStack:
        """Evaluation mode, no parameter that records a graph, the plain formula of attention; undone on the way out."""
        stack = ExitStack()
        stack.enter_context(evaluating(self.model.module))
        stack.enter_context(requiring_gradients(self.model.module, ()))
        stack.enter_context(cast(AbstractContextManager[None], sdpa_kernel(SDPBackend.MATH)))
        return stack

    def _parameter(self) -> Tensor:
        p = next(iter(self.model.parameters.values()))
        return p if p.dtype == torch.float64 else p.float()

    def _parameters(self) -> dict[str, Tensor]:
        """The parameters by name, at least float32: half precision has too few digits for a solve."""
        return {name: p.detach().to(self.dtype) for name, p in self.model.parameters.items()}

    def _batch(self, params: _Tensors, batch: Batch, vectors: Vectors) -> Vectors:
        """`sum_i J_i^T D_i J_i v` over a batch, for as many vectors at once as fit."""
        outputs, task = _Outputs(self.model.module, self.model.task), self.model.task
        functional = cast(Any, torch.func)

        def f(values: _Tensors) -> Tensor:
            named = {f"module.{name}": value for name, value in values.items()}
            return functional.functional_call(outputs, named, (batch,))

        z, pull = functional.vjp(f, params)
        share = task.shares(batch, self.reduction).to(z)

        def product(tangent: _Tensors) -> _Tensors:
            _, moved = functional.jvp(f, (params,), (tangent,))
            return pull(_output_hessian(task, z, share, moved))[0]

        shapes = {name: p.shape for name, p in params.items()}
        rows = max(1, NUMBERS // max(1, z.numel())) if self.vectorised else 1
        parts: list[Tensor] = []
        for some in torch.split(vectors, rows):
            tangents = self._tangents(some.to(z.dtype), shapes)
            if self.vectorised:
                found = functional.vmap(product)(tangents)
            else:
                found = {name: t[None] for name, t in product({name: t[0] for name, t in tangents.items()}).items()}
            parts.append(to_vectors(self.blocks, found).to(vectors.dtype))
        return torch.cat(parts)

    def _tangents(self, vectors: Vectors, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
        """By parameter name. A padding token's row does not move: backward knows that of an embedding, forward mode does
        not. (Where the weight is tied, other layers move it.)
        """
        module = self.model.module
        tangents = to_parameters(self.blocks, vectors, shapes)
        uses = Counter(id(p) for _, p in module.named_parameters(remove_duplicate=False))
        for name, layer in cast(Iterable[tuple[str, nn.Module]], module.named_modules()):
            key = f"{name}.weight".strip(".")
            alone = isinstance(layer, nn.Embedding) and uses[id(layer.weight)] == 1
            if isinstance(layer, nn.Embedding) and alone and layer.padding_idx is not None and key in tangents:
                still = torch.tensor(layer.padding_idx).to(vectors.device)
                tangents[key] = tangents[key].index_fill(1, still, 0)
        return tangents


def batched(model: Model, items: Sequence[Item], most: int) -> list[Batch]:
    """Batches of about equal work, of examples of similar length."""
    groups = pack([item.length for item in items], POSITIONS, most)
    return [model.task.collate([items[k] for k in members], model.device) for members in groups]


def _output_hessian(
    task: Task, z: Float[Tensor, "n c"], share: Float[Tensor, " n"], u: Float[Tensor, "n c"]
) -> Float[Tensor, "n c"]:
    """`D u` at each position."""
    if task.link == "softmax":
        p = z.softmax(1)
        u = p * (u - (p * u).sum(1, keepdim=True))
    return u * share[:, None]
