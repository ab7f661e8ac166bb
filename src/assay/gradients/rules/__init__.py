"""One rule per type of layer; any other layer's parameters are taken example by example."""

from assay.gradients.rules.base import Factored, NotByExample, OneHot, Rule, Side, Whole
from assay.gradients.rules.convolution import Convolution, GroupedConvolution
from assay.gradients.rules.embedding import Embedding
from assay.gradients.rules.linear import Linear, TransposedLinear
from assay.gradients.rules.norm import Norm

RULES: tuple[Rule, ...] = (Linear(), TransposedLinear(), Embedding(), Convolution(), GroupedConvolution(), Norm())

__all__ = ["RULES", "Factored", "NotByExample", "OneHot", "Rule", "Side", "Whole"]
