"""Region features: RoIAlign on a feature pyramid (Mask R-CNN, section 3, "RoIAlign").

All maps of a batch lie in one channels-last table, so that a level is an offset, an image is an offset, and
RoIAlign is one weighted table lookup without a loop over levels or images. Its backward is deterministic.

A region operator takes the pyramid, N boxes in pixels of the network's input, the image and the level of
each, and the side of the output in bins. It returns ``(N, C, bins, bins)`` in channels-last memory,
differentiable in the features, not in the boxes. `maskrcnn.ops.roi_align_adaptive` has the operator that
takes a sample a cell, `maskrcnn.ops.roi_pool` those that round (Table 2c).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from maskrcnn import kernels
from maskrcnn.ops.boxes import area


class Pyramid(NamedTuple):
    """Feature maps of a batch as rows of one table: level by level, image by image, row by row."""

    table: Float[Tensor, "rows C"]
    batch_size: int
    sizes_hw: tuple[tuple[int, int], ...]
    strides: tuple[int, ...]
    maps: tuple[Tensor, ...]  # the maps themselves, for exporters


# A region operator: of (pyramid, boxes, images, levels, bins).
RegionOperator = Callable[[Pyramid, Tensor, Tensor, Tensor, int], Tensor]


def flatten_levels(features: Sequence[Float[Tensor, "B C _h _w"]], strides: Sequence[int]) -> Pyramid:
    """Return the table of `features`, whose cells are `strides` pixels apart."""
    rows = [level.permute(0, 2, 3, 1).flatten(0, 2) for level in features]
    table = rows[0] if len(rows) == 1 else torch.cat(rows)
    sizes_hw = tuple((level.shape[2], level.shape[3]) for level in features)
    return Pyramid(table, features[0].shape[0], sizes_hw, tuple(strides), tuple(features))


def first_levels(pyramid: Pyramid, levels: int) -> Pyramid:
    """Return the pyramid of the first `levels` levels; the table is the same."""
    table, batch_size, sizes_hw, strides, maps = pyramid
    return Pyramid(table, batch_size, sizes_hw[:levels], strides[:levels], maps[:levels])


class MapSlices(NamedTuple):
    """The map that each of N regions is read from: first row in the table, size, stride in pixels."""

    base: Int[Tensor, " N"]
    height: Int[Tensor, " N"]
    width: Int[Tensor, " N"]
    stride: Int[Tensor, " N"]


def map_slices(pyramid: Pyramid, images: Int[Tensor, " N"], levels: Int[Tensor, " N"]) -> MapSlices:
    """Return where the maps of `images` at `levels` (0 is the first of the pyramid) lie in the table."""
    first, offsets = 0, []
    for h, w in pyramid.sizes_hw:
        offsets.append(first)
        first = first + pyramid.batch_size * h * w
    height = _of_level(levels, [h for h, _ in pyramid.sizes_hw])
    width = _of_level(levels, [w for _, w in pyramid.sizes_hw])
    base = _of_level(levels, offsets) + images * height * width
    return MapSlices(base, height, width, _of_level(levels, pyramid.strides))


def _of_level(levels: Tensor, values: Sequence[int]) -> Tensor:
    # A chain of selections instead of a lookup: the values may be symbolic when a graph is exported.
    chosen = torch.full_like(levels, values[0])
    for level, value in enumerate(values[1:], start=1):
        chosen = torch.where(levels == level, value, chosen)
    return chosen


# --- which boxes are read, and from which level ---


class RoIPooler(NamedTuple):
    """Reads `bins` × `bins` features for each box from the level that its size assigns it to.

    `strides` are those of the levels that are read (powers of two), the first ones of the pyramid.
    """

    strides: tuple[int, ...]
    bins: int
    operator: RegionOperator

    def __call__(
        self, pyramid: Pyramid, boxes: Float[Tensor, "N 4"], images: Int[Tensor, " N"]
    ) -> Float[Tensor, "N C bins bins"]:
        """Return the features of N boxes of the given images."""
        first, last = (round(math.log2(stride)) for stride in (self.strides[0], self.strides[-1]))
        return self.operator(pyramid, boxes, images, assign_levels(boxes, first=first, last=last), self.bins)


def assign_levels(
    boxes: Float[Tensor, "*n 4"],
    *,
    first: int,
    last: int,
    canonical_level: int = 4,
    canonical_side: float = 224.0,
) -> Int[Tensor, "*n"]:
    """Return the pyramid level that each box is read from, 0 for P`first` (FPN, equation 1).

    A box of `canonical_side` px (√area) belongs to P`canonical_level`, one of half the side to a level finer.
    """
    side = area(boxes).clamp(min=0).sqrt()
    level = (canonical_level + torch.log2(side / canonical_side + 1e-8)).floor()
    return level.clamp(first, last).long() - first


def is_static(values: Tensor) -> bool:
    """Say whether shapes must not depend on data: in a compiled graph, and on a CUDA device.

    Counting there would wait for all queued work, which takes longer than computing on empty slots, and could
    not be captured into a CUDA graph.
    """
    return torch.compiler.is_compiling() or values.is_cuda


def valid_indices(valid: Bool[Tensor, "B n"], capacity: int | None = None) -> Int[Tensor, " N"]:
    """Return the flat indices ``image · n + slot`` of the valid slots, so that heads skip empty slots.

    Where shapes must not depend on data (`is_static`), returns all of the first `capacity` slots of each
    image (all slots where None); the valid ones must stand first.
    """
    if not is_static(valid):
        return valid.flatten().nonzero().flatten()
    images, slots = valid.shape
    first = torch.arange(images, device=valid.device)[:, None] * slots
    return (first + torch.arange(capacity or slots, device=valid.device)).flatten()


def scatter_to_slots(
    values: Shaped[Tensor, " N *rest"], index: Int[Tensor, " N"], shape: tuple[int, ...]
) -> Shaped[Tensor, "B n *rest"]:
    """Return `values` in their slots of (B, n) = `shape`, zeros elsewhere: the inverse of `valid_indices`."""
    if values.shape[0] == shape[0] * shape[1]:  # all slots, in order
        return values.unflatten(0, shape)
    slots = values.new_zeros(shape[0] * shape[1], *values.shape[1:])
    return slots.index_copy(0, index, values).unflatten(0, shape)


# --- RoIAlign ---


class Samples(NamedTuple):
    """T interpolated samples, each of four rows of the table, ordered by the bin that they belong to."""

    row: Int[Tensor, "T 4"]
    weight: Float[Tensor, "T 4"]
    first: Int[Tensor, " bags"]  # the first sample of each bin
    share: Float[Tensor, "#T 1"]  # 1 / the number of samples of the same bin


# How the samples of a bin become one row: of (table, samples).
Reduction = Callable[[Tensor, Samples], Tensor]


def mean(table: Float[Tensor, "rows C"], samples: Samples) -> Float[Tensor, "bags C"]:
    """Return the mean of each bin's samples: one table lookup."""
    weight = (samples.weight * samples.share).to(table.dtype)
    return F.embedding_bag(
        samples.row.flatten(), table, samples.first * 4, per_sample_weights=weight.flatten(), mode="sum"
    )


def roi_align(
    pyramid: Pyramid,
    boxes: Float[Tensor, "N 4"],
    images: Int[Tensor, " N"],
    levels: Int[Tensor, " N"],
    bins: int,
    *,
    sampling_ratio: int = 2,
    aligned: bool = True,
    reduction: Reduction = mean,
) -> Float[Tensor, "N C bins bins"]:
    """Return the mean (or another reduction) of bilinear samples of each bin; no coordinate is rounded.

    A bin has `sampling_ratio`² samples on a regular grid. `aligned` puts a cell's value at its centre,
    i + 0.5. The first published kernels put it at i, and widened boxes of less than one cell to one cell:
    ``aligned=False`` is for weights trained with them.
    """
    if reduction is mean and _has_kernel(pyramid):
        from maskrcnn.kernels import roi_align as kernel

        maps = [pyramid.batch_size]
        for (height, width), stride in zip(pyramid.sizes_hw, pyramid.strides, strict=True):
            maps += [height, width, stride]
        regions = (boxes.detach(), images, levels)
        return as_maps(kernel.roi_align(pyramid.table, *regions, maps, bins, sampling_ratio, aligned), bins)
    grid = region_grid(pyramid, boxes, images, levels, aligned=aligned)
    return as_maps(reduction(pyramid.table, _samples(grid, bins, sampling_ratio)), bins)


def _has_kernel(pyramid: Pyramid) -> bool:
    """Return whether the Triton kernel reads this pyramid. Its backward is not deterministic."""
    device, dtype = pyramid.table.device, pyramid.table.dtype
    fits = dtype in (torch.float32, torch.bfloat16, torch.float16) and len(pyramid.strides) <= 4
    if not fits or device.type not in kernels.DEVICES or torch.are_deterministic_algorithms_enabled():
        return False
    learns = torch.is_grad_enabled() and pyramid.table.requires_grad
    return kernels.trusted("roi_align", device, dtype, _plain, backward=learns)


def _plain(table: Tensor, boxes: Tensor, images: Tensor, levels: Tensor, maps: list[int], bins: int,
           ratio: int, aligned: bool) -> Tensor:  # fmt: skip
    """Return what the kernel returns for these arguments, by the plain operator."""
    sizes_hw = tuple(zip(maps[1::3], maps[2::3], strict=True))
    pyramid = Pyramid(table, maps[0], sizes_hw, tuple(maps[3::3]), ())
    return mean(table, _samples(region_grid(pyramid, boxes, images, levels, aligned=aligned), bins, ratio))


class RegionGrid(NamedTuple):
    """Regions in cells of their maps, where cell i has its value at i; all of (N, 2) are x, y."""

    origin: Float[Tensor, "N 2"]
    sides: Float[Tensor, "N 2"]
    base: Int[Tensor, " N"]  # the map's first row in the table
    limits: Int[Tensor, "N 2"]  # width, height of the map


def region_grid(
    pyramid: Pyramid,
    boxes: Float[Tensor, "N 4"],
    images: Int[Tensor, " N"],
    levels: Int[Tensor, " N"],
    *,
    aligned: bool,
) -> RegionGrid:
    """Return where N boxes lie in their maps; `aligned` as in `roi_align`."""
    at = map_slices(pyramid, images, levels)
    corners = boxes.detach() / at.stride[:, None]
    origin, sides = corners[:, :2], corners[:, 2:] - corners[:, :2]
    if aligned:
        origin = origin - 0.5
    else:
        sides = sides.clamp(min=1)
    return RegionGrid(origin, sides, at.base, torch.stack((at.width, at.height), 1))


def _samples(grid: RegionGrid, bins: int, ratio: int) -> Samples:
    """Return ratio × ratio samples a bin: taps are computed for each axis alone, then combined."""
    regions = grid.base.shape[0]
    fraction = (torch.arange(bins * ratio, device=grid.base.device) + 0.5) / (bins * ratio)
    x, y = (
        bilinear_taps(origin[:, None] + fraction * side[:, None], limit[:, None])
        for origin, side, limit in zip(grid.origin.T, grid.sides.T, grid.limits.T, strict=True)
    )
    row = grid.base[:, None, None] + y.cell * grid.limits[:, :1, None]
    of_y, of_x = (regions, bins, 1, ratio, 1, 2, 1), (regions, 1, bins, 1, ratio, 1, 2)
    index = (row.view(of_y) + x.cell.view(of_x)).view(-1, 4)
    weight = (y.weight.view(of_y) * x.weight.view(of_x)).view(-1, 4)
    first = torch.arange(regions * bins**2, device=grid.base.device) * ratio**2
    return Samples(index, weight, first, weight.new_full((1, 1), 1 / ratio**2))


class AxisTaps(NamedTuple):
    """The two neighbouring cells of each sample on one axis, and their weights: 0 for one off the map."""

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


def as_maps(rows: Float[Tensor, "bags C"], bins: int) -> Float[Tensor, "N C bins bins"]:
    """Return one row a bin as one map a region."""
    return rows.unflatten(0, (-1, bins, bins)).permute(0, 3, 1, 2)
