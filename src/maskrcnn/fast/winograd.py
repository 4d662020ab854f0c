"""3×3 convolutions by Winograd's algorithm F(4×4, 3×3), for inference on a CPU (Lavin and Gray 2016).

The map is cut into tiles of 4×4 outputs, each computed from 6×6 inputs. The inputs of a tile and the kernel
are transformed to 36 values each, multiplied elementwise, summed over the channels (36 matrix products for
all tiles), and the sums transformed to outputs: 36 multiplications instead of 144 for a pair of channels.
Whether that is faster depends on the processor, so `probe_winograd` measures both.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, NamedTuple, TypeGuard

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from maskrcnn.fast.layers import can_take_fast_path

_OUT, _KERNEL = 4, 3
_TILE = _OUT + _KERNEL - 1
# The interpolation points decide the rounding error: with these its standard deviation is a millionth of the
# outputs', half of what the usual 0, ±1, ±2 give.
_POINTS = (0.0, 0.5**0.5, -(0.5**0.5), 2**0.5, -(2**0.5))
_STRIP_TILES = 96  # tiles computed at once: their intermediate tensors fit into the caches
_MIN_CHANNELS = 128  # below, the transforms take longer than the multiplications they save
_MAX_RATIO = 0.9  # a measured ratio of the times above this one is taken for noise


class Transforms(NamedTuple):
    """The matrices of one axis: inputs to products, kernel to products, products to outputs."""

    input: Float[np.ndarray, "6 6"]
    kernel: Float[np.ndarray, "6 3"]
    output: Float[np.ndarray, "4 6"]


def transforms() -> Transforms:
    """Return the matrices of one axis, by Toom and Cook's construction.

    Polynomials are multiplied by way of their values at the points, the last of which is infinity. The
    matrices are those of the transposed algorithm (Lavin and Gray, section 4.1).
    """
    points = np.array(_POINTS)
    powers = points[:, None] ** np.arange(_TILE)
    of_input, of_kernel, of_output = (
        np.zeros(shape) for shape in ((_TILE, _TILE), (_TILE, _KERNEL), (_OUT, _TILE))
    )
    for i, point in enumerate(points):
        others = np.delete(points, i)
        of_input[i, :-1] = np.poly(others)[
            ::-1
        ]  # coefficients of the polynomial of these roots, constant first
        of_kernel[i] = powers[i, :_KERNEL] / (point - others).prod()
        of_output[:, i] = powers[i, :_OUT]
    of_input[-1] = np.poly(points)[::-1]
    of_kernel[-1, -1] = of_output[-1, -1] = 1
    return Transforms(of_input, of_kernel, of_output)


def _kron_square(matrix: Float[np.ndarray, "n m"]) -> Float[np.ndarray, "_ _"]:
    """Return kron(matrix, matrix): `matrix` applied to both axes of a flattened tile."""
    return np.kron(matrix, matrix)


# Built on import: a cache filled by the first call could hold its fake tensors or inference tensors.
_OF_INPUT, _OF_KERNEL, _OF_OUTPUT = (torch.from_numpy(_kron_square(matrix)) for matrix in transforms())
_KERNEL_INVERSE = torch.from_numpy(np.linalg.pinv(_OF_KERNEL.numpy()))


class WinogradConv2d(nn.Module):
    """A frozen 3×3 convolution of stride 1 and padding 1. Outputs equal those of `conv` up to rounding.

    The module holds the transformed kernel only, as its parameter `kernel`. It has no `weight` that could be
    changed without effect: to read or to set one raises AttributeError, and `load_state_dict` refuses the
    state of `conv`. Where `can_take_fast_path` is False the plain convolution is computed, its weight
    recovered from `kernel` with a relative error of 1e-7.
    """

    bias: Tensor | None

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.kernel = nn.Parameter(transform_kernel(conv.weight.detach()), requires_grad=False)
        self.register_parameter("bias", conv.bias)  # type: ignore[arg-type]

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B O H W"]:
        """Return the convolution of `x`, channels-last on the fast path."""
        if can_take_fast_path(x, self.kernel):
            return winograd_conv2d(x, self.kernel, self.bias)
        return F.conv2d(x, recover_weight(self.kernel), self.bias, padding=1)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "weight":
            raise AttributeError(
                "WinogradConv2d has no weight, only its transformed `kernel`: change the weight of the layer "
                "that it replaces, or assign transform_kernel(weight) to `kernel`"
            )
        super().__setattr__(name, value)

    def extra_repr(self) -> str:
        """Return the numbers of channels, for print."""
        return f"{self.kernel.shape[1]}, {self.kernel.shape[2]}"


def fits_winograd(conv: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Return whether `WinogradConv2d` can replace a layer, and has channels enough to gain by it.

    A subclass of `nn.Conv2d` may compute something else and is not replaced.
    """
    if type(conv) is not nn.Conv2d or conv.weight.dtype != torch.float32:
        return False
    is_plain = conv.stride == (1, 1) and conv.dilation == (1, 1) and conv.groups == 1
    is_same = (
        conv.kernel_size == (_KERNEL, _KERNEL) and conv.padding == (1, 1) and conv.padding_mode == "zeros"
    )
    return is_plain and is_same and min(conv.in_channels, conv.out_channels) >= _MIN_CHANNELS


class Probe(NamedTuple):
    """Milliseconds of one 3×3 convolution on this machine, the best of several runs."""

    plain_ms: float
    winograd_ms: float

    @property
    def pays(self) -> bool:
        """Whether Winograd's algorithm is faster by more than a tenth."""
        return self.winograd_ms < _MAX_RATIO * self.plain_ms


def probe_winograd() -> Probe:
    """Measure PyTorch's and Winograd's convolution of a map of 32 × 48 cells and 256 channels.

    It takes a tenth of a second, once in a process for each number of PyTorch's threads. Winograd's algorithm
    has more parallel steps, so it does not pay on cores that other processes keep busy.
    """
    return _probe(torch.get_num_threads())


@cache
def _probe(threads: int) -> Probe:
    options = {"dtype": torch.float32, "device": "cpu"}
    x, weight = (
        torch.full(shape, 0.01, **options).contiguous(memory_format=torch.channels_last)  # type: ignore[call-overload]
        for shape in ((1, 256, 32, 48), (256, 256, 3, 3))
    )
    bias = torch.zeros(256, **options)  # type: ignore[call-overload]
    with torch.inference_mode(), torch.autocast("cpu", enabled=False):
        kernel = transform_kernel(weight)
        runs = [
            (
                _milliseconds(lambda: F.conv2d(x, weight, bias, padding=1)),
                _milliseconds(lambda: winograd_conv2d(x, kernel, bias)),
            )
            for _ in range(4)
        ]
    return Probe(*(min(times) for times in zip(*runs[1:], strict=True)))


def _milliseconds(run: Callable[[], Tensor]) -> float:
    start = time.perf_counter()
    run()
    return 1000 * (time.perf_counter() - start)


def transform_kernel(weight: Float[Tensor, "O C 3 3"]) -> Float[Tensor, "36 C O"]:
    """Return the transformed kernel of a convolution."""
    flat = weight.permute(2, 3, 1, 0).reshape(_KERNEL**2, -1)
    return (
        (_OF_KERNEL.to(weight.device) @ flat.double()).to(weight.dtype).view(_TILE**2, *weight.shape[1::-1])
    )


def recover_weight(kernel: Float[Tensor, "36 C O"]) -> Float[Tensor, "O C 3 3"]:
    """Return the weight whose transformed kernel is `kernel`, or is closest to it."""
    return (
        (_KERNEL_INVERSE.to(kernel) @ kernel.flatten(1))
        .view(_KERNEL, _KERNEL, *kernel.shape[1:])
        .permute(3, 2, 0, 1)
    )


def winograd_conv2d(
    x: Float[Tensor, "B C H W"], kernel: Float[Tensor, "36 C O"], bias: Float[Tensor, " O"] | None
) -> Float[Tensor, "B O H W"]:
    """Return the 3×3 convolution of `x`, padded by 1, with a transformed kernel; channels-last."""
    of_input, of_output = _OF_INPUT.to(x), _OF_OUTPUT.to(x)
    batch_size, _, height, width = x.shape
    down, across = -(-height // _OUT), -(-width // _OUT)
    bias = kernel.new_zeros(kernel.shape[2]) if bias is None else bias
    output = x.new_empty((batch_size, height, width, kernel.shape[2]))
    for images, rows in _strips(batch_size, down, across):
        transformed = of_input @ _tiles(_padded_strip(x[images], rows, across))
        products = torch.bmm(transformed.transpose(0, 1), kernel)
        tiles = torch.matmul(of_output, products.transpose(0, 1))
        _write_tiles(output[images, rows.start * _OUT : rows.stop * _OUT], tiles, bias)
    return output.permute(0, 3, 1, 2)


def _strips(batch_size: int, down: int, across: int) -> Iterator[tuple[slice, slice]]:
    """Yield slices of the images and of their rows of tiles, about `_STRIP_TILES` tiles at a time."""
    images, rows = max(1, _STRIP_TILES // (down * across)), max(1, _STRIP_TILES // across)
    for start in range(0, batch_size, images):
        for first in range(0, down, rows):
            yield slice(start, min(start + images, batch_size)), slice(first, min(first + rows, down))


def _padded_strip(maps: Float[Tensor, "b C H W"], rows: slice, across: int) -> Float[Tensor, "b h w C"]:
    """Return the cells that rows of tiles read, with zeros around the map."""
    cells = maps.permute(0, 2, 3, 1)
    height, width = cells.shape[1:3]
    top, bottom = rows.start * _OUT - 1, rows.stop * _OUT + 1
    strip = cells.new_zeros(len(cells), bottom - top, across * _OUT + 2, cells.shape[3])
    inside = cells[:, max(top, 0) : min(bottom, height)]
    begin = max(-top, 0)
    strip[:, begin : begin + inside.shape[1], 1 : 1 + width] = inside
    return strip


def _tiles(strip: Float[Tensor, "b h w C"]) -> Float[Tensor, "tiles 36 C"]:
    """Cut a strip into overlapping tiles of 6×6 cells, four cells apart."""
    tiles = strip.unfold(1, _TILE, _OUT).unfold(2, _TILE, _OUT).permute(0, 1, 2, 4, 5, 3)
    return tiles.reshape(-1, _TILE**2, strip.shape[-1])


def _write_tiles(
    output: Float[Tensor, "b h w O"], tiles: Float[Tensor, "tiles 16 O"], bias: Float[Tensor, " O"]
) -> None:
    """Add `bias` to tiles of 4×4 cells and write them to `output`, cut at its lower and right border."""
    images, height, width, channels = output.shape
    down, across = -(-height // _OUT), -(-width // _OUT)
    maps = tiles.view(images, down, across, _OUT, _OUT, channels).transpose(2, 3)
    if (height, width) == (down * _OUT, across * _OUT):
        torch.add(maps, bias, out=output.view(maps.shape))
        return
    whole = torch.add(maps, bias, out=maps.new_empty(maps.shape))
    output.copy_(whole.flatten(3, 4).flatten(1, 2)[:, :height, :width])
