"""Faster CPU (float32) replacements for some layers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from maskrcnn.fast.winograd import WinogradConv2d, fits_winograd
from maskrcnn.network.boxes import LinearHead
from maskrcnn.network.fpn import TopDownAdd
from maskrcnn.network.mask_ablations import MLPHead
from maskrcnn.network.resnet import AddReLU

_CELLS = 1000  # that are doubled at once, for the same reason


def optimize_for_cpu(model: nn.Module) -> nn.Module:
    """Change `model`, for float32 on a CPU, in place: convolutions and sums take the faster forms; return it.

    Weights keep their names, and those that learn stay where they are.
    """
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.Conv2d) and fits_winograd(child):
                setattr(parent, name, WinogradConv2d(child))
            elif isinstance(child, nn.ConvTranspose2d) and _doubles(child):
                setattr(parent, name, ConvTranspose2x2(child))
            elif isinstance(child, AddReLU):
                setattr(parent, name, OnePassSum())
            elif isinstance(child, TopDownAdd):
                setattr(parent, name, QuarterMerge())
        if isinstance(parent, LinearHead | MLPHead):
            _read_in_place(parent)
    return model


def _doubles(conv: nn.ConvTranspose2d) -> bool:
    is_plain = conv.dilation == (1, 1) and conv.groups == 1 and conv.output_padding == (0, 0)
    return is_plain and conv.kernel_size == conv.stride == (2, 2) and conv.padding == (0, 0)


class OnePassSum(AddReLU):
    """Sum and ReLU in one pass over the maps."""

    def forward(
        self, branch: Float[Tensor, "B C H W"], shortcut: Float[Tensor, "B C H W"]
    ) -> Float[Tensor, "B C H W"]:
        """Return the ReLU of the sum, in the memory of `branch`."""
        if torch.compiler.is_compiling():
            return super().forward(branch, shortcut)
        return _OnePass.apply(branch, shortcut)


class _OnePass(torch.autograd.Function):
    """PyTorch's own fusion of sum and ReLU, which knows no gradient."""

    @staticmethod
    def forward(ctx: Any, branch: Tensor, shortcut: Tensor) -> Tensor:
        torch._add_relu_(branch, shortcut)
        ctx.mark_dirty(branch)
        ctx.save_for_backward(branch)
        return branch

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        (of_sum,), (answer,) = gradients, ctx.saved_tensors
        of_each = torch.ops.aten.threshold_backward(of_sum, answer, 0)
        return of_each, of_each


class QuarterMerge(TopDownAdd):
    """The sum without a map of the finer size in between: the coarser map is added to every second cell.

    A map that is not half as large, rounded up, is merged as everywhere.
    """

    def forward(
        self, finer: Float[Tensor, "B C H W"], coarser: Float[Tensor, "B C h w"]
    ) -> Float[Tensor, "B C H W"]:
        """Return the sum, in the memory of `finer`."""
        halves = tuple(-(-side // 2) for side in finer.shape[2:])
        if torch.compiler.is_compiling() or halves != coarser.shape[2:]:
            return super().forward(finer, coarser)
        return _Quarters.apply(finer, coarser)


class _Quarters(torch.autograd.Function):
    """The sum in place, and its gradients."""

    @staticmethod
    def forward(ctx: Any, finer: Tensor, coarser: Tensor) -> Tensor:
        for quarter, cover in _quarters(finer, coarser):
            quarter += cover
        ctx.mark_dirty(finer)
        ctx.shape = coarser.shape
        return finer

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        (of_sum,) = gradients
        of_coarser = torch.empty(ctx.shape, dtype=of_sum.dtype, memory_format=torch.channels_last).zero_()
        for quarter, cover in _quarters(of_sum, of_coarser):
            cover += quarter
        return of_sum, of_coarser


def _quarters(
    finer: Float[Tensor, "B C H W"], coarser: Float[Tensor, "B C h w"]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield every second cell of every second row, four times, and the cells of `coarser` that cover them."""
    for row in range(2):
        for column in range(2):
            quarter = finer[:, :, row::2, column::2]
            yield quarter, coarser[:, :, : quarter.shape[2], : quarter.shape[3]]


def _read_in_place(head: LinearHead | MLPHead) -> None:
    """Let the first layer of `head` read regions as they lie: to flatten them is to copy them."""
    hidden = head.get_submodule("hidden")
    assert isinstance(hidden, nn.Sequential)
    first = hidden[0]
    if isinstance(first, nn.Linear) and not first.weight.requires_grad:
        head.flatten, hidden[0] = nn.Identity(), ChannelsLastLinear(first, head.bins)


class ChannelsLastLinear(nn.Module):
    """What `linear` answers to flattened regions of `bins` × `bins` cells, without flattening them.

    Its weight is a copy, cell by cell as channels-last regions are, and does not learn.
    """

    def __init__(self, linear: nn.Linear, bins: int) -> None:
        super().__init__()
        weight = linear.weight.detach().unflatten(1, (-1, bins**2)).transpose(1, 2).contiguous()
        self.weight, self.bias = nn.Parameter(weight, requires_grad=False), linear.bias

    def forward(self, regions: Float[Tensor, "N C h w"]) -> Float[Tensor, "N O"]:
        """Return the layer's answer for each region."""
        return F.linear(regions.permute(0, 2, 3, 1).flatten(1), self.weight.flatten(1), self.bias)


class ConvTranspose2x2(nn.ConvTranspose2d):
    """What `conv` answers, a 2×2 deconvolution of stride 2; with its weights."""

    def __init__(self, conv: nn.ConvTranspose2d) -> None:
        with torch.device("meta"):  # nothing is drawn
            super().__init__(conv.in_channels, conv.out_channels, 2, 2, bias=False)
        self.weight, self.bias = conv.weight, conv.bias

    def forward(
        self, x: Float[Tensor, "B C h w"], output_size: list[int] | None = None
    ) -> Float[Tensor, "B O H W"]:
        """Return the deconvolution, channels-last."""
        assert output_size is None  # there is only one
        if torch.compiler.is_compiling():
            return super().forward(x)
        bias = self.weight.new_zeros(self.out_channels) if self.bias is None else self.bias
        return _Doubling.apply(x, self.weight, bias)


class _Doubling(torch.autograd.Function):
    """The deconvolution and its gradients: a cell, and its 2 × 2 answers, are rows of a product."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        pictures, _, height, width = x.shape
        shape = (pictures, weight.shape[1], 2 * height, 2 * width)
        answer = torch.empty(shape, dtype=x.dtype, memory_format=torch.channels_last)
        kernel, biases = _doubling_kernel(weight), bias.repeat(4)
        some = max(1, _CELLS // max(1, height * width))
        for cells, place in zip(_cells(x).split(some), _doubled(answer).split(some), strict=True):
            answers = torch.addmm(biases, cells.flatten(0, 2), kernel)
            place.copy_(answers.view(*cells.shape[:3], 2, 2, len(bias)).transpose(2, 3))
        return answer

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (of_answer,), (x, weight) = gradients, ctx.saved_tensors
        cells = _cells(x)
        of_answers = _doubled(of_answer).transpose(2, 3).reshape(-1, 4 * weight.shape[1])  # (cells, 4 O)
        of_x = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            of_x = (of_answers @ _doubling_kernel(weight).T).view(cells.shape).permute(0, 3, 1, 2)
        if ctx.needs_input_grad[1]:
            of_weight = (
                (cells.flatten(0, 2).T @ of_answers)
                .view(len(weight), 2, 2, weight.shape[1])
                .permute(0, 3, 1, 2)
            )
        if ctx.needs_input_grad[2]:
            of_bias = of_answers.view(-1, 4, weight.shape[1]).sum((0, 1))
        return of_x, of_weight, of_bias


def _doubling_kernel(weight: Float[Tensor, "C O 2 2"]) -> Float[Tensor, "C 4*O"]:
    return weight.permute(0, 2, 3, 1).flatten(1)


def _doubled(maps: Float[Tensor, "b C H W"]) -> Float[Tensor, "b h 2 w 2 C"]:
    """Return the four cells that each cell of a map of half the size became."""
    pictures, channels, height, width = maps.shape
    return _cells(maps).reshape(pictures, height // 2, 2, width // 2, 2, channels)


def _cells(maps: Float[Tensor, "b C h w"]) -> Float[Tensor, "b h w C"]:
    return maps.permute(0, 2, 3, 1)
