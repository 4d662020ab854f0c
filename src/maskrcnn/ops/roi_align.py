"""Region operators: a fixed number of features out of each region, whatever its size (section 3, "RoIAlign").

Each takes the pyramid, N regions as boxes in pixels of the network's input, the picture and the level of
each, and the side of the output in bins; each returns ``(N, C, bins, bins)`` in channels-last memory. They
differ as in the paper's Table 2c: `roi_align` samples where the box truly lies, `roi_warp` first rounds the
box to the map's cells, `roi_pool` rounds the box and each of its bins. All are differentiable in the
features, none in the boxes.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from maskrcnn import kernels
from maskrcnn.ops import boxes as box_ops
from maskrcnn.ops.pyramid import Pyramid, bilinear_taps, map_slices

# What a branch reads its regions with: one of the operators below, or a partial of one.
RegionOperator = Callable[[Pyramid, Tensor, Tensor, Tensor, int], Tensor]


class Samples(NamedTuple):
    """T interpolated samples, each of four taps in the table, ordered by the bin that they belong to."""

    row: Int[Tensor, "T 4"]
    weight: Float[Tensor, "T 4"]
    first: Int[Tensor, " bags"]  # the first sample of each bin
    share: Float[Tensor, "#T 1"]  # 1 / the number of samples of the same bin


# How the samples of a bin become one row: `mean` or `maximum` of (table, samples).
Reduction = Callable[[Tensor, Samples], Tensor]


def mean(table: Float[Tensor, "rows C"], samples: Samples) -> Float[Tensor, "bags C"]:
    """Return the mean of each bin's samples: one table lookup."""
    weight = (samples.weight * samples.share).to(table.dtype)
    return F.embedding_bag(
        samples.row.flatten(), table, samples.first * 4, per_sample_weights=weight.flatten(), mode="sum"
    )


def maximum(table: Float[Tensor, "rows C"], samples: Samples) -> Float[Tensor, "bags C"]:
    """Return the maximum of each bin's samples, 0 for a bin without samples."""
    weight = samples.weight.to(table.dtype)
    values = F.embedding_bag(samples.row, table, per_sample_weights=weight, mode="sum")
    return F.embedding_bag(torch.arange(len(values), device=table.device), values, samples.first, mode="max")


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
    side = box_ops.area(boxes).clamp(min=0).sqrt()
    level = (canonical_level + torch.log2(side / canonical_side + 1e-8)).floor()
    return level.clamp(first, last).long() - first


def roi_align(
    pyramid: Pyramid,
    boxes: Float[Tensor, "N 4"],
    pictures: Int[Tensor, " N"],
    levels: Int[Tensor, " N"],
    bins: int,
    *,
    sampling_ratio: int = 2,
    aligned: bool = True,
    reduction: Reduction = mean,
) -> Float[Tensor, "N C bins bins"]:
    """Return the mean (or maximum) of bilinearly interpolated samples of each bin; nothing is rounded.

    A bin has `sampling_ratio`² samples on a regular grid; 0 takes about one sample per cell,
    ``ceil(side / bins)`` on each axis, as many as each region needs. `aligned` puts a cell's value at its
    centre, i + 0.5. The first published kernels put it at i, and widened boxes of less than one cell to one
    cell: ``aligned=False`` is for weights trained with them.
    """
    if reduction is mean and sampling_ratio and _has_kernel(pyramid):
        from maskrcnn.kernels import roi_align as kernel

        maps = [pyramid.batch_size]
        for (height, width), stride in zip(pyramid.sizes_hw, pyramid.strides, strict=True):
            maps += [height, width, stride]
        regions = (boxes.detach(), pictures, levels)
        return _as_maps(kernel.roi_align(pyramid.table, *regions, maps, bins, sampling_ratio, aligned), bins)
    at = map_slices(pyramid, pictures, levels)
    corners = boxes.detach() / at.stride[:, None]
    if aligned:
        origin, sides = corners[:, :2] - 0.5, corners[:, 2:] - corners[:, :2]
    else:
        origin, sides = corners[:, :2], (corners[:, 2:] - corners[:, :2]).clamp(min=1)
    grid = _Grid(origin, sides, at.base, torch.stack((at.width, at.height), 1))
    samples = _regular(grid, bins, sampling_ratio) if sampling_ratio else _adaptive(grid, bins)
    return _as_maps(reduction(pyramid.table, samples), bins)


def roi_warp(
    pyramid: Pyramid,
    boxes: Float[Tensor, "N 4"],
    pictures: Int[Tensor, " N"],
    levels: Int[Tensor, " N"],
    bins: int,
    *,
    sampling_ratio: int = 2,
    reduction: Reduction = mean,
) -> Float[Tensor, "N C bins bins"]:
    """Return `roi_align` of the boxes rounded to whole cells, at least one cell wide (Table 2c, RoIWarp)."""
    boxes = to_cells(boxes, map_slices(pyramid, pictures, levels).stride)
    return roi_align(
        pyramid, boxes, pictures, levels, bins, sampling_ratio=sampling_ratio, reduction=reduction
    )


def to_cells(boxes: Float[Tensor, "N 4"], stride: Int[Tensor, " N"]) -> Float[Tensor, "N 4"]:
    """Return the boxes, in pixels, rounded to whole cells of `stride` pixels, at least one cell wide."""
    corners = _round(boxes.detach() / stride[:, None])
    corners = torch.cat((corners[:, :2], torch.maximum(corners[:, 2:], corners[:, :2] + 1)), 1)
    return corners * stride[:, None]


def roi_pool(
    pyramid: Pyramid,
    boxes: Float[Tensor, "N 4"],
    pictures: Int[Tensor, " N"],
    levels: Int[Tensor, " N"],
    bins: int,
) -> Float[Tensor, "N C bins bins"]:
    """Return the maximum over the cells of each bin, box and bins rounded to whole cells (Fast R-CNN, §2.1).

    As published: both rounded corners are cells that belong to the region; neighbouring bins share the cells
    that they both touch; a bin that lies wholly outside the map is 0.
    """
    at = map_slices(pyramid, pictures, levels)
    corners = _round(boxes.detach() / at.stride[:, None])
    sides = (corners[:, 2:] - corners[:, :2] + 1).clamp(min=1) / bins
    step = torch.arange(bins, device=boxes.device)[:, None]
    limits = torch.stack((at.width, at.height), 1)[:, None]
    origin = corners[:, None, :2]
    # Of (N, bins, x and y):
    begin = ((step * sides[:, None]).floor() + origin).clamp(min=0).long().minimum(limits)
    end = (((step + 1) * sides[:, None]).ceil() + origin).clamp(min=0).long().minimum(limits)
    shape = (boxes.shape[0], bins, bins)
    (x, y), (columns, rows) = begin.unbind(-1), (end - begin).unbind(-1)
    x, columns = x[:, None, :].expand(shape).flatten(), columns[:, None, :].expand(shape).flatten()
    y, rows = y[:, :, None].expand(shape).flatten(), rows[:, :, None].expand(shape).flatten()
    bag, within = _ragged(rows * columns)
    region = bag // bins**2
    row, column = y[bag] + within // columns[bag], x[bag] + within % columns[bag]
    index = at.base[region] + row * at.width[region] + column
    values = F.embedding_bag(index, pyramid.table, _firsts(rows * columns), mode="max")
    return _as_maps(values, bins)


def _has_kernel(pyramid: Pyramid) -> bool:
    """Return whether the Triton kernel reads this pyramid. Its backward is not deterministic."""
    device, dtype = pyramid.table.device, pyramid.table.dtype
    fits = dtype in (torch.float32, torch.bfloat16, torch.float16) and len(pyramid.strides) <= 4
    if not fits or not kernels.can_run_on(device) or torch.are_deterministic_algorithms_enabled():
        return False
    learns = torch.is_grad_enabled() and pyramid.table.requires_grad
    return kernels.trusted("roi_align", device, dtype, _check_kernel) and (
        not learns or kernels.trusted("roi_align backward", device, dtype, _check_kernel_backward)
    )


def _check_kernel(device: torch.device, dtype: torch.dtype) -> None:
    from maskrcnn.kernels import roi_align as kernel

    kernel.check(_plain, device, dtype)


def _check_kernel_backward(device: torch.device, dtype: torch.dtype) -> None:
    from maskrcnn.kernels import roi_align as kernel

    kernel.check_backward(_plain, device, dtype)


def _plain(table: Tensor, boxes: Tensor, pictures: Tensor, levels: Tensor, maps: list[int], bins: int,
           ratio: int, aligned: bool) -> Tensor:  # fmt: skip
    """Return what the kernel returns for these arguments, by the plain operator."""
    sizes_hw = tuple(zip(maps[1::3], maps[2::3], strict=True))
    pyramid = Pyramid(table, maps[0], sizes_hw, tuple(maps[3::3]), ())
    read = partial(roi_align, sampling_ratio=ratio, aligned=aligned)
    # With `mean` itself as the reduction the kernel would be called.
    features = read(pyramid, boxes, pictures, levels, bins, reduction=lambda *args: mean(*args))
    return features.permute(0, 2, 3, 1).flatten(0, 2)


class _Grid(NamedTuple):
    """Regions in cells of their maps, where cell i has its value at i; all of (N, 2) are x, y."""

    origin: Tensor
    sides: Tensor
    base: Tensor  # (N,)
    limits: Tensor  # width, height of the map


def _regular(grid: _Grid, bins: int, ratio: int) -> Samples:
    """Return ratio × ratio samples a bin: taps are found on each axis alone, then combined."""
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


def _adaptive(grid: _Grid, bins: int) -> Samples:
    """Return about one sample a cell: ceil(height / bins) × ceil(width / bins) in each bin."""
    ratio = (grid.sides / bins).ceil().clamp(min=0).long()  # (N, 2)
    count = ratio.prod(1)[:, None].expand(-1, bins**2).flatten()
    bag, within = _ragged(count)
    region, bin_y, bin_x = bag // bins**2, bag % bins**2 // bins, bag % bins
    ratio = ratio[region]
    step = torch.stack((bin_x + (within % ratio[:, 0] + 0.5) / ratio[:, 0],
                        bin_y + (within // ratio[:, 0] + 0.5) / ratio[:, 1]), 1)  # fmt: skip
    position = grid.origin[region] + step * (grid.sides / bins)[region]
    limits = grid.limits[region]
    taps = bilinear_taps(position, limits)
    row = grid.base[region, None] + taps.cell[:, 1] * limits[:, :1]
    index = (row[:, :, None] + taps.cell[:, 0][:, None]).view(-1, 4)
    weight = (taps.weight[:, 1][:, :, None] * taps.weight[:, 0][:, None]).view(-1, 4)
    return Samples(index, weight, _firsts(count), 1 / count[bag, None].to(weight.dtype))


def _ragged(count: Tensor) -> tuple[Tensor, Tensor]:
    """Return for each of sum(count) items the bag that it belongs to and its place within the bag."""
    bag = torch.arange(len(count), device=count.device).repeat_interleave(count)
    return bag, torch.arange(len(bag), device=count.device) - _firsts(count)[bag]


def _firsts(count: Tensor) -> Tensor:
    return count.cumsum(0) - count


def _round(cells: Tensor) -> Tensor:
    return (cells + 0.5).floor()


def _as_maps(rows: Tensor, bins: int) -> Tensor:
    return rows.unflatten(0, (-1, bins, bins)).permute(0, 3, 1, 2)
