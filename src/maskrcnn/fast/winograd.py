"""3×3 convolutions by Winograd's algorithm."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

_OUT, _TAPS = 4, 3


_TILE = _OUT + _TAPS - 1


# The points decide the rounding error: with these it is a millionth of the answers' spread, half of what the
# usual 0, ±1, ±2 give.
_POINTS = (0.0, 0.5**0.5, -(0.5**0.5), 2**0.5, -(2**0.5))


_STRIP = 96  # tiles that are worked on at once: what they need fits into the caches


_LEAST_TILES = (
    100  # for fewer, a kernel that learns is not worth leading to the space of products, three times
)


_LEAST_CHANNELS = 128  # below, the ways there and back take longer than what is saved


def fits_winograd(conv: nn.Conv2d) -> bool:
    """Say whether `WinogradConv2d` can replace a convolution."""
    is_plain = conv.stride == (1, 1) and conv.dilation == (1, 1) and conv.groups == 1
    is_same = conv.kernel_size == (_TAPS, _TAPS) and conv.padding == (1, 1) and conv.padding_mode == "zeros"
    return is_plain and is_same and min(conv.in_channels, conv.out_channels) >= _LEAST_CHANNELS


def _cells(maps: Float[Tensor, "b C h w"]) -> Float[Tensor, "b h w C"]:
    return maps.permute(0, 2, 3, 1)


class WinogradConv2d(nn.Conv2d):
    """What `conv` answers, a 3×3 convolution of stride 1 padded by 1, up to rounding; with its weights."""

    def __init__(self, conv: nn.Conv2d) -> None:
        with torch.device("meta"):  # nothing is drawn
            super().__init__(conv.in_channels, conv.out_channels, _TAPS, padding=1, bias=False)
        self.weight, self.bias = conv.weight, conv.bias
        self._transformed: tuple[tuple[int, int], Tensor] | None = None

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
            return transform_kernel(weight)
        state = weight.data_ptr(), -1 if weight.is_inference() else weight._version
        if self._transformed is None or self._transformed[0] != state:
            self._transformed = state, transform_kernel(weight)
        return self._transformed[1]


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
            turned = transform_kernel(weight.flip(2, 3).transpose(0, 1))
            of_x = _convolved(of_answer, turned, weight.new_zeros(len(turned[0, 0])))
        if ctx.needs_input_grad[1]:
            of_weight = _weight_gradient(x, of_answer)
        if ctx.needs_input_grad[2]:
            of_bias = of_answer.sum((0, 2, 3))
        return of_x, of_weight, of_bias, None


def transform_kernel(weight: Float[Tensor, "O C 3 3"]) -> Float[Tensor, "36 C O"]:
    """Return a kernel in the space of products."""
    there = _kron_square(transforms()[1]).to(weight)
    return (there @ weight.permute(2, 3, 1, 0).reshape(_TAPS**2, -1)).view(_TILE**2, *weight.shape[1::-1])


def _convolved(
    x: Float[Tensor, "B C H W"], kernel: Float[Tensor, "36 C O"], bias: Float[Tensor, " O"]
) -> Float[Tensor, "B O H W"]:
    of_tile, _, of_answer = (_kron_square(matrix).to(x) for matrix in transforms())
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
    of_tile, of_kernel, back = (_kron_square(matrix).to(x) for matrix in transforms())
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


def _kron_square(matrix: Tensor) -> Tensor:
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
