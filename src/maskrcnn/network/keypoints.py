"""The keypoint branch: each keypoint is a mask with a single pixel set (section 5)."""

from itertools import pairwise

import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from maskrcnn.network.norms import stacked
from maskrcnn.ops.losses import masked_mean


class KeypointBranch(nn.Module):
    """Eight 3×3 convolutions of 512 channels, a deconvolution and a bilinear doubling: 14 × 14 to 56 × 56."""

    def __init__(
        self, in_channels: int, num_keypoints: int, *, convolutions: int = 8, channels: int = 512
    ) -> None:
        super().__init__()
        widths = (in_channels, *(channels,) * convolutions)
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

    def loss(
        self, heatmaps: Float[Tensor, "N J M M"], cells: Int[Tensor, "N J"], valid: Bool[Tensor, "N J"]
    ) -> Float[Tensor, ""]:
        """Return the cross entropy over a heatmap's M² cells, averaged over the visible keypoints (§5)."""
        losses = F.cross_entropy(heatmaps.flatten(2).flatten(0, 1), cells.flatten(), reduction="none")
        return masked_mean(losses, valid.flatten())
