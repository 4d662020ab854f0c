"""Mask R-CNN: a backbone, a region proposal network, and branches that work in parallel on each region.

``forward`` returns losses, ``detect`` returns detections; neither depends on the module's mode.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from maskrcnn.network.boxes import BoxBranch
from maskrcnn.network.branch import Branch
from maskrcnn.network.learning import box_losses, rpn_losses, sample_regions
from maskrcnn.network.rpn import RPN
from maskrcnn.ops.roi_align import (
    Pyramid,
    first_levels,
    flatten_levels,
    scatter_to_slots,
    valid_indices,
)
from maskrcnn.types import Batch, Detections, Targets


class Normalise(nn.Module):
    """Scales pixels of 0 … 255 to the network's range, channel by channel, and clears the padding.

    Images are RGB. With `bgr` the channels are reversed first, and `mean` and `std` are in that order.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float], *, bgr: bool = False) -> None:
        super().__init__()
        self.bgr = bgr
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("std", torch.tensor(std)[:, None, None])

    def forward(self, batch: Batch) -> Float[Tensor, "B C H W"]:
        """Return the normalised images, zeros in the padding whatever it held."""
        images = batch.images.flip(1) if self.bgr else batch.images
        images = (images - self.mean) / self.std
        row = torch.arange(images.shape[2], device=images.device)[:, None]
        column = torch.arange(images.shape[3], device=images.device)
        heights, widths = batch.sizes_hw[:, :, None, None].unbind(1)
        inside = (row < heights) & (column < widths)
        return torch.where(inside[:, None], images, 0.0)


class MaskRCNN(nn.Module):
    """The whole network. `branches`, such as "masks" and "keypoints", follow the box branch, in this order.

    Without a mask branch it is Faster R-CNN. The branches learn from `samples_per_image` regions. Images must
    be padded to multiples of `stride` pixels.
    """

    def __init__(
        self,
        *,
        normalise: Normalise,
        backbone: nn.Module,
        rpn: RPN,
        box_branch: BoxBranch,
        branches: Mapping[str, nn.Module],
        samples_per_image: int,
        stride: int,
    ) -> None:
        super().__init__()
        self.normalise = normalise
        self.backbone = backbone
        self.rpn = rpn
        self.box_branch = box_branch
        self.branches = nn.ModuleDict(branches)
        self.samples_per_image = samples_per_image
        self.stride = stride
        self.in_channels = len(normalise.mean)
        self.num_classes = box_branch.num_classes

    def forward(self, batch: Batch, targets: Targets) -> dict[str, Float[Tensor, ""]]:
        """Return the losses of a batch: L_cls, L_box, L_mask (section 3) and the RPN's two, always all.

        Raises ValueError where the targets lack what a branch learns from.
        """
        features = self.backbone(self.normalise(batch))
        pyramid = flatten_levels(features, self.rpn.anchors.strides)._replace(maps=())
        predictions = self.rpn(features)
        del features  # only their table is read from here on
        losses = rpn_losses(self.rpn, pyramid, predictions, targets)
        proposals = self.rpn.propose(predictions, batch.sizes_hw, self.rpn.train_topn)
        regions, positives = sample_regions(
            proposals,
            targets,
            samples_per_image=self.samples_per_image,
            num_classes=self.num_classes,
        )
        pyramid = first_levels(pyramid, len(self.box_branch.pooler.strides))
        box_features = self.box_branch.region_features(pyramid, regions.boxes, regions.images)
        losses |= box_losses(self.box_branch, box_features, regions, targets)
        regions = regions.at(positives)
        for branch in self._branches():
            features = (
                box_features[positives]
                if branch.pooler is None
                else branch.pooler(pyramid, regions.boxes, regions.images)
            )
            losses |= branch.losses(features, regions, targets)
        return losses

    def detect(self, batch: Batch) -> Detections:
        """Return the detections of a batch: boxes first, then what the branches predict inside them."""
        features = self.backbone(self.normalise(batch))
        proposals = self.rpn.propose(self.rpn(features), batch.sizes_hw, self.rpn.test_topn)
        strides = self.box_branch.pooler.strides
        pyramid = flatten_levels(features[: len(strides)], strides)
        detections = self.box_branch.detect(pyramid, proposals, batch.sizes_hw)
        for branch in self._branches():
            detections = self._detect(branch, pyramid, detections)
        return detections

    def _detect(self, branch: Branch, pyramid: Pyramid, detections: Detections) -> Detections:
        slots = detections.valid.shape
        index: Int[Tensor, " N"] = valid_indices(detections.valid)
        boxes, labels = detections.boxes.flatten(0, 1)[index], detections.labels.flatten()[index]
        read = self.box_branch.region_features if branch.pooler is None else branch.pooler
        prediction = branch.detect(read(pyramid, boxes, index // slots[1]), labels)
        return branch.added(detections, scatter_to_slots(prediction, index, slots))

    def _branches(self) -> Sequence[Branch]:
        return list(self.branches.values())  # type: ignore[arg-type]
