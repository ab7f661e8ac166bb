"""Convolutions as linear layers over patches: `G = sum over output positions of d_t patch_t^T`."""

import math

import torch
from torch import Tensor, nn

from assay.gradients.rules.base import BlockSpec, Factored, NotByExample, Whole, matrix, optional, precise, with_bias

_Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d


def _convolution(module: nn.Module) -> _Convolution | None:
    """The module, if it is one of the classes themselves."""
    if isinstance(module, _Convolution) and type(module) in (nn.Conv1d, nn.Conv2d, nn.Conv3d):
        return module
    return None


def _patches(module: nn.Module, x: Tensor, batch: int) -> Tensor:
    """[batch, positions, channels * kernel] of inputs that each output position sees, channels outermost."""
    assert isinstance(module, _Convolution)
    dims = len(module.kernel_size)
    if x.ndim != dims + 2 or x.shape[0] != batch:
        raise NotByExample
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    padding: list[int] = vars(module)["_reversed_padding_repeated_twice"]
    x = torch.nn.functional.pad(x, padding, mode=mode)
    for axis, (kernel, stride, dilation) in enumerate(
        zip(module.kernel_size, module.stride, module.dilation, strict=True)
    ):
        # windows of the dilated extent, of which every dilation-th entry is taken; the new axis goes last
        x = x.unfold(axis + 2, dilation * (kernel - 1) + 1, stride)[..., ::dilation]
    channels = x.shape[1] * math.prod(module.kernel_size)
    return x.movedim(1, 1 + dims).reshape(batch, -1, channels)  # from [batch, *positions, channels, *kernel]


class Convolution(Factored):
    """`Conv1d`, `Conv2d`, `Conv3d` in one group, any stride, padding and dilation."""

    def fits(self, module: nn.Module) -> bool:
        """One group."""
        convolution = _convolution(module)
        return convolution is not None and convolution.groups == 1

    def blocks(self, module: nn.Module) -> list[BlockSpec]:
        """[out channels, in channels * kernel (+ 1)]."""
        return matrix(module)

    def early(self, module: nn.Module, x: Tensor, batch: int) -> Tensor:
        """Patches, with 1 appended for the bias."""
        return with_bias(_patches(module, x, batch), optional(module, "bias"))

    def late(self, module: nn.Module, d: Tensor, batch: int) -> Tensor:
        """Gradients at the outputs, positions before channels."""
        return d.flatten(2).transpose(1, 2)


class GroupedConvolution(Whole):
    """Convolutions in several groups (depthwise ones too): each group's rows see their own channels only."""

    def fits(self, module: nn.Module) -> bool:
        """More than one group."""
        convolution = _convolution(module)
        return convolution is not None and convolution.groups > 1

    def blocks(self, module: nn.Module) -> list[BlockSpec]:
        """[out channels, in channels / groups * kernel (+ 1)]."""
        return matrix(module)

    def early(self, module: nn.Module, x: Tensor, batch: int) -> Tensor:
        """Patches."""
        return _patches(module, x, batch)

    def gradients(self, module: nn.Module, kept: Tensor, d: Tensor, batch: int) -> dict[str, Tensor]:
        """Per group, then stacked by output channel."""
        assert isinstance(module, _Convolution)
        groups, out = module.groups, module.out_channels
        d = precise(d).flatten(2).reshape(batch, groups, out // groups, -1)
        patches = precise(kept).reshape(batch, kept.shape[1], groups, -1)
        weight = torch.einsum("bgot,btgk->bgok", d, patches).reshape(batch, out, -1)
        if module.bias is None:
            return {"": weight}
        return {"": torch.cat([weight, d.sum(-1).reshape(batch, out, 1)], -1)}
