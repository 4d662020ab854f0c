"""RoIAlign, forward and backward: a program computes a row of bins of one region, many channels at a time.

A level of the pyramid is a few integer arguments of the kernel, a region is its box, image and level: nothing
is precomputed, and no sample is stored. Sums are accumulated in float32.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

MAX_LEVELS = 4
# One kernel for images of all sizes: Triton would compile another one where a size is a multiple of 16.
_LEVEL = [f"{name}_{level}" for name in ("first", "height", "width", "stride") for level in range(MAX_LEVELS)]


@triton.jit
def _select(level, value_0, value_1, value_2, value_3):
    return tl.where(
        level == 0, value_0, tl.where(level == 1, value_1, tl.where(level == 2, value_2, value_3))
    )


@triton.jit
def _axis(low, high, stride, ALIGNED: tl.constexpr):
    """Return the start and the length of a region on one axis, in cells where cell i has its value at i."""
    low = tl.math.div_rn(low, stride)
    side = tl.math.div_rn(high, stride) - low
    if ALIGNED:
        low -= 0.5
    else:
        side = tl.maximum(side, 1.0)
    return low, side


@triton.jit
def _taps(position, size):
    """Return two neighbouring cells and their weights, as `maskrcnn.ops.roi_align.bilinear_taps` does."""
    limit = size.to(tl.float32)
    inside = (position >= -1) & (position <= limit)
    position = tl.minimum(tl.maximum(position, 0.0), limit - 1)
    low = tl.floor(position)
    rest = position - low
    cell = low.to(tl.int32)
    return cell, tl.minimum(cell + 1, size - 1), tl.where(inside, 1 - rest, 0.0), tl.where(inside, rest, 0.0)


@triton.jit
def _tap(cells, row, channels, weight, mask, values, BACKWARD: tl.constexpr):
    """Add weighted rows of the table to `values`; backward, add weighted `values` to those rows."""
    at = cells + row[:, None] * channels
    mask = mask & (weight > 0)[:, None]
    if BACKWARD:
        tl.atomic_add(at, weight[:, None] * values, mask=mask, sem="relaxed")
    else:
        values += weight[:, None] * tl.load(at, mask=mask, other=0).to(tl.float32)
    return values


@triton.jit(do_not_specialize=_LEVEL)
def _visit(
    table, boxes, pictures, levels, bags, channels,
    first_0, first_1, first_2, first_3, height_0, height_1, height_2, height_3,
    width_0, width_1, width_2, width_3, stride_0, stride_1, stride_2, stride_3,
    BINS: tl.constexpr, RATIO: tl.constexpr, ALIGNED: tl.constexpr, BACKWARD: tl.constexpr,
    COLUMNS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Forward, compute the bags (one row a bin) from the table; backward, add their gradients to its own."""
    region, bin_row = tl.program_id(0) // BINS, tl.program_id(0) % BINS
    level = tl.load(levels + region)
    height = _select(level, height_0, height_1, height_2, height_3)
    width = _select(level, width_0, width_1, width_2, width_3)
    stride = _select(level, stride_0, stride_1, stride_2, stride_3).to(tl.float32)
    base = _select(level, first_0, first_1, first_2, first_3) + tl.load(pictures + region) * height * width
    box = boxes + region * 4
    x, across = _axis(tl.load(box), tl.load(box + 2), stride, ALIGNED)
    y, down = _axis(tl.load(box + 1), tl.load(box + 3), stride, ALIGNED)

    column = tl.arange(0, COLUMNS)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    mask = (column < BINS)[:, None] & (channel < channels)[None, :]
    cells = table + channel[None, :]
    bag = bags + (tl.program_id(0).to(tl.int64) * BINS + column)[:, None] * channels + channel[None, :]
    values = tl.zeros((COLUMNS, CHANNELS), tl.float32)
    if BACKWARD:
        values += tl.load(bag, mask=mask, other=0).to(tl.float32) / (RATIO * RATIO)
    for i in tl.static_range(RATIO):
        step = (bin_row * RATIO + i + 0.5) / (BINS * RATIO)
        top, bottom, top_weight, bottom_weight = _taps(y + step * down, height)
        for j in tl.static_range(RATIO):
            steps = (column * RATIO + j + 0.5) / (BINS * RATIO)
            left, right, left_weight, right_weight = _taps(x + steps * across, width)
            upper, lower = base + top * width, base + bottom * width
            values = _tap(cells, upper + left, channels, top_weight * left_weight, mask, values, BACKWARD)
            values = _tap(cells, upper + right, channels, top_weight * right_weight, mask, values, BACKWARD)
            values = _tap(cells, lower + left, channels, bottom_weight * left_weight, mask, values, BACKWARD)
            values = _tap(
                cells, lower + right, channels, bottom_weight * right_weight, mask, values, BACKWARD
            )
    if not BACKWARD:
        tl.store(bag, (values / (RATIO * RATIO)).to(bags.dtype.element_ty), mask=mask)


@torch.library.custom_op("maskrcnn::roi_align", mutates_args=())
def roi_align(
    table: Tensor,
    boxes: Tensor,
    pictures: Tensor,
    levels: Tensor,
    maps: Sequence[int],
    bins: int,
    ratio: int,
    aligned: bool,
) -> Tensor:
    """Return the bins of N regions, (N · bins², C): `maskrcnn.ops.roi_align.roi_align` with its `mean`.

    `table` (rows, C) is a pyramid's, `maps` its batch size, then height, width and stride of each level, at
    most `MAX_LEVELS`; `boxes` (N, 4) are in pixels of the network's input. Differentiable once, in the table.
    The backward sums by atomic additions, in an order that changes from run to run, so that it is not
    deterministic to the bit.
    """
    bags = table.new_empty(len(boxes) * bins**2, table.shape[1])
    _launch(table.contiguous(), (boxes, pictures, levels), bags, maps, bins, ratio, aligned, backward=False)
    return bags


@torch.library.custom_op("maskrcnn::roi_align_backward", mutates_args=())
def _backward(
    gradient: Tensor,
    rows: int,
    boxes: Tensor,
    pictures: Tensor,
    levels: Tensor,
    maps: Sequence[int],
    bins: int,
    ratio: int,
    aligned: bool,
) -> Tensor:
    table = gradient.new_zeros(rows, gradient.shape[1], dtype=torch.float32)
    regions, bags = (boxes, pictures, levels), gradient.contiguous()
    _launch(table, regions, bags, maps, bins, ratio, aligned, backward=True)
    return table.to(gradient.dtype)


def _launch(
    table: Tensor,
    regions: tuple[Tensor, Tensor, Tensor],
    bags: Tensor,
    maps: Sequence[int],
    bins: int,
    ratio: int,
    aligned: bool,
    *,
    backward: bool,
) -> None:
    boxes, pictures, levels = regions
    if not bags.numel():
        return
    channels = table.shape[1]
    block = min(triton.next_power_of_2(channels), 128)
    grid = (len(boxes) * bins, triton.cdiv(channels, block))
    with torch.cuda.device_of(table):
        _visit[grid](
            table, boxes.float().contiguous(), pictures.contiguous(), levels.contiguous(), bags, channels,
            *_level_arguments(maps), BINS=bins, RATIO=ratio, ALIGNED=aligned, BACKWARD=backward,
            COLUMNS=triton.next_power_of_2(bins), CHANNELS=block, enable_fp_fusion=False,
        )  # fmt: skip


def _level_arguments(maps: Sequence[int]) -> list[int]:
    """Return the first rows in the table, heights, widths and strides, `MAX_LEVELS` of each."""
    batch_size, *numbers = maps
    heights, widths, strides = numbers[::3], numbers[1::3], numbers[2::3]
    assert len(heights) <= MAX_LEVELS, f"{len(heights)} levels, but the kernel supports {MAX_LEVELS}"
    firsts = [_rows([batch_size, *numbers[: 3 * level]]) for level in range(len(heights))]
    absent = [1] * (MAX_LEVELS - len(heights))
    return [value for column in (firsts, heights, widths, strides) for value in (*column, *absent)]


def _rows(maps: Sequence[int]) -> int:
    batch_size, *numbers = maps
    return batch_size * sum(h * w for h, w in zip(numbers[::3], numbers[1::3], strict=True))


@roi_align.register_fake
def _(table: Tensor, boxes: Tensor, pictures: Tensor, levels: Tensor, maps: Sequence[int], bins: int,
      ratio: int, aligned: bool) -> Tensor:  # fmt: skip
    return table.new_empty(boxes.shape[0] * bins**2, table.shape[1])


@_backward.register_fake
def _(gradient: Tensor, rows: int, boxes: Tensor, pictures: Tensor, levels: Tensor, maps: Sequence[int],
      bins: int, ratio: int, aligned: bool) -> Tensor:  # fmt: skip
    return gradient.new_empty(rows, gradient.shape[1])


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    table, boxes, pictures, levels, *ctx.rest = inputs
    ctx.rows = table.shape[0]
    ctx.save_for_backward(boxes, pictures, levels)


def _differentiate(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    return _backward(gradient, ctx.rows, *ctx.saved_tensors, *ctx.rest), *[None] * 7


roi_align.register_autograd(_differentiate, setup_context=_save)


def check(plain: Callable[..., Tensor], device: torch.device, dtype: torch.dtype) -> None:
    """Raise AssertionError where outputs differ from those of `plain`, a function of the same arguments."""
    table, *regions = _example(device, dtype)
    _assert_close(roi_align(table, *regions), plain(table.float(), *regions))


def check_backward(plain: Callable[..., Tensor], device: torch.device, dtype: torch.dtype) -> None:
    """Raise AssertionError where gradients differ from those of `plain`, a function of the same arguments."""
    table, *regions = _example(device, dtype)
    gradients = []
    for function, leaf in (
        (roi_align, table.requires_grad_()),
        (plain, table.detach().float().requires_grad_()),
    ):
        bags = function(leaf, *regions)
        slopes = torch.linspace(-1, 1, bags.numel(), device=device).to(dtype).view(bags.shape)
        gradients += torch.autograd.grad(bags, leaf, slopes.to(bags.dtype))
    _assert_close(*gradients)


def _assert_close(got: Tensor, expected: Tensor) -> None:
    tolerance = max(1e-4, 4 * torch.finfo(got.dtype).eps)
    torch.testing.assert_close(got.float(), expected, atol=tolerance, rtol=tolerance)


def _example(device: torch.device, dtype: torch.dtype) -> tuple[Any, ...]:
    """Return arguments of `roi_align` for which Triton compiles the kernel of a usual box branch."""
    maps, channels, bins = [2, 12, 16, 8, 6, 8, 16], 128, 7
    cells = torch.arange(_rows(maps) * channels, dtype=torch.float64)
    table = (cells * 0.7).sin().view(-1, channels)
    boxes = torch.tensor(
        [
            [10.0, 12.0, 60.0, 90.0],
            [-30.0, -20.0, 40.0, 33.0],  # crosses the border
            [50.0, 50.0, 50.0, 50.0],  # a point
            [60.0, 70.0, 20.0, 30.0],  # inverted
            [300.0, 300.0, 340.0, 360.0],  # outside
            [33.3, 7.7, 35.1, 8.2],  # less than a cell
        ]
    )
    level = torch.arange(len(boxes)) % 2
    tensors = (table.to(dtype), boxes, 1 - level, level)
    return *(tensor.to(device) for tensor in tensors), maps, bins, 2, True
