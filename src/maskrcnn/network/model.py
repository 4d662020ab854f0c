"""Mask R-CNN: a backbone, a region proposal network, and branches that work in parallel on each region.

``forward`` gives losses, ``detect`` gives detections; neither asks which mode the module is in.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from maskrcnn.network.boxes import BoxBranch
from maskrcnn.network.keypoints import KeypointBranch
from maskrcnn.network.masks import MaskBranch
from maskrcnn.network.regions import Regions
from maskrcnn.network.rpn import RPN, Proposals
from maskrcnn.ops.keypoints import keypoints_to_heatmap_index
from maskrcnn.ops.matching import IGNORED, ignore_crowds, match, positive_capacity, sample
from maskrcnn.ops.pyramid import Pyramid, first_levels, flatten_levels
from maskrcnn.ops.slots import gather_rows, scatter_to_slots, valid_indices
from maskrcnn.types import Batch, Detections, Targets


class Normalise(nn.Module):
    """Brings pixels of 0 … 255 to the network's scale, channel by channel, and clears the padding.

    Pictures are RGB; with `bgr` the network sees them in the other order, which is that of `mean` and `std`.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float], *, bgr: bool = False) -> None:
        super().__init__()
        self.bgr = bgr
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("std", torch.tensor(std)[:, None, None])

    def forward(self, batch: Batch) -> Float[Tensor, "B C H W"]:
        """Return the normalised pictures; whatever stood in the padding, zeros stand there now."""
        images = batch.images.flip(1) if self.bgr else batch.images
        images = (images - self.mean) / self.std
        row = torch.arange(images.shape[2], device=images.device)[:, None]
        column = torch.arange(images.shape[3], device=images.device)
        heights, widths = batch.sizes_hw[:, :, None, None].unbind(1)
        inside = (row < heights) & (column < widths)
        return torch.where(inside[:, None], images, 0.0)


class Sampling(NamedTuple):
    """Which proposals the branches learn from (section 3.1): a region is positive from an IoU of 0.5."""

    budget: int = 512
    positive_fraction: float = 0.25


class SampledRegions(NamedTuple):
    """N regions to learn from, flat over the batch, with the class and the object that each answers for."""

    boxes: Float[Tensor, "N 4"]
    pictures: Int[Tensor, " N"]
    labels: Int[Tensor, " N"]  # K for background
    objects: Int[Tensor, " N"]  # within the picture; meaningless for background
    valid: Bool[Tensor, " N"]

    def at(self, index: Int[Tensor, " n"]) -> "SampledRegions":
        """Return the regions that `index` names."""
        return SampledRegions(*(field[index] for field in self))


class MaskRCNN(nn.Module):
    """The whole network. Without a mask branch it is Faster R-CNN.

    `box_regions`, `mask_regions` and `keypoint_regions` read the features of each branch from the backbone's
    finest maps. A mask branch without regions of its own works on the box branch's features, as in C4
    networks, where both share res5 (the paper's Figure 4, left). Pictures are to be padded to multiples of
    `stride` pixels.
    """

    def __init__(
        self,
        *,
        normalise: Normalise,
        backbone: nn.Module,
        rpn: RPN,
        box_regions: Regions,
        box_branch: BoxBranch,
        mask_regions: Regions | None = None,
        mask_branch: MaskBranch | None = None,
        keypoint_regions: Regions | None = None,
        keypoint_branch: KeypointBranch | None = None,
        sampling: Sampling = Sampling(),
        stride: int = 32,
    ) -> None:
        super().__init__()
        self.normalise = normalise
        self.backbone = backbone
        self.rpn = rpn
        self.box_regions = box_regions
        self.box_branch = box_branch
        self.mask_regions = mask_regions
        self.mask_branch = mask_branch
        self.keypoint_regions = keypoint_regions
        self.keypoint_branch = keypoint_branch
        self.sampling = sampling
        self.stride = stride
        self.in_channels = len(normalise.mean)
        self.num_classes = box_branch.num_classes

    def forward(self, batch: Batch, targets: Targets) -> dict[str, Float[Tensor, ""]]:
        """Return the losses of a batch: L_cls, L_box, L_mask (section 3) and the RPN's two, always all.

        Raises ValueError where the targets lack what a branch learns from.
        """
        features = self.backbone(self.normalise(batch))
        pyramid = flatten_levels(features, self.rpn.anchors.strides)._replace(maps=())
        candidates = self.rpn(features)
        del features  # their table is all that is read from here on
        losses = self.rpn.losses(pyramid, candidates, targets)
        proposals = self.rpn.propose(candidates, batch.sizes_hw, self.rpn.train_topn)
        regions, positives = self._draw(proposals, targets)
        pyramid = first_levels(pyramid, len(self.box_regions.strides))
        region_features = self.box_regions(pyramid, regions.boxes, regions.pictures)
        losses |= self._box_losses(region_features, regions, targets)
        regions = regions.at(positives)
        if self.mask_branch is not None:
            region_features = (
                region_features[positives]
                if self.mask_regions is None
                else self.mask_regions(pyramid, regions.boxes, regions.pictures)
            )
            losses["loss_mask"] = self._mask_loss(self.mask_branch, region_features, regions, targets)
        if self.keypoint_branch is not None:
            assert self.keypoint_regions is not None
            keypoint_features = self.keypoint_regions(pyramid, regions.boxes, regions.pictures)
            losses["loss_keypoint"] = self._keypoint_loss(
                self.keypoint_branch, keypoint_features, regions, targets
            )
        return losses

    def detect(self, batch: Batch) -> Detections:
        """Return the detections of a batch: boxes first, then masks and keypoints inside the boxes found."""
        features = self.backbone(self.normalise(batch))
        proposals = self.rpn.propose(self.rpn(features), batch.sizes_hw, self.rpn.test_topn)
        strides = self.box_regions.strides
        pyramid = flatten_levels(features[: len(strides)], strides)
        index, box_features = _read(self.box_regions, pyramid, proposals.boxes, proposals.valid)
        logits, deltas = (
            scatter_to_slots(answer, index, proposals.valid.shape) for answer in self.box_branch(box_features)
        )
        found = self.box_branch.detect(logits, deltas, proposals, batch.sizes_hw)
        if self.mask_branch is not None:
            mask_regions = self.box_regions if self.mask_regions is None else self.mask_regions
            index, mask_features = _read(mask_regions, pyramid, found.boxes, found.valid)
            probs = self.mask_branch.probs(mask_features, found.labels.flatten()[index])
            found = found._replace(mask_probs=scatter_to_slots(probs, index, found.valid.shape))
        if self.keypoint_branch is not None:
            assert self.keypoint_regions is not None
            index, keypoint_features = _read(self.keypoint_regions, pyramid, found.boxes, found.valid)
            heatmaps = self.keypoint_branch(keypoint_features)
            found = found._replace(keypoint_heatmaps=scatter_to_slots(heatmaps, index, found.valid.shape))
        return found

    def _draw(self, proposals: Proposals, targets: Targets) -> tuple[SampledRegions, Int[Tensor, " n"]]:
        """Return the regions to learn from, and which of them are positive."""
        budget, fraction = self.sampling
        objects = targets.valid & ~targets.crowd
        # The truth's own boxes are added, so that the branches see positives from the first step on.
        boxes = torch.cat((proposals.boxes, targets.boxes), 1)
        valid = torch.cat((proposals.valid, objects), 1)
        matches = match(
            boxes, targets.boxes, objects, negative_below=0.5, positive_from=0.5, low_quality=False
        )
        matched = ignore_crowds(matches.object, boxes, targets.boxes, targets.valid & targets.crowd)
        matched = torch.where(valid, matched, IGNORED)
        keys = torch.rand(matched.shape, device=matched.device)
        drawn = sample(matched, keys, budget=budget, positive_fraction=fraction)

        slots = valid_indices(drawn.valid)
        capacity = positive_capacity(matched.shape[1], budget=budget, positive_fraction=fraction)
        positives = torch.searchsorted(slots, valid_indices(drawn.positive, capacity))
        matched = gather_rows(matched, drawn.candidate).clamp(min=0)
        labels = torch.where(drawn.positive, gather_rows(targets.labels, matched), self.num_classes)
        regions = SampledRegions(
            boxes=gather_rows(boxes, drawn.candidate).flatten(0, 1)[slots],
            pictures=slots // drawn.valid.shape[1],
            labels=labels.flatten()[slots],
            objects=matched.flatten()[slots],
            valid=drawn.valid.flatten()[slots],
        )
        return regions, positives

    def _box_losses(
        self, features: Tensor, regions: SampledRegions, targets: Targets
    ) -> dict[str, Float[Tensor, ""]]:
        return self.box_branch.losses(
            self.box_branch(features),
            labels=regions.labels,
            regions=regions.boxes,
            objects=targets.boxes[regions.pictures, regions.objects],
            valid=regions.valid,
        )

    def _mask_loss(
        self, branch: MaskBranch, features: Tensor, regions: SampledRegions, targets: Targets
    ) -> Float[Tensor, ""]:
        if targets.masks is None:
            raise ValueError(
                "the network has a mask branch, but the targets have no masks: train its box-only form"
            )
        labels, valid = self._positive(regions)
        logits = branch(features, labels)
        truth = branch.truth(
            targets.masks, regions.pictures, regions.objects, regions.boxes, logits.shape[-1]
        )
        has_mask = (targets.masks.sizes_hw[regions.pictures, regions.objects] > 0).all(-1)
        return branch.loss(logits, labels, truth, valid & has_mask)

    def _keypoint_loss(
        self, branch: KeypointBranch, features: Tensor, regions: SampledRegions, targets: Targets
    ) -> Float[Tensor, ""]:
        if targets.keypoints is None:
            raise ValueError("the network has a keypoint branch, but the targets have no keypoints")
        heatmaps = branch(features)
        keypoints = targets.keypoints[regions.pictures, regions.objects]
        cells, visible = keypoints_to_heatmap_index(keypoints, regions.boxes, heatmaps.shape[-1])
        _, valid = self._positive(regions)
        return branch.loss(heatmaps, cells, visible & valid[:, None])

    def _positive(self, regions: SampledRegions) -> tuple[Tensor, Tensor]:
        """Return a class for each region, and which are positive: a compiled graph has empty slots too."""
        positive = regions.valid & (regions.labels < self.num_classes)
        return torch.where(positive, regions.labels, 0), positive


def _read(
    regions: Regions, pyramid: Pyramid, boxes: Float[Tensor, "B n 4"], valid: Bool[Tensor, "B n"]
) -> tuple[Int[Tensor, " N"], Float[Tensor, "N C h w"]]:
    """Return which slots were read, and the features of their boxes."""
    index = valid_indices(valid)
    return index, regions(pyramid, boxes.flatten(0, 1)[index], index // boxes.shape[1])
