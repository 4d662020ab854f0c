"""Layers in forms that are faster on a CPU in float32; they answer and learn the same, up to rounding.

A 3×3 convolution takes a quarter of the multiplications by Winograd's way (Lavin and Gray, "Fast Algorithms
for Convolutional Neural Networks", CVPR 2016, F(4×4, 3×3)): a tile of 6 × 6 cells and the kernel are both led
to a space where the convolution is 36 products instead of 144, and the 4 × 4 answers are led back. Each of
the three steps is a matrix product. A 2×2 deconvolution is one matrix product, too. Sums of maps are taken in
as few passes over the memory as can be.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from maskrcnn.network.boxes import LinearHead
from maskrcnn.network.fpn import Merge
from maskrcnn.network.masks import MLPHead
from maskrcnn.network.resnet import ResidualSum

_OUT, _TAPS = 4, 3
_TILE = _OUT + _TAPS - 1
# The points decide the rounding error: with these it is a millionth of the answers' spread, half of what the
# usual 0, ±1, ±2 give.
_POINTS = (0.0, 0.5**0.5, -(0.5**0.5), 2**0.5, -(2**0.5))
_STRIP = 96  # tiles that are worked on at once: what they need fits into the caches
_LEAST_TILES = (
    100  # for fewer, a kernel that learns is not worth leading to the space of products, three times
)
_CELLS = 1000  # that are doubled at once, for the same reason
_LEAST_CHANNELS = 128  # below, the ways there and back take longer than what is saved


def quicken(model: nn.Module) -> nn.Module:
    """Change `model`, for float32 on a CPU, in place: convolutions and sums take the faster forms; return it.

    Weights keep their names, and those that learn stay where they are.
    """
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.Conv2d) and _fits_winograd(child):
                setattr(parent, name, WinogradConv2d(child))
            elif isinstance(child, nn.ConvTranspose2d) and _doubles(child):
                setattr(parent, name, DoublingConv2d(child))
            elif isinstance(child, ResidualSum):
                setattr(parent, name, OnePassSum())
            elif isinstance(child, Merge):
                setattr(parent, name, QuarterMerge())
        if isinstance(parent, LinearHead | MLPHead):
            _read_in_place(parent)
    return model


def _fits_winograd(conv: nn.Conv2d) -> bool:
    is_plain = conv.stride == (1, 1) and conv.dilation == (1, 1) and conv.groups == 1
    is_same = conv.kernel_size == (_TAPS, _TAPS) and conv.padding == (1, 1) and conv.padding_mode == "zeros"
    return is_plain and is_same and min(conv.in_channels, conv.out_channels) >= _LEAST_CHANNELS


def _doubles(conv: nn.ConvTranspose2d) -> bool:
    is_plain = conv.dilation == (1, 1) and conv.groups == 1 and conv.output_padding == (0, 0)
    return is_plain and conv.kernel_size == conv.stride == (2, 2) and conv.padding == (0, 0)


class OnePassSum(ResidualSum):
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


class QuarterMerge(Merge):
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
        head.flatten, hidden[0] = nn.Identity(), RegionLinear(first, head.bins)


class RegionLinear(nn.Module):
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


class DoublingConv2d(nn.ConvTranspose2d):
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


def _cells(maps: Float[Tensor, "b C h w"]) -> Float[Tensor, "b h w C"]:
    return maps.permute(0, 2, 3, 1)


def _doubled(maps: Float[Tensor, "b C H W"]) -> Float[Tensor, "b h 2 w 2 C"]:
    """Return the four cells that each cell of a map of half the size became."""
    pictures, channels, height, width = maps.shape
    return _cells(maps).reshape(pictures, height // 2, 2, width // 2, 2, channels)


class WinogradConv2d(nn.Conv2d):
    """What `conv` answers, a 3×3 convolution of stride 1 padded by 1, up to rounding; with its weights."""

    def __init__(self, conv: nn.Conv2d) -> None:
        with torch.device("meta"):  # nothing is drawn
            super().__init__(conv.in_channels, conv.out_channels, _TAPS, padding=1, bias=False)
        self.weight, self.bias = conv.weight, conv.bias
        self._led: tuple[tuple[int, int], Tensor] | None = None

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B O H W"]:
        """Return the convolution, channels-last."""
        tiles = len(x) * -(-x.shape[2] // _OUT) * -(-x.shape[3] // _OUT)
        if torch.compiler.is_compiling() or (self.weight.requires_grad and tiles < _LEAST_TILES):
            return super().forward(x)
        bias = self.weight.new_zeros(self.out_channels) if self.bias is None else self.bias
        return _Winograd.apply(x, self.weight, bias, self._kernel())

    def _kernel(self) -> Float[Tensor, "36 C O"]:
        """Return the kernel in the space of products; that of weights which do not learn is kept."""
        weight = self.weight.detach()
        if self.weight.requires_grad:  # a fused optimiser changes them without a trace
            return lead_kernel(weight)
        state = weight.data_ptr(), -1 if weight.is_inference() else weight._version
        if self._led is None or self._led[0] != state:
            self._led = state, lead_kernel(weight)
        return self._led[1]


class _Winograd(torch.autograd.Function):
    """The convolution and its gradients, all three by way of products of tiles."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, kernel: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _convolved(x, kernel, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (of_answer,), (x, weight) = gradients, ctx.saved_tensors
        of_x = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:  # the convolution with the kernel turned round
            turned = lead_kernel(weight.flip(2, 3).transpose(0, 1))
            of_x = _convolved(of_answer, turned, weight.new_zeros(len(turned[0, 0])))
        if ctx.needs_input_grad[1]:
            of_weight = _weight_gradient(x, of_answer)
        if ctx.needs_input_grad[2]:
            of_bias = of_answer.sum((0, 2, 3))
        return of_x, of_weight, of_bias, None


def lead_kernel(weight: Float[Tensor, "O C 3 3"]) -> Float[Tensor, "36 C O"]:
    """Return a kernel in the space of products."""
    there = _twice(transforms()[1]).to(weight)
    return (there @ weight.permute(2, 3, 1, 0).reshape(_TAPS**2, -1)).view(_TILE**2, *weight.shape[1::-1])


def _convolved(
    x: Float[Tensor, "B C H W"], kernel: Float[Tensor, "36 C O"], bias: Float[Tensor, " O"]
) -> Float[Tensor, "B O H W"]:
    of_tile, _, of_answer = (_twice(matrix).to(x) for matrix in transforms())
    pictures, _, height, width = x.shape
    down, across = -(-height // _OUT), -(-width // _OUT)
    shape = (pictures, kernel.shape[2], height, width)
    answer = torch.empty(shape, dtype=x.dtype, memory_format=torch.channels_last)
    for some, rows in _strips(pictures, down, across):
        led = of_tile @ _tiles(_strip(x[some], rows, across), _TILE)
        products = torch.bmm(led.transpose(0, 1), kernel)
        answers = torch.matmul(of_answer, products.transpose(0, 1))
        place = _cells(answer)[some, rows.start * _OUT : rows.stop * _OUT]
        tiles = len(place), -(-place.shape[1] // _OUT), across
        maps = answers.view(*tiles, _OUT, _OUT, -1).transpose(2, 3)
        if place.shape[1:3] == (maps.shape[1] * _OUT, across * _OUT):
            torch.add(maps, bias, out=place.view(maps.shape))
        else:
            whole = torch.add(maps, bias, out=torch.empty(maps.shape, dtype=x.dtype))
            place.copy_(whole.flatten(3, 4).flatten(1, 2)[:, : place.shape[1], :width])
    return answer


def _weight_gradient(
    x: Float[Tensor, "B C H W"], of_answer: Float[Tensor, "B O H W"]
) -> Float[Tensor, "O C 3 3"]:
    of_tile, of_kernel, back = (_twice(matrix).to(x) for matrix in transforms())
    pictures, channels, height, width = x.shape
    down, across = -(-height // _OUT), -(-width // _OUT)
    found = x.new_zeros(_TILE**2, channels, of_answer.shape[1])
    for some, rows in _strips(pictures, down, across):
        led = of_tile @ _tiles(_strip(x[some], rows, across), _TILE)
        answers = back.T @ _tiles(_strip(of_answer[some], rows, across)[:, 1:-1, 1:-1], _OUT)
        found.baddbmm_(led.permute(1, 2, 0), answers.transpose(0, 1))
    taps = (of_kernel.T @ found.flatten(1)).view(_TAPS, _TAPS, channels, -1)
    return taps.permute(3, 2, 0, 1)


def _strips(pictures: int, down: int, across: int) -> Iterator[tuple[slice, slice]]:
    """Yield some pictures, and some rows of their tiles, until all have been there."""
    at_once, rows = max(1, _STRIP // (down * across)), max(1, _STRIP // across)
    for start in range(0, pictures, at_once):
        for first in range(0, down, rows):
            yield slice(start, min(start + at_once, pictures)), slice(first, min(first + rows, down))


def _strip(maps: Float[Tensor, "b C H W"], rows: slice, across: int) -> Float[Tensor, "b h w C"]:
    """Return the cells that rows of tiles need, zeros around the map."""
    cells = _cells(maps)
    height, width = cells.shape[1:3]
    top, bottom = rows.start * _OUT - 1, rows.stop * _OUT + 1
    strip = cells.new_zeros(len(cells), bottom - top, across * _OUT + 2, cells.shape[3])
    inside = cells[:, max(top, 0) : min(bottom, height)]
    begin = max(-top, 0)
    strip[:, begin : begin + inside.shape[1], 1 : 1 + width] = inside
    return strip


def _tiles(strip: Float[Tensor, "b h w C"], side: int) -> Float[Tensor, "tiles cells C"]:
    """Cut a strip into tiles of side × side cells, four cells apart."""
    tiles = strip.unfold(1, side, _OUT).unfold(2, side, _OUT).permute(0, 1, 2, 4, 5, 3)
    return tiles.reshape(-1, side**2, strip.shape[-1])


def _twice(matrix: Tensor) -> Tensor:
    """Return what does to rows and columns of a flat square what `matrix` does to a line."""
    return torch.kron(matrix, matrix)


@cache
def transforms() -> tuple[Float[Tensor, "6 6"], Float[Tensor, "6 3"], Float[Tensor, "4 6"]]:
    """Return what leads tiles and kernels to the space of products, and answers back, in float64.

    Toom and Cook: polynomials are multiplied by their values at the points, the last of which is infinity;
    the matrices are the transposed algorithm (Lavin and Gray, section 4.1).
    """
    points = torch.tensor(_POINTS, dtype=torch.float64)
    powers = points[:, None] ** torch.arange(_TILE)
    of_tile, of_kernel, of_answer = (torch.zeros(size, dtype=torch.float64) for size in _SIZES)
    for i, point in enumerate(points):
        others = torch.cat((points[:i], points[i + 1 :]))
        of_tile[i, : _TILE - 1] = _coefficients(others)
        of_kernel[i] = powers[i, :_TAPS] / (point - others).prod()
        of_answer[:, i] = powers[i, :_OUT]
    of_tile[-1] = _coefficients(points)
    of_kernel[-1, -1] = of_answer[-1, -1] = 1
    return of_tile, of_kernel, of_answer


_SIZES = ((_TILE, _TILE), (_TILE, _TAPS), (_OUT, _TILE))


def _coefficients(roots: Float[Tensor, " n"]) -> Float[Tensor, " n+1"]:
    """Return the coefficients of the polynomial with these roots, the constant first."""
    found = torch.ones(1, dtype=roots.dtype)
    for root in roots:
        found = torch.cat((found.new_zeros(1), found)) - root * torch.cat((found, found.new_zeros(1)))
    return found
