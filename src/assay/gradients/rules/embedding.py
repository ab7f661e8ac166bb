"""Embeddings: row `v` of the weight collects the output gradients of the positions that hold token `v`."""

from typing import cast

from torch import Tensor, nn

from assay.gradients.rules.base import BlockSpec, Factored, NotByExample, OneHot, matrix


class Embedding(Factored):
    """`torch.nn.Embedding`: `G = sum_t onehot(token_t) d_t^T`, never expanded."""

    early_is_left = True
    broadcasts = True

    def fits(self, module: nn.Module) -> bool:
        """The class itself or the model library's with a constant `embed_scale`, without renormalisation and
        frequency scaling, which change the gradient.
        """
        known = type(module) is nn.Embedding or type(module).__name__.endswith("ScaledWordEmbedding")
        return known and isinstance(module, nn.Embedding) and module.max_norm is None and not module.scale_grad_by_freq

    def blocks(self, module: nn.Module) -> list[BlockSpec]:
        """[tokens, width]."""
        return matrix(module)

    def early(self, module: nn.Module, x: Tensor, batch: int) -> OneHot:
        """Tokens; the padding token's row gets no gradient, as in training."""
        assert isinstance(module, nn.Embedding)
        if x.shape[:1] != (batch,):
            raise NotByExample
        index = x.reshape(batch, -1)
        if module.padding_idx is not None:
            index = index.masked_fill(index == module.padding_idx, -1)
        return OneHot(index, module.num_embeddings)

    def late(self, module: nn.Module, d: Tensor, batch: int) -> Tensor:
        """Gradients at the rows of the weight, before any scaling."""
        scale = cast(float | Tensor, getattr(module, "embed_scale", 1.0))
        return (d * scale).reshape(batch, -1, d.shape[-1])
