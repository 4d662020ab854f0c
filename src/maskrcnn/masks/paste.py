"""Mask probabilities of M × M cells pasted as torchvision pastes them, for comparisons."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def paste_like_torchvision(
    mask_probs: Float[Tensor, "N M M"], boxes: Float[Tensor, "N 4"], size_hw: tuple[int, int]
) -> Float[Tensor, "N H W"]:
    """Paste as torchvision does: for comparisons, and for thresholds that were chosen on its masks.

    The mask is padded by a border of zeros, the box is enlarged with it and truncated to integers, its last
    corner is counted as a pixel, and the mask is resized to these pixels. Objects are shifted by up to a
    pixel, and larger than those of `Result.masks`, which are exact.
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
