"""Blocks: the matrices whose per-example gradients are captured, and which rule sees each.

A *block* is one weight matrix [rows, cols] (with its bias as a last column, if it has one), or one other parameter
flattened to [rows, cols]. Its per-example gradient is `G = sum_t d_t a_t^T` for layers that apply it as a matrix
(`a_t` inputs, `d_t` gradients at the outputs), so that `G` need never be formed. A weight tied between layers is one
block with several *sites*, whose contributions add up.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from assay.gradients.rules import RULES, Rule
from assay.models import Model


@dataclass(frozen=True)
class Block:
    """One matrix of parameters. `rows * cols` numbers an example, uncompressed.

    `parameters` names the weight and, if there is one, the bias in the last column; `transposed` says that the weight
    is stored [in, out].
    """

    name: str
    rows: int
    cols: int
    parameters: tuple[str, ...]
    transposed: bool = False

    def same(self, other: "Block") -> bool:
        """Whether both hold the same parameters in the same way, whatever their names."""
        return replace(self, name=other.name) == other

    @property
    def size(self) -> int:
        """Numbers in one example's gradient."""
        return self.rows * self.cols

    def assemble(self, gradients: Mapping[str, Tensor]) -> Float[Tensor, "batch rows cols"]:
        """The block's gradient from per-example gradients [batch, *shape] by parameter name."""
        weight = gradients[self.parameters[0]]
        if self.transposed:
            weight = weight.transpose(1, 2)
        weight = weight.reshape(len(weight), self.rows, -1)
        biases = [gradients[name][:, :, None] for name in self.parameters[1:]]
        return torch.cat([weight, *biases], 2) if biases else weight

    def divide(self, matrix: Float[Tensor, "batch rows cols"], shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
        """The inverse of `assemble`: [batch, *shape] by parameter name, `shapes` being those of the parameters."""
        weight, biases = self.parameters[0], self.parameters[1:]
        inputs = self.cols - len(biases)
        main = matrix[:, :, :inputs]
        if self.transposed:
            main = main.transpose(1, 2)
        parts = {weight: main.reshape(len(matrix), *shapes[weight])}
        return parts | {name: matrix[:, :, inputs + k] for k, name in enumerate(biases)}


@dataclass(frozen=True)
class Site:
    """A module, its rule, and for each of the rule's names the block that it contributes to."""

    module: nn.Module
    rule: Rule
    blocks: dict[str, int]

    def less(self, blocks: AbstractSet[int]) -> "Site":
        """The site without these blocks."""
        return Site(self.module, self.rule, {key: k for key, k in self.blocks.items() if k not in blocks})


@dataclass(frozen=True)
class Layout:
    """All blocks of a model in an order that its parameters alone decide, and how each is captured.

    `sites`: the modules whose rules are used; of them `unseen` have not run yet, so that their rules are not verified.
    `direct`: blocks taken example by example.
    """

    blocks: tuple[Block, ...]
    sites: tuple[Site, ...]
    direct: frozenset[int]
    covered: int
    trainable: int
    unseen: frozenset[nn.Module] = frozenset()

    @property
    def coverage(self) -> float:
        """Share of the model's trainable parameters that takes part."""
        return self.covered / self.trainable

    def describe(self) -> str:
        """Coverage in words, with how many parameters go example by example."""
        text = f"{self.covered:,} of {self.trainable:,} trainable parameters ({self.coverage:.1%})"
        slow = sum(self.blocks[k].size for k in self.direct)
        return f"{text}, {slow:,} of them example by example" if slow else text


def to_vectors(blocks: Sequence[Block], tensors: Mapping[str, Tensor]) -> Float[Tensor, "batch params"]:
    """Per-example (or per-query) tensors [batch, *shape] by parameter name as one vector each: the blocks, flattened
    row by row, one behind the other. It is the order of features without compression.
    """
    return torch.cat([block.assemble(tensors).flatten(1) for block in blocks], 1)


def to_parameters(
    blocks: Sequence[Block], vectors: Float[Tensor, "batch params"], shapes: Mapping[str, torch.Size]
) -> dict[str, Tensor]:
    """The inverse: [batch, *shape] by parameter name."""
    pieces: Sequence[Tensor] = torch.split(vectors, [block.size for block in blocks], 1)
    tensors: dict[str, Tensor] = {}
    for block, piece in zip(blocks, pieces, strict=True):
        tensors |= block.divide(piece.reshape(-1, block.rows, block.cols), shapes)
    return tensors


def lay_out(model: Model, without: Sequence[nn.Module] = (), unseen: Iterable[nn.Module] = ()) -> Layout:
    """Assign every chosen parameter of the model to a block, and every block to rules or to the slow path.

    `without`: modules whose rule turned out not to fit. Blocks and their order do not depend on it, so that features
    of the same model can always be compared.
    """
    chosen = {id(p): name for name, p in model.parameters.items()}
    owners = _owners(model.module, chosen)
    specs = [(module, rule, list(_specs(module, name, rule, chosen))) for module, name, rule in owners]
    blocks, home = _divide(model, [spec for _, _, known in specs for _, spec in known])
    # A block goes by rules if every module that holds one of its parameters applies exactly that block.
    direct: set[int] = set()
    sites: list[Site] = []
    for module, rule, known in specs:
        held = {home[chosen[id(p)]] for p in module.parameters(recurse=False) if id(p) in chosen}
        mine = {key: home[spec.parameters[0]] for key, spec in known}
        mine = {key: mine[key] for key, spec in known if spec.same(blocks[mine[key]]) and module not in without}
        direct |= held - set(mine.values())
        if rule is not None:
            sites.append(Site(module, rule, mine))
    sites = [s for site in sites for s in [site.less(direct)] if s.blocks]
    return Layout(
        blocks,
        tuple(sites),
        frozenset(direct),
        sum(p.numel() for p in model.parameters.values()),
        model.size,
        frozenset(unseen),
    )


def _owners(module: nn.Module, chosen: Mapping[int, str]) -> list[tuple[nn.Module, str, Rule | None]]:
    """Modules that hold a chosen parameter themselves, in order, each once, by its first name; with their rules."""
    named = cast(Iterable[tuple[str, nn.Module]], module.named_modules())
    return [
        (m, name, next((rule for rule in RULES if rule.fits(m)), None))
        for name, m in named
        if any(id(p) in chosen for p in m.parameters(recurse=False))
    ]


def _specs(module: nn.Module, name: str, rule: Rule | None, chosen: Mapping[int, str]) -> Iterator[tuple[str, Block]]:
    """The blocks that a module's rule would make, as far as all of their parameters are chosen."""
    for key, (rows, cols), parts in rule.blocks(module) if rule is not None else ():
        held = [id(p) for p in parts if p is not None]
        if rule is not None and all(p in chosen for p in held):
            parameters = tuple(chosen[p] for p in held)
            yield key, Block(f"{name}.{key}".strip("."), rows, cols, parameters, rule.transposed)


def _divide(model: Model, wanted: Sequence[Block]) -> tuple[tuple[Block, ...], dict[str, int]]:
    """The blocks, each parameter in one of them: the first that wants it, or one of its own; and where each is."""
    blocks: list[Block] = []
    home: dict[str, int] = {}
    own = [Block(name, *_as_matrix(p), (name,)) for name, p in model.parameters.items()]
    for block in [*wanted, *own]:
        if not any(parameter in home for parameter in block.parameters):
            home.update(dict.fromkeys(block.parameters, len(blocks)))
            blocks.append(block)
    return tuple(blocks), home


def _as_matrix(p: nn.Parameter) -> tuple[int, int]:
    """A vector as one column; any other shape with its last axis as columns."""
    return (p.numel(), 1) if p.ndim < 2 else (p.numel() // p.shape[-1], p.shape[-1])
