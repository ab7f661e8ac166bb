"""Inner products with given gradients, as they come: the exact products of a training gradient with a few queries.

    phi(G) = (<G, V_1>, ..., <G, V_Q>),      with squares also |G|^2,      G = sum_t d_t a_t^T

Nothing of the size of a gradient is kept for an example. For each block the cheapest way is taken, by operations:

    form G                     T rows cols + Q rows cols                  then drop it
    ghost products             T Q rows cols                              sum_t d_t^T V a_t, G never formed
    low-rank ghost products    T R (rows + cols)                          sum_t (d_t^T L)(R a_t), R the ranks of all queries
    ghost length               T^2 (rows + cols)                          |G|^2 = sum_tu (d_t . d_u)(a_t . a_u)

(Grosse et al. 2023, 2308.03296, section 3.2.2, for the low-rank products.) All give the same numbers, up to rounding; with
`low_rank` above 0 each V is replaced by factors of that relative error, so that a product is off by at most
`low_rank |G| |V|` in a block. The square makes this the one compression that is not linear.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from assay.compress.lowrank import low_rank
from assay.compress.none import IdentitySketch
from assay.gradients.blocks import Block
from assay.gradients.rules import OneHot, Side
from assay.gradients.sketch import Compression, gather
from assay.tasks.measurements import generator


@dataclass(frozen=True, eq=False)
class Against(Compression):
    """Products with the exact (uncompressed) features `psi` [queries, parameters], and the squared length if asked."""

    psi: Tensor | None = None
    squares: bool = False
    low_rank: float = 0.0

    def bind(self, blocks: Sequence[Block], device: torch.device, dtype: torch.dtype) -> "AgainstSketch":
        """The queries' gradients, block by block, factored where that is shorter."""
        assert self.psi is not None
        sketch = AgainstSketch(blocks, len(self.psi), self.squares)
        for k, (block, slot) in enumerate(zip(blocks, IdentitySketch(blocks).slots, strict=True)):
            dense = self.psi[:, slot].reshape(-1, block.rows, block.cols).to(device)
            kept = self._factored(block, dense) if self.low_rank > 0 else None
            sketch.queries[k] = kept or Plain(dense)
        return sketch

    def _factored(self, block: Block, dense: Float[Tensor, "q rows cols"]) -> "LowRank | None":
        """Factors of every query, if they are shorter than the matrices."""
        if min(block.rows, block.cols) == 1:
            return None
        source = generator(self.seed, block.name, "low-rank")
        pairs = [low_rank(V, self.low_rank, source) for V in dense]
        ranks = torch.tensor([left.shape[1] for left, _ in pairs])
        if int(ranks.sum()) * (block.rows + block.cols) >= len(dense) * block.size:
            return None
        left, right = torch.cat([left for left, _ in pairs], 1), torch.cat([right for _, right in pairs])
        query = torch.repeat_interleave(torch.arange(len(dense)), ranks).to(dense.device)
        return LowRank(left, right, query, len(dense))

    def __str__(self) -> str:
        return "against"


@dataclass(frozen=True, eq=False)
class Plain:
    """The queries' matrices of one block, perhaps a view of all blocks'."""

    matrices: Float[Tensor, "q rows cols"]

    def work(self, block: Block, time: int, onehot: bool) -> tuple[float, float]:
        """Operations of ghost products, and of products with the formed gradient, an example."""
        ghost = time * len(self.matrices) * (block.cols if onehot else block.size)
        return ghost, len(self.matrices) * block.size

    def formed(self, gradient: Float[Tensor, "batch rows cols"]) -> Float[Tensor, "batch q"]:
        """`<G, V>`."""
        return (self.matrices.flatten(1).to(gradient.dtype) @ gradient.flatten(1).T).T

    def ghost(self, left: Side, right: Side, dtype: torch.dtype) -> Float[Tensor, "batch q"]:
        """`sum_t d_t^T V a_t`, a query at a time."""
        products = [_apply(V.to(dtype), left, right) for V in self.matrices]
        if not products:
            return torch.zeros(_examples(left), 0, dtype=dtype, device=self.matrices.device)
        return torch.stack(products, 1)


@dataclass(frozen=True, eq=False)
class LowRank:
    """Factors of all queries side by side: `left` [rows, R], `right` [R, cols], and the query of each of the R."""

    left: Float[Tensor, "rows r"]
    right: Float[Tensor, "r cols"]
    query: Int[Tensor, " r"]
    queries: int

    def work(self, block: Block, time: int, onehot: bool) -> tuple[float, float]:
        """Operations of ghost products, and of products with the formed gradient, an example."""
        ranks = len(self.query)
        return time * ranks * (block.cols if onehot else block.rows + block.cols), ranks * block.size

    def formed(self, gradient: Float[Tensor, "batch rows cols"]) -> Float[Tensor, "batch q"]:
        """`<G, L R>`."""
        turned = self.left.to(gradient.dtype).T @ gradient
        return self.summed((turned * self.right.to(gradient.dtype)).sum(2))

    def ghost(self, left: Side, right: Side, dtype: torch.dtype) -> Float[Tensor, "batch q"]:
        """`sum_t (d_t^T L)(R a_t)`."""
        return self.summed((_onto(self.left, left, dtype) * _onto(self.right.T, right, dtype)).sum(1))

    def summed(self, terms: Float[Tensor, "batch r"]) -> Float[Tensor, "batch q"]:
        """Over the ranks of each query."""
        total = torch.zeros(len(terms), self.queries, dtype=terms.dtype, device=terms.device)
        return total.index_add_(1, self.query, terms)


class AgainstSketch(IdentitySketch):
    """One slot for all blocks: products and squares add up over them."""

    def __init__(self, blocks: Sequence[Block], queries: int, squares: bool) -> None:
        super().__init__(blocks)
        self.blocks, self.squares, self.linear = tuple(blocks), squares, not squares
        self.width = queries + squares
        self.slots = (slice(0, self.width),) * len(self.blocks)
        self.queries: dict[int, Plain | LowRank] = {}

    def pair(self, block: int, left: Side, right: Side, dtype: torch.dtype) -> Float[Tensor, "batch w"] | None:
        """Without forming the gradient, where that takes fewer operations."""
        about, queries = self.blocks[block], self.queries[block]
        onehot = isinstance(left, OneHot) or isinstance(right, OneHot)
        time = _positions(left)
        ghost, after = queries.work(about, time, onehot)
        form = about.size + (time * about.cols if onehot else time * about.size)
        length = self.squares * time**2 * (about.cols if onehot else about.rows + about.cols)
        if ghost + length >= form + after:
            return None
        products = queries.ghost(left, right, dtype)
        return torch.cat([products, _length(left, right, dtype)], 1) if self.squares else products

    def tokens(
        self,
        block: int,
        left: Float[Tensor, "tokens p"],
        right: Float[Tensor, "tokens q"],
        example: Int[Tensor, " tokens"],
        batch: int,
    ) -> Float[Tensor, "batch w"] | None:
        """By low-rank factors, if there are any."""
        queries = self.queries[block]
        if not isinstance(queries, LowRank):
            return None
        dtype = torch.float64 if left.dtype == torch.float64 else torch.float32
        terms = (left.to(dtype) @ queries.left.to(dtype)) * (right.to(dtype) @ queries.right.T.to(dtype))
        total = torch.zeros(batch, terms.shape[1], dtype=dtype, device=left.device)
        return queries.summed(total.index_add_(0, example, terms))

    def emit(self, block: int, gradient: Float[Tensor, "batch p q"]) -> Float[Tensor, "batch w"]:
        """Products with every query, then the squared length."""
        products = self.queries[block].formed(gradient)
        return torch.cat([products, gradient.flatten(1).square().sum(1, keepdim=True)], 1) if self.squares else products

    def whole(self, block: int, gradient: Float[Tensor, "batch rows cols"]) -> Float[Tensor, "batch w"]:
        """The same."""
        return self.emit(block, gradient)


def _positions(side: Side) -> int:
    return side.index.shape[1] if isinstance(side, OneHot) else side.shape[1]


def _examples(side: Side) -> int:
    return len(side.index) if isinstance(side, OneHot) else len(side)


def _onto(matrix: Float[Tensor, "n r"], side: Side, dtype: torch.dtype) -> Float[Tensor, "batch time r"]:
    """`side @ matrix`."""
    return gather(matrix.to(dtype), side) if isinstance(side, OneHot) else side.to(dtype) @ matrix.to(dtype)


def _apply(V: Float[Tensor, "rows cols"], left: Side, right: Side) -> Float[Tensor, " batch"]:
    """`sum_t left_t^T V right_t`; at most one side is one-hot."""
    if isinstance(right, OneHot):
        return _apply(V.T, right, left)
    return (_onto(V, left, V.dtype) * right.to(V.dtype)).sum((1, 2))


def _length(left: Side, right: Side, dtype: torch.dtype) -> Float[Tensor, "batch 1"]:
    """`|G|^2 = sum_tu (d_t . d_u)(a_t . a_u)`."""
    return (_products(left, dtype) * _products(right, dtype)).sum((1, 2))[:, None]


def _products(side: Side, dtype: torch.dtype) -> Float[Tensor, "batch time time"]:
    if isinstance(side, OneHot):
        same = (side.index[:, :, None] == side.index[:, None, :]) & (side.index >= 0)[:, :, None]
        return same.to(dtype)
    x = side.to(dtype)
    return x @ x.transpose(1, 2)
