"""Linear layers: `y = W x + b`, so `dl/dW = sum_t d_t x_t^T` and `dl/db = sum_t d_t`."""

from torch import Tensor, nn

from assay.gradients.rules.base import BlockSpec, Factored, matrix, optional, positions, with_bias


class Linear(Factored):
    """`torch.nn.Linear`, with the bias as a last column of the block. LoRA's A and B are such layers."""

    def fits(self, module: nn.Module) -> bool:
        """The class itself or a subclass that keeps its forward."""
        return isinstance(module, nn.Linear) and type(module).forward is nn.Linear.forward

    def blocks(self, module: nn.Module) -> list[BlockSpec]:
        """[out, in (+ 1)]."""
        return matrix(module)

    def shared(self, module: nn.Module) -> bool:
        """The input with or without a 1 behind it."""
        return optional(module, "bias") is not None

    def early(self, module: nn.Module, x: Tensor, batch: int) -> Tensor:
        """Inputs, with 1 appended for the bias."""
        return with_bias(positions(x, batch), optional(module, "bias"))

    def late(self, module: nn.Module, d: Tensor, batch: int) -> Tensor:
        """Gradients at the outputs."""
        return positions(d, batch)


class TransposedLinear(Linear):
    """The model library's `Conv1D` (GPT-2): a linear layer whose weight is stored [in, out]."""

    transposed = True

    def fits(self, module: nn.Module) -> bool:
        """By class name, so that the library need not be imported."""
        return type(module).__name__ == "Conv1D" and type(module).__module__ == "transformers.pytorch_utils"

    def blocks(self, module: nn.Module) -> list[BlockSpec]:
        """[out, in + 1], like any linear layer."""
        return matrix(module, transposed=True)
