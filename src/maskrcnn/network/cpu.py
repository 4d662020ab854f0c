"""Layers in forms that are faster on a CPU, for detection in float32; they answer the same, up to rounding.

A 3×3 convolution takes a quarter of the multiplications by Winograd's way (Lavin and Gray, "Fast Algorithms
for Convolutional Neural Networks", CVPR 2016, F(4×4, 3×3)): a tile of 6 × 6 cells and the kernel are both led
to a space where the convolution is 36 products instead of 144, and the 4 × 4 answers are led back. Each of
the three steps is a matrix product. A 2×2 deconvolution is one matrix product, too.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

_OUT, _TAPS = 4, 3
_TILE = _OUT + _TAPS - 1
# The points decide the rounding error: with these it is a millionth of the answers' spread, half of what the
# usual 0, ±1, ±2 give.
_POINTS = (0.0, 0.5**0.5, -(0.5**0.5), 2**0.5, -(2**0.5))
_STRIP = 160  # tiles that are worked on at once: what they need fits into the caches
_LEAST_CHANNELS = 128  # below, the ways there and back take longer than what is saved


def quicken(model: nn.Module) -> nn.Module:
    """Change `model`, for float32 on a CPU, in place: its convolutions take the faster forms; return it."""
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.Conv2d) and _fits_winograd(child):
                setattr(parent, name, WinogradConv2d(child))
            elif isinstance(child, nn.ConvTranspose2d) and _doubles(child):
                setattr(parent, name, DoublingConv2d(child))
    return model


def _fits_winograd(conv: nn.Conv2d) -> bool:
    is_plain = conv.stride == (1, 1) and conv.dilation == (1, 1) and conv.groups == 1
    is_same = conv.kernel_size == (_TAPS, _TAPS) and conv.padding == (1, 1) and conv.padding_mode == "zeros"
    return is_plain and is_same and min(conv.in_channels, conv.out_channels) >= _LEAST_CHANNELS


def _doubles(conv: nn.ConvTranspose2d) -> bool:
    is_plain = conv.dilation == (1, 1) and conv.groups == 1 and conv.output_padding == (0, 0)
    return is_plain and conv.kernel_size == conv.stride == (2, 2) and conv.padding == (0, 0)


class DoublingConv2d(nn.Module):
    """What `conv` answers, a 2×2 deconvolution of stride 2."""

    kernel: Tensor
    bias: Tensor

    def __init__(self, conv: nn.ConvTranspose2d) -> None:
        super().__init__()
        weight = conv.weight.detach().permute(0, 2, 3, 1)  # (C, 2, 2, O)
        bias = weight.new_zeros(weight.shape[-1]) if conv.bias is None else conv.bias.detach()
        self.register_buffer("kernel", weight.flatten(1).contiguous())
        self.register_buffer("bias", bias.repeat(4))

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B O H W"]:
        """Return the deconvolution, channels-last."""
        pictures, channels, height, width = x.shape
        answer = x.new_empty(pictures, height, 2, width, 2, self.kernel.shape[1] // 4)
        at_once = max(1, 1000 // max(1, height * width))
        for start in range(0, pictures, at_once):
            cells = x[start : start + at_once].permute(0, 2, 3, 1).reshape(-1, channels)
            doubled = torch.addmm(self.bias, cells, self.kernel)
            place = answer[start : start + at_once]
            place.copy_(doubled.view(-1, height, width, 2, 2, place.shape[-1]).transpose(2, 3))
        return answer.flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)


class WinogradConv2d(nn.Module):
    """What `conv` answers, a 3×3 convolution of stride 1 padded by 1, up to rounding; it does not learn."""

    kernel: Tensor
    there: Tensor
    back: Tensor
    bias: Tensor

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        of_tile, of_kernel, of_answer = transforms()
        weight = conv.weight.detach().double()
        kernel = torch.einsum("ai,bj,ocij->abco", of_kernel, of_kernel, weight).flatten(0, 1)
        self.register_buffer("kernel", kernel.to(conv.weight.dtype).contiguous())
        self.register_buffer("there", torch.kron(of_tile, of_tile).to(conv.weight.dtype))
        self.register_buffer("back", torch.kron(of_answer, of_answer).to(conv.weight.dtype))
        bias = torch.zeros(conv.out_channels) if conv.bias is None else conv.bias.detach()
        self.register_buffer("bias", bias)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B O H W"]:
        """Return the convolution, channels-last."""
        pictures, _, height, width = x.shape
        down, across = -(-height // _OUT), -(-width // _OUT)
        cells = x.permute(0, 2, 3, 1)
        answer = x.new_empty(pictures, down, _OUT, across, _OUT, self.kernel.shape[2])
        at_once, rows = max(1, _STRIP // (down * across)), max(1, _STRIP // across)
        for some in (slice(start, start + at_once) for start in range(0, pictures, at_once)):
            for first in range(0, down, rows):
                last = min(first + rows, down)
                answer[some, first:last] = self._convolved(_strip(cells[some], first, last, across))
        whole = answer.flatten(3, 4).flatten(1, 2)[:, :height, :width]
        return whole.contiguous().permute(0, 3, 1, 2)

    def _convolved(self, strip: Float[Tensor, "b _h _w C"]) -> Float[Tensor, "b down 4 across 4 O"]:
        tiles = strip.unfold(1, _TILE, _OUT).unfold(2, _TILE, _OUT).permute(0, 1, 2, 4, 5, 3)
        led = torch.matmul(self.there, tiles.reshape(-1, _TILE**2, tiles.shape[-1]))
        products = torch.bmm(led.transpose(0, 1), self.kernel)
        answers = torch.matmul(self.back, products.transpose(0, 1)).add_(self.bias)
        return answers.view(*tiles.shape[:3], _OUT, _OUT, -1).transpose(2, 3)


def _strip(cells: Float[Tensor, "b H W C"], first: int, last: int, across: int) -> Float[Tensor, "b h w C"]:
    """Return the cells that rows `first` … `last` of tiles need, zeros around the map."""
    height, width = cells.shape[1:3]
    top, bottom = first * _OUT - 1, last * _OUT + 1
    strip = cells.new_zeros(len(cells), bottom - top, across * _OUT + 2, cells.shape[3])
    inside = cells[:, max(top, 0) : min(bottom, height)]
    begin = max(-top, 0)
    strip[:, begin : begin + inside.shape[1], 1 : 1 + width] = inside
    return strip


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
