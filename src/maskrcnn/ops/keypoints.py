"""Keypoints to heatmaps and back (paper §5: one one-hot M × M mask for each keypoint, with a softmax)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor


def keypoints_to_heatmap_index(
    keypoints: Float[Tensor, "N J 3"], boxes: Float[Tensor, "N 4"], size: int
) -> tuple[Int[Tensor, "N J"], Bool[Tensor, "N J"]]:
    """Return the cell of each keypoint in the size × size heatmap of its box, and whether it is valid.

    Cells are numbered row by row. A keypoint exactly on the right or lower edge belongs to the last cell.
    Keypoints that are unlabelled (visibility 0) or outside their box have index 0 and are not valid.
    """
    low, high = boxes[:, None, :2], boxes[:, None, 2:]
    xy = keypoints[..., :2]
    cell = ((xy - low) * (size / (high - low).clamp(min=1e-6))).floor().long()
    cell = torch.where(xy == high, size - 1, cell)
    valid = ((cell >= 0) & (cell < size)).all(-1) & (keypoints[..., 2] > 0)
    return torch.where(valid, cell[..., 1] * size + cell[..., 0], 0), valid


def heatmaps_to_keypoints(
    heatmaps: Float[Tensor, "N J M M"], boxes: Float[Tensor, "N 4"]
) -> Float[Tensor, "N J 3"]:
    """Return x, y and score of the keypoints of heatmaps, in the frame of the boxes.

    As in Detectron and its successors, each heatmap is resized bicubically to the pixels of its box, rounded
    up, at least one, and the keypoint is the centre of the highest pixel. The score is the logit there. Boxes
    are computed one by one, because each has another size.
    """
    peaks = [_peaks(heatmap, box) for heatmap, box in zip(heatmaps, boxes, strict=True)]
    return torch.stack(peaks) if peaks else heatmaps.new_zeros(*heatmaps.shape[:2], 3)


def _peaks(heatmap: Tensor, box: Tensor) -> Tensor:
    extent = (box[2:] - box[:2]).clamp(min=1)
    width, height = extent.ceil().int().tolist()
    resized = F.interpolate(heatmap[None], (height, width), mode="bicubic", align_corners=False)[0]
    score, index = resized.flatten(1).max(1)
    cell = torch.stack([index % width, index // width], 1)
    xy = (cell + 0.5) * (extent / extent.ceil()) + box[:2]
    return torch.cat([xy, score[:, None]], 1)
