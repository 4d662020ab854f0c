"""Training targets of the mask branch, sampled from the crops of the ground truth."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from maskrcnn.types import MaskTable


def crop_targets(
    table: MaskTable,
    picture: Int[Tensor, " N"],
    gt_index: Int[Tensor, " N"],
    boxes: Float[Tensor, "N 4"],
    size: int,
    *,
    sampling_ratio: int = 2,
) -> Float[Tensor, "N size size"]:
    """Return the mask of one object in each box: RoIAlign of the object's own crop, zero outside it.

    Row n of `boxes`, in the frame of the network's input, samples object `gt_index[n]` of image `picture[n]`.
    A value is the share of its bin that the object covers, 0 … 1.

    A bin is the mean of `sampling_ratio`² bilinear samples. With 0 it takes one for each pixel of the crop
    that the bin spans, rounded up along each axis, box by box, because shapes then depend on the data.
    """
    slots = (picture, gt_index)
    starts, sizes_hw, affine = table.starts[slots], table.sizes_hw[slots], table.affine[slots]
    scale, shift = affine[:, [0, 2, 0, 2]], affine[:, [1, 3, 1, 3]]
    corners = scale * boxes + shift  # in the crop; x1 > x2 where the image is mirrored
    pixels = F.pad(table.pixels, (0, 1))  # so that an empty crop at the end of the table can be indexed
    if sampling_ratio > 0:
        return _sample(pixels, starts, sizes_hw, corners, size, (sampling_ratio, sampling_ratio))
    spans = ((corners[:, 2:] - corners[:, :2]).abs() / size).ceil().clamp(min=1).int().tolist()
    targets = [boxes.new_zeros(0, size, size)]
    for n, (across, down) in enumerate(spans):
        one = slice(n, n + 1)
        targets.append(_sample(pixels, starts[one], sizes_hw[one], corners[one], size, (down, across)))
    return torch.cat(targets)


def binary_targets(
    table: MaskTable,
    picture: Int[Tensor, " N"],
    gt_index: Int[Tensor, " N"],
    boxes: Float[Tensor, "N 4"],
    size: int,
    *,
    sampling_ratio: int = 2,
) -> Float[Tensor, "N size size"]:
    """Return 1 where the object covers at least half of a bin, else 0 (paper §3.1); see `crop_targets`."""
    return (crop_targets(table, picture, gt_index, boxes, size, sampling_ratio=sampling_ratio) >= 0.5).float()


def soft_legacy_targets(
    table: MaskTable,
    picture: Int[Tensor, " N"],
    gt_index: Int[Tensor, " N"],
    boxes: Float[Tensor, "N 4"],
    size: int,
) -> Float[Tensor, "N size size"]:
    """Return the targets that torchvision's weights were trained with: shares, by RoIAlign's first version.

    A pixel has its value at its corner instead of its centre, and boxes are at least one pixel wide.
    """
    sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1)
    corners = torch.cat((boxes[:, :2], boxes[:, :2] + sides), 1)
    return crop_targets(table, picture, gt_index, corners + 0.5, size, sampling_ratio=0)


def _sample(
    pixels: Tensor, starts: Tensor, sizes_hw: Tensor, corners: Tensor, size: int, samples: tuple[int, int]
) -> Tensor:
    """Return the means of `samples` (down, across) bilinear samples of size × size bins between corners."""
    rows, row_weights = _taps(corners[:, 1], corners[:, 3], sizes_hw[:, 0], size, samples[0])
    columns, column_weights = _taps(corners[:, 0], corners[:, 2], sizes_hw[:, 1], size, samples[1])
    across = columns[:, None, None]  # N 1 1 size taps
    down = (rows * sizes_hw[:, 1, None, None] + starts[:, None, None])[..., None, None]  # N size taps 1 1
    # Products and sums: autocast would round an einsum to 8 bits, and 0.5 is a threshold.
    by_row = (pixels[down + across] * column_weights[:, None, None]).sum(-1)
    return (by_row * row_weights[..., None]).sum(2)


def _taps(low: Tensor, high: Tensor, extent: Tensor, size: int, samples: int) -> tuple[Tensor, Tensor]:
    """Return pixels and weights (N, size, 2 * samples) of linear samples in `size` bins of [low, high]."""
    steps = (torch.arange(size * samples, device=low.device) + 0.5) / (size * samples)
    position = low[:, None] + (high - low)[:, None] * steps - 0.5  # pixel i has its centre at i + 0.5
    lower = position.floor()
    fraction = position - lower
    index = torch.stack([lower, lower + 1], -1)
    weights = torch.stack([1 - fraction, fraction], -1) / samples
    outside = (index < 0) | (index >= extent[:, None, None])
    index, weights = index.long().masked_fill(outside, 0), weights.masked_fill(outside, 0)
    return index.view(-1, size, 2 * samples), weights.view(-1, size, 2 * samples)
