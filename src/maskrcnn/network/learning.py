"""What the network learns from ground truth: sampled anchors and regions, the losses of RPN and box branch.

The losses of a further branch stand with the branch, which takes the `SampledRegions` of this file.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from maskrcnn.network.boxes import BoxBranch
from maskrcnn.network.rpn import RPN, AnchorPredictions, Proposals, RPNHead
from maskrcnn.ops import boxes as box_ops
from maskrcnn.ops.losses import binary_cross_entropy, masked_mean, masked_sum, smooth_l1
from maskrcnn.ops.matching import IGNORED, ignore_crowds, match, positive_capacity, sample
from maskrcnn.ops.roi_align import MapSlices, Pyramid, map_slices, valid_indices
from maskrcnn.types import Targets

POSITIVE_FRACTION = 0.25  # of the regions that the branches learn from (section 3.1)


class SampledRegions(NamedTuple):
    """N regions to learn from, flat over the batch, each with its class and its ground-truth object."""

    boxes: Float[Tensor, "N 4"]
    images: Int[Tensor, " N"]
    labels: Int[Tensor, " N"]  # K for background
    gt_index: Int[Tensor, " N"]  # the object within the image; meaningless for background
    valid: Bool[Tensor, " N"]
    positive: Bool[Tensor, " N"]  # valid and of an object

    def at(self, index: Int[Tensor, " n"]) -> SampledRegions:
        """Return the regions that `index` names."""
        return SampledRegions(*(field[index] for field in self))

    @property
    def classes(self) -> Int[Tensor, " N"]:
        """The class of each positive region, 0 for the others: an index that is always in range."""
        return torch.where(self.positive, self.labels, 0)


def sample_regions(
    proposals: Proposals, targets: Targets, *, samples_per_image: int, num_classes: int
) -> tuple[SampledRegions, Int[Tensor, " n"]]:
    """Return regions to learn from, and the indices of the positives: IoU of at least 0.5 (section 3.1)."""
    objects = targets.valid & ~targets.crowd
    # The ground-truth boxes are added, so that the branches see positives from the first step on.
    boxes = torch.cat((proposals.boxes, targets.boxes), 1)
    valid = torch.cat((proposals.valid, objects), 1)
    gt_index = match(boxes, targets.boxes, objects, negative_below=0.5, positive_from=0.5, low_quality=False)
    gt_index = ignore_crowds(gt_index, boxes, targets.boxes, targets.valid & targets.crowd)
    gt_index = torch.where(valid, gt_index, IGNORED)
    keys = torch.rand(gt_index.shape, device=gt_index.device)
    sampled = sample(gt_index, keys, samples_per_image=samples_per_image, positive_fraction=POSITIVE_FRACTION)
    slots = valid_indices(sampled.valid)
    capacity = positive_capacity(
        gt_index.shape[1], samples_per_image=samples_per_image, positive_fraction=POSITIVE_FRACTION
    )
    positives = torch.searchsorted(slots, valid_indices(sampled.positive, capacity))
    gt_index = box_ops.gather_rows(gt_index, sampled.candidates).clamp(min=0)
    labels = torch.where(sampled.positive, box_ops.gather_rows(targets.labels, gt_index), num_classes)
    regions = SampledRegions(
        boxes=box_ops.gather_rows(boxes, sampled.candidates).flatten(0, 1)[slots],
        images=slots // sampled.valid.shape[1],
        labels=labels.flatten()[slots],
        gt_index=gt_index.flatten()[slots],
        valid=sampled.valid.flatten()[slots],
        positive=sampled.positive.flatten()[slots],
    )
    return regions, positives


def rpn_losses(
    rpn: RPN, pyramid: Pyramid, predictions: AnchorPredictions, targets: Targets
) -> dict[str, Float[Tensor, ""]]:
    """Return `loss_rpn_objectness` and `loss_rpn_box` of sampled anchors (Faster R-CNN, equation 1).

    An anchor is positive from an IoU of 0.7 with an object or as an object's best, negative below 0.3. All
    other anchors do not count. So the head is evaluated again at the sampled anchors' cells alone, and no
    gradient is propagated through whole maps, most of which would be zero.
    """
    objects = targets.valid & ~targets.crowd
    anchors = predictions.anchors.expand(len(objects), -1, -1)
    gt_index = match(anchors, targets.boxes, objects, negative_below=0.3, positive_from=0.7, low_quality=True)
    gt_index = ignore_crowds(gt_index, anchors, targets.boxes, targets.valid & targets.crowd)
    keys = torch.rand(gt_index.shape, device=gt_index.device)
    sampled = sample(gt_index, keys, samples_per_image=rpn.samples_per_image, positive_fraction=0.5)
    logits, deltas = predict_at_anchors(rpn, pyramid, predictions.levels, sampled.candidates)
    objectness = binary_cross_entropy(logits, sampled.positive.float())
    gt_index = box_ops.gather_rows(gt_index, sampled.candidates).clamp(min=0)
    gt_boxes = box_ops.gather_rows(targets.boxes, gt_index)
    target = box_ops.encode(gt_boxes, box_ops.gather_rows(anchors, sampled.candidates), rpn.box_weights)
    error = smooth_l1(deltas - target, rpn.beta).sum(-1)
    divisor = rpn.samples_per_image * len(objects) if rpn.fixed_divisor else sampled.valid.sum().clamp(min=1)
    return {
        "loss_rpn_objectness": masked_sum(objectness, sampled.valid) / divisor,
        "loss_rpn_box": masked_sum(error, sampled.positive) / divisor,
    }


def predict_at_anchors(
    rpn: RPN, pyramid: Pyramid, levels: tuple[int, ...], index: Int[Tensor, "B S"]
) -> tuple[Float[Tensor, "B S"], Float[Tensor, "B S 4"]]:
    """Return the logits and deltas of the anchors that `index` names, with gradients.

    `levels` are the numbers of anchors of each level, as `AnchorPredictions` has them.
    """
    images = torch.arange(len(index), device=index.device)[:, None].expand_as(index)
    level = torch.zeros_like(index)
    within, first = index, 0
    for number, size in enumerate(levels[:-1], start=1):
        first = first + size
        level = torch.where(index >= first, number, level)
        within = torch.where(index >= first, index - first, within)
    cell, anchor = within.flatten() // rpn.anchors.per_cell, within.flatten() % rpn.anchors.per_cell
    at = map_slices(pyramid, images.flatten(), level.flatten())
    windows = gather_windows(pyramid, at, cell // at.width, cell % at.width, len(rpn.head.convs))
    logits, deltas = (output.float() for output in predict_at_centres(rpn.head, *windows))
    each = torch.arange(len(anchor), device=anchor.device)
    return logits[each, anchor].view(index.shape), deltas[each, anchor].view(*index.shape, 4)


def gather_windows(
    pyramid: Pyramid, at: MapSlices, row: Int[Tensor, " N"], column: Int[Tensor, " N"], radius: int
) -> tuple[Float[Tensor, "N C k k"], Bool[Tensor, "N 1 k k"]]:
    """Return the cells up to `radius` around each of N cells, k = 2 · radius + 1, zeros outside its map.

    The second tensor says which of them lie inside.
    """
    step = torch.arange(-radius, radius + 1, device=row.device)
    rows, columns = row[:, None] + step, column[:, None] + step
    is_row = (rows >= 0) & (rows < at.height[:, None])
    is_column = (columns >= 0) & (columns < at.width[:, None])
    inside = is_row[:, :, None] & is_column[:, None]
    index = at.base[:, None, None] + rows[:, :, None] * at.width[:, None, None] + columns[:, None]
    cells = pyramid.table[torch.where(inside, index, 0)] * inside.unsqueeze(-1)
    return cells.permute(0, 3, 1, 2), inside.unsqueeze(1)


def predict_at_centres(
    head: RPNHead, windows: Float[Tensor, "N C k k"], inside: Bool[Tensor, "N 1 k k"]
) -> tuple[Float[Tensor, "N A"], Float[Tensor, "N A 4"]]:
    """Return what `head` predicts at the centres of N windows that are as large as its receptive field."""
    for conv in head.convs:
        assert isinstance(conv, nn.Conv2d)
        windows = F.relu(F.conv2d(windows, conv.weight, conv.bias))
        inside = inside[:, :, 1:-1, 1:-1]
        windows = windows * inside  # the next convolution is padded by zeros
    return head.objectness(windows).flatten(1), head.deltas(windows).flatten(1).unflatten(1, (-1, 4))


def box_losses(
    branch: BoxBranch, features: Float[Tensor, "N C h w"], regions: SampledRegions, targets: Targets
) -> dict[str, Float[Tensor, ""]]:
    """Return `loss_class` and `loss_box` of N regions (Fast R-CNN, equations 1 and 2).

    Both are divided by the number of regions. Only positive regions have a box loss.
    """
    logits, deltas = branch(features)
    of_class = regions.labels.clamp(max=deltas.shape[1] - 1)
    deltas = deltas[torch.arange(len(deltas), device=deltas.device), of_class]
    gt_boxes = targets.boxes[regions.images, regions.gt_index]
    target = box_ops.encode(gt_boxes, regions.boxes, branch.box_weights)
    error = smooth_l1(deltas - target, branch.beta).sum(-1)
    cross_entropy = F.cross_entropy(logits, regions.labels, reduction="none")
    return {
        "loss_class": masked_mean(cross_entropy, regions.valid),
        "loss_box": torch.where(regions.positive, error, 0.0).sum() / regions.valid.sum().clamp(min=1),
    }
