"""Reading feature maps at arbitrary places: one table of rows, a few weighted rows ("taps") for each answer.

All levels and pictures of a pyramid lie in one channels-last table, so that a level is an offset, a picture
is an offset, and every region operator is one table lookup without a loop. Its backward is deterministic.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


class Pyramid(NamedTuple):
    """Feature maps of a batch as rows of one table: level by level, picture by picture, row by row."""

    table: Float[Tensor, "rows C"]
    batch_size: int
    sizes_hw: tuple[tuple[int, int], ...]
    strides: tuple[int, ...]
    maps: tuple[Tensor, ...]  # the same, as they came


def first_levels(pyramid: Pyramid, levels: int) -> Pyramid:
    """Return the pyramid of the first `levels` levels; the table is the same."""
    table, batch_size, sizes_hw, strides, maps = pyramid
    return Pyramid(table, batch_size, sizes_hw[:levels], strides[:levels], maps[:levels])


def flatten_levels(features: Sequence[Float[Tensor, "B C _h _w"]], strides: Sequence[int]) -> Pyramid:
    """Return the table of `features`, whose cells are `strides` pixels apart. Channels-last is read once."""
    rows = [level.permute(0, 2, 3, 1).flatten(0, 2) for level in features]
    table = rows[0] if len(rows) == 1 else torch.cat(rows)
    sizes_hw = tuple((level.shape[2], level.shape[3]) for level in features)
    return Pyramid(table, features[0].shape[0], sizes_hw, tuple(strides), tuple(features))


class MapSlices(NamedTuple):
    """Where each of N regions is read: its map's first row in the table, its size, its stride in pixels."""

    base: Int[Tensor, " N"]
    height: Int[Tensor, " N"]
    width: Int[Tensor, " N"]
    stride: Int[Tensor, " N"]


def map_slices(pyramid: Pyramid, pictures: Int[Tensor, " N"], levels: Int[Tensor, " N"]) -> MapSlices:
    """Return where the maps of `pictures` at `levels` (0 is the first of the pyramid) lie."""
    first, offsets = 0, []
    for h, w in pyramid.sizes_hw:
        offsets.append(first)
        first = first + pyramid.batch_size * h * w
    height = _of_level(levels, [h for h, _ in pyramid.sizes_hw])
    width = _of_level(levels, [w for _, w in pyramid.sizes_hw])
    base = _of_level(levels, offsets) + pictures * height * width
    return MapSlices(base, height, width, _of_level(levels, pyramid.strides))


def _of_level(levels: Tensor, values: Sequence[int]) -> Tensor:
    # A chain of selections instead of a lookup: the values may be symbolic when a graph is exported.
    chosen = torch.full_like(levels, values[0])
    for level, value in enumerate(values[1:], start=1):
        chosen = torch.where(levels == level, value, chosen)
    return chosen


def gather_windows(
    pyramid: Pyramid, at: MapSlices, row: Int[Tensor, " N"], column: Int[Tensor, " N"], reach: int
) -> tuple[Float[Tensor, "N C k k"], Bool[Tensor, "N 1 k k"]]:
    """Return the cells up to `reach` around each of N cells, k = 2 · reach + 1, zeros outside its map.

    The second answer says which of them lie inside.
    """
    step = torch.arange(-reach, reach + 1, device=row.device)
    rows, columns = row[:, None] + step, column[:, None] + step
    is_row = (rows >= 0) & (rows < at.height[:, None])
    is_column = (columns >= 0) & (columns < at.width[:, None])
    inside = is_row[:, :, None] & is_column[:, None]
    index = at.base[:, None, None] + rows[:, :, None] * at.width[:, None, None] + columns[:, None]
    found = pyramid.table[torch.where(inside, index, 0)] * inside.unsqueeze(-1)
    return found.permute(0, 3, 1, 2), inside.unsqueeze(1)


class AxisTaps(NamedTuple):
    """Two neighbours on one axis for each sample, and their weights (0 for a sample outside the map)."""

    cell: Int[Tensor, "*samples 2"]
    weight: Float[Tensor, "*samples 2"]


def bilinear_taps(position: Float[Tensor, "*samples"], size: Int[Tensor, "*#samples"]) -> AxisTaps:
    """Return the taps of linear interpolation at `position`, in cells, where cell i has its value at i.

    A sample up to one cell outside the map takes the border's value; beyond that it is 0, as in RoIAlign.
    """
    inside = (position >= -1) & (position <= size)
    position = torch.minimum(position.clamp(min=0), (size - 1).to(position.dtype))
    low = position.floor()
    rest = position - low
    first = low.to(size.dtype)
    cell = torch.stack((first, torch.minimum(first + 1, size - 1)), -1)
    weight = torch.stack((1 - rest, rest), -1) * inside.unsqueeze(-1)
    return AxisTaps(cell, weight)
