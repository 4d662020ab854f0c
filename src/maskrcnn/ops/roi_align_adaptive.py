"""RoIAlign with about one sample a cell, as many as each region needs: the form of Detectron2's networks."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from maskrcnn.ops.roi_align import (
    Pyramid,
    Reduction,
    RegionGrid,
    Samples,
    as_maps,
    bilinear_taps,
    mean,
    region_grid,
)


def adaptive_roi_align(
    pyramid: Pyramid,
    boxes: Float[Tensor, "N 4"],
    images: Int[Tensor, " N"],
    levels: Int[Tensor, " N"],
    bins: int,
    *,
    aligned: bool = True,
    reduction: Reduction = mean,
) -> Float[Tensor, "N C bins bins"]:
    """Return `roi_align` with ceil(height / bins) × ceil(width / bins) samples a bin, sides in cells."""
    grid = region_grid(pyramid, boxes, images, levels, aligned=aligned)
    return as_maps(reduction(pyramid.table, _samples(grid, bins)), bins)


def _samples(grid: RegionGrid, bins: int) -> Samples:
    """Return the samples of all bins, one bin after another; bins of different regions differ in number."""
    ratio = (grid.sides / bins).ceil().clamp(min=0).long()  # (N, 2)
    count = ratio.prod(1)[:, None].expand(-1, bins**2).flatten()
    bag, within = ragged(count)
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
    return Samples(index, weight, count.cumsum(0) - count, 1 / count[bag, None].to(weight.dtype))


def ragged(count: Int[Tensor, " bags"]) -> tuple[Int[Tensor, " items"], Int[Tensor, " items"]]:
    """Return for each of sum(count) items the bag that it belongs to and its index within the bag."""
    bag = torch.arange(len(count), device=count.device).repeat_interleave(count)
    return bag, torch.arange(len(bag), device=count.device) - (count.cumsum(0) - count)[bag]
