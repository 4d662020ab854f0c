"""Layers for inference on a CPU: the same values as the plain ones, up to rounding, in less time."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from maskrcnn.network.backbone import AddReLU, TopDownAdd

_CHUNK_CELLS = 1000  # cells deconvolved at once: their intermediate tensors fit into the caches


def can_take_fast_path(*tensors: Tensor) -> bool:
    """Return whether inputs and weights are float32 on a CPU, with no autocast, gradient or compiler at work.

    Elsewhere a layer of this package computes as PyTorch's own does, differentiably and in any precision.
    """
    if torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu"):
        return False
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        return False
    return all(tensor.dtype == torch.float32 and tensor.device.type == "cpu" for tensor in tensors)


class FusedAddReLU(AddReLU):
    """Sum and ReLU in one pass over the maps, by an operator of PyTorch that has no gradient."""

    def forward(
        self, branch: Float[Tensor, "B C H W"], shortcut: Float[Tensor, "B C H W"]
    ) -> Float[Tensor, "B C H W"]:
        """Return the ReLU of the sum, in the memory of `branch`."""
        if not can_take_fast_path(branch, shortcut):
            return super().forward(branch, shortcut)
        return torch._add_relu_(branch, shortcut)


class StridedTopDownAdd(TopDownAdd):
    """The sum without an upsampled copy: the coarser map is added to every second cell, four times.

    A coarser map of another size than half the finer one's, rounded up, is interpolated as by `TopDownAdd`.
    """

    def forward(
        self, finer: Float[Tensor, "B C H W"], coarser: Float[Tensor, "B C h w"]
    ) -> Float[Tensor, "B C H W"]:
        """Return the sum, in the memory of `finer`."""
        half = tuple(-(-side // 2) for side in finer.shape[2:])
        if half != coarser.shape[2:] or not can_take_fast_path(finer, coarser):
            return super().forward(finer, coarser)
        for row in range(2):
            for column in range(2):
                cells = finer[:, :, row::2, column::2]
                cells += coarser[:, :, : cells.shape[2], : cells.shape[3]]
        return finer


class ChannelsLastLinear(nn.Module):
    """The linear layer `linear` of flattened regions of `bins` × `bins` cells, without flattening them.

    Its frozen weight (O, bins², C) is that of `linear`, reordered as channels-last regions are.
    """

    def __init__(self, linear: nn.Linear, bins: int) -> None:
        super().__init__()
        weight = linear.weight.detach().unflatten(1, (-1, bins**2)).transpose(1, 2).contiguous()
        self.weight, self.bias = nn.Parameter(weight, requires_grad=False), linear.bias

    def forward(self, regions: Float[Tensor, "N C h w"]) -> Float[Tensor, "N O"]:
        """Return the output of each region."""
        return F.linear(regions.permute(0, 2, 3, 1).flatten(1), self.weight.flatten(1), self.bias)


class ConvTranspose2x2(nn.ConvTranspose2d):
    """A 2×2 transposed convolution of stride 2 as a matrix product: each cell becomes 2×2 outputs.

    It shares the parameters of `conv`.
    """

    def __init__(self, conv: nn.ConvTranspose2d) -> None:
        with torch.device("meta"):  # no weight is initialised
            super().__init__(conv.in_channels, conv.out_channels, 2, 2, bias=False)
        self.weight, self.bias = conv.weight, conv.bias

    def forward(
        self, x: Float[Tensor, "B C h w"], output_size: list[int] | None = None
    ) -> Float[Tensor, "B O H W"]:
        """Return the transposed convolution of `x`, channels-last on the fast path."""
        if output_size is not None or not can_take_fast_path(x, self.weight):
            return super().forward(x, output_size)
        return _conv_transpose_2x2(x, self.weight, self.bias)


def _conv_transpose_2x2(
    x: Float[Tensor, "B C h w"], weight: Float[Tensor, "C O 2 2"], bias: Float[Tensor, " O"] | None
) -> Float[Tensor, "B O 2*h 2*w"]:
    batch_size, _, height, width = x.shape
    channels = weight.shape[1]
    bias = weight.new_zeros(channels) if bias is None else bias
    kernel, biases = weight.permute(0, 2, 3, 1).flatten(1), bias.repeat(4)  # (C, 4 O), (4 O)
    cells = x.permute(0, 2, 3, 1)
    output = x.new_empty((batch_size, height, 2, width, 2, channels))
    images = max(1, _CHUNK_CELLS // max(1, height * width))
    for chunk, target in zip(cells.split(images), output.split(images), strict=True):
        products = torch.addmm(biases, chunk.flatten(0, 2), kernel)
        target.copy_(products.view(*chunk.shape[:3], 2, 2, channels).transpose(2, 3))
    return output.flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)
