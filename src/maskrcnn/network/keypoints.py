"""The keypoint branch: each keypoint is a mask with a single pixel set (section 5)."""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from maskrcnn.network.learning import SampledRegions
from maskrcnn.network.norms import stacked
from maskrcnn.ops.keypoints import keypoints_to_heatmap_index
from maskrcnn.ops.losses import masked_mean
from maskrcnn.ops.roi_align import RoIPooler
from maskrcnn.types import Detections, Targets


class KeypointBranch(nn.Module):
    """Eight 3×3 convolutions of 512 channels, a deconvolution and a bilinear doubling: 14 × 14 to 56 × 56."""

    def __init__(
        self,
        pooler: RoIPooler,
        in_channels: int,
        num_keypoints: int,
        *,
        convolutions: int = 8,
        channels: int = 512,
    ) -> None:
        super().__init__()
        widths = (in_channels, *(channels,) * convolutions)
        self.pooler = pooler
        self.convs = stacked(nn.Conv2d(*ends, 3, padding=1) for ends in pairwise(widths))
        self.deconv = nn.ConvTranspose2d(channels, num_keypoints, 4, stride=2, padding=1)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(self, features: Float[Tensor, "N C h w"]) -> Float[Tensor, "N J M M"]:
        """Return a heatmap of logits for each keypoint."""
        heatmaps = self.deconv(self.convs(features))
        return F.interpolate(heatmaps.float(), scale_factor=2, mode="bilinear", align_corners=False)

    def losses(
        self, features: Float[Tensor, "N C h w"], regions: SampledRegions, targets: Targets
    ) -> dict[str, Float[Tensor, ""]]:
        """Return `loss_keypoint`: cross entropy over a heatmap's M² cells, mean over visible keypoints (§5).

        Raises ValueError where the targets have no keypoints.
        """
        if targets.keypoints is None:
            raise ValueError("the network has a keypoint branch, but the targets have no keypoints")
        heatmaps = self(features)
        keypoints = targets.keypoints[regions.images, regions.gt_index]
        cells, visible = keypoints_to_heatmap_index(keypoints, regions.boxes, heatmaps.shape[-1])
        valid = (visible & regions.positive[:, None]).flatten()
        losses = F.cross_entropy(heatmaps.flatten(2).flatten(0, 1), cells.flatten(), reduction="none")
        return {"loss_keypoint": masked_mean(losses, valid)}

    def detect(
        self, features: Float[Tensor, "N C h w"], labels: Int[Tensor, " N"]
    ) -> Float[Tensor, "N J M M"]:
        """Return a heatmap of logits for each keypoint."""
        return self(features)

    @staticmethod
    def added(detections: Detections, heatmaps: Float[Tensor, "B D J M M"]) -> Detections:
        """Return the detections with their heatmaps."""
        return detections._replace(keypoint_heatmaps=heatmaps)
