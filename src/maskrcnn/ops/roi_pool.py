"""Region operators that round to whole cells: RoIPool and RoIWarp, the paper's ablations (Table 2c).

`maskrcnn.ops.roi_align` describes what a region operator takes and returns.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from maskrcnn.ops.roi_align import Pyramid, RegionOperator, Samples, as_maps, map_slices, roi_align
from maskrcnn.ops.roi_align_adaptive import ragged


def maximum(table: Float[Tensor, "rows C"], samples: Samples) -> Float[Tensor, "bags C"]:
    """Return the maximum of each bin's samples, 0 for a bin without samples: a reduction for `roi_align`."""
    weight = samples.weight.to(table.dtype)
    values = F.embedding_bag(samples.row, table, per_sample_weights=weight, mode="sum")
    return F.embedding_bag(torch.arange(len(values), device=table.device), values, samples.first, mode="max")


def roi_warp(
    pyramid: Pyramid,
    boxes: Float[Tensor, "N 4"],
    images: Int[Tensor, " N"],
    levels: Int[Tensor, " N"],
    bins: int,
    *,
    align: RegionOperator = roi_align,
) -> Float[Tensor, "N C bins bins"]:
    """Return `align` of the boxes rounded to whole cells, at least one cell wide (RoIWarp)."""
    stride = map_slices(pyramid, images, levels).stride[:, None]
    corners = _round(boxes.detach() / stride)
    corners = torch.cat((corners[:, :2], torch.maximum(corners[:, 2:], corners[:, :2] + 1)), 1)
    return align(pyramid, corners * stride, images, levels, bins)


def roi_pool(
    pyramid: Pyramid,
    boxes: Float[Tensor, "N 4"],
    images: Int[Tensor, " N"],
    levels: Int[Tensor, " N"],
    bins: int,
) -> Float[Tensor, "N C bins bins"]:
    """Return the maximum over the cells of each bin, box and bins rounded to whole cells (Fast R-CNN, §2.1).

    As published: both rounded corners are cells that belong to the region; neighbouring bins share the cells
    that they both touch; a bin that lies wholly outside the map is 0.
    """
    at = map_slices(pyramid, images, levels)
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
    count = rows * columns
    bag, within = ragged(count)
    region = bag // bins**2
    row, column = y[bag] + within // columns[bag], x[bag] + within % columns[bag]
    index = at.base[region] + row * at.width[region] + column
    values = F.embedding_bag(index, pyramid.table, count.cumsum(0) - count, mode="max")
    return as_maps(values, bins)


def _round(cells: Tensor) -> Tensor:
    return (cells + 0.5).floor()
