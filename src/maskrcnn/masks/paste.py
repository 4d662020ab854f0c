"""Mask probabilities of M × M cells, pasted into the image: each is resized to its box."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor


def paste(
    mask_probs: Float[Tensor, "N M M"], boxes: Float[Tensor, "N 4"], size_hw: tuple[int, int]
) -> Iterator[tuple[Float[Tensor, "h w"], tuple[int, int]]]:
    """Resize each mask to its box by bilinear interpolation, at the pixels whose centres the box contains.

    Yields, for each box, the crop of probabilities and the row and column of its first pixel. The crop is
    clipped to an image of `size_hw` and may be empty. Within the box it equals `grid_sample` of the mask at
    every pixel's centre, with zeros around; beyond, where `grid_sample` fades out, nothing is pasted.
    """
    # One at a time: all crops of a large image together would fill the memory.
    return (_paste_one(probs, box, size_hw) for probs, box in zip(mask_probs, boxes.tolist(), strict=True))


def paste_dense(
    mask_probs: Float[Tensor, "N M M"], boxes: Float[Tensor, "N 4"], size_hw: tuple[int, int]
) -> Bool[Tensor, "N H W"]:
    """Return each mask as a whole image of `size_hw`, True where its probability is at least 0.5."""
    masks = torch.zeros((len(boxes), *size_hw), dtype=torch.bool, device=mask_probs.device)
    for mask, (crop, (y0, x0)) in zip(masks, paste(mask_probs, boxes, size_hw), strict=True):
        mask[y0 : y0 + crop.shape[0], x0 : x0 + crop.shape[1]] = crop >= 0.5
    return masks


def paste_in_whole_pixels(
    mask_probs: Float[Tensor, "N M M"], boxes: Float[Tensor, "N 4"], size_hw: tuple[int, int]
) -> Float[Tensor, "N H W"]:
    """Paste as torchvision does: for comparisons, and for thresholds that were chosen on its masks.

    The mask is padded by a border of zeros, the box is enlarged with it and truncated to integers, its last
    corner is counted as a pixel, and the mask is resized to these pixels. Objects are shifted by up to a
    pixel, and larger than those of `paste`, which is exact.
    """
    side = mask_probs.shape[-1]
    centres, halves = (boxes[:, 2:] + boxes[:, :2]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
    halves = halves * ((side + 2) / side)
    corners = torch.cat((centres - halves, centres + halves), 1).long().tolist()
    pasted = mask_probs.new_zeros(len(boxes), *size_hw)
    for image, probs, (x1, y1, x2, y2) in zip(pasted, F.pad(mask_probs, (1, 1, 1, 1)), corners, strict=True):
        resized = F.interpolate(
            probs[None, None], (max(y2 - y1 + 1, 1), max(x2 - x1 + 1, 1)), mode="bilinear"
        )[0, 0]
        rows, columns = slice(max(y1, 0), min(y2 + 1, size_hw[0])), slice(max(x1, 0), min(x2 + 1, size_hw[1]))
        image[rows, columns] = resized[max(-y1, 0) :, max(-x1, 0) :][
            : rows.stop - rows.start, : columns.stop - columns.start
        ]
    return pasted


def _paste_one(
    probs: Tensor, box: Sequence[float], size_hw: tuple[int, int]
) -> tuple[Tensor, tuple[int, int]]:
    x1, y1, x2, y2 = box
    y0, row_weights = _axis_weights(y1, y2, size_hw[0], probs)
    x0, column_weights = _axis_weights(x1, x2, size_hw[1], probs)
    return row_weights @ probs @ column_weights.T, (y0, x0)  # bilinear: one small matrix for each axis


def _axis_weights(low: float, high: float, limit: int, probs: Tensor) -> tuple[int, Tensor]:
    """Return the first pixel with its centre in [low, high], and the weights (pixels, M) of the cells."""
    first = min(max(math.ceil(low - 0.5), 0), limit)
    stop = min(max(math.floor(high - 0.5) + 1, first), limit) if high > low else first
    cells = probs.shape[-1]
    centres = torch.arange(first, stop, dtype=torch.float64) + 0.5
    positions = (centres - low) * (cells / max(high - low, 1e-9)) - 0.5
    return first, (1 - (positions[:, None] - torch.arange(cells)).abs()).clamp(min=0).to(probs)
