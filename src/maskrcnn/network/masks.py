"""The mask branch: which pixels of a region belong to its object? (section 3, "Mask Representation")"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor, nn

from maskrcnn.network.learning import SampledRegions
from maskrcnn.network.norms import Norm, conv_norm, stacked
from maskrcnn.ops.losses import binary_cross_entropy, masked_mean
from maskrcnn.ops.roi_align import RoIPooler
from maskrcnn.types import Detections, MaskTable, Targets


class MaskCoding(NamedTuple):
    """How mask logits are encoded: number of channels, the channel of a class, the loss, the probability.

    `channels` maps the number of classes to the number of channels. `channel` maps labels (N,) to the one
    channel (N,) that each region needs, or to None where it needs all. `loss` takes the logits (N, c, M, M)
    of these channels, labels (N,) and target masks (N, M, M) and returns a loss for each pixel (N, M, M);
    `probs` takes logits and labels and returns the probability (N, M, M) that each pixel belongs to the
    object.
    """

    channels: Callable[[int], int]
    channel: Callable[[Tensor], Tensor | None]
    loss: Callable[[Tensor, Tensor, Tensor], Tensor]
    probs: Callable[[Tensor, Tensor], Tensor]


def sigmoid_loss(logits: Float[Tensor, "N 1 M M"], labels: Tensor, masks: Tensor) -> Tensor:
    """Return the binary cross entropy of each pixel."""
    return binary_cross_entropy(logits[:, 0], masks)


def sigmoid_probs(logits: Float[Tensor, "N 1 M M"], labels: Tensor) -> Tensor:
    """Return the sigmoid of each pixel."""
    return logits[:, 0].float().sigmoid()


# A mask for each class, without competition among classes: the paper's choice.
SIGMOID = MaskCoding(lambda num_classes: num_classes, lambda labels: labels, sigmoid_loss, sigmoid_probs)


class FCNHead(nn.Sequential):
    """3×3 convolutions, a 2×2 deconvolution to double the side, a 1×1 convolution to the logits (Figure 4).

    Without convolutions it is the C4 form, which follows res5.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        convolutions: int = 4,
        channels: int = 256,
        norm: Norm | None = None,
    ) -> None:
        widths = (in_channels, *(channels,) * convolutions)
        parts: dict[str, nn.Module] = {
            "convs": stacked(conv_norm(*ends, 3, norm=norm) for ends in pairwise(widths)),
            "deconv": nn.ConvTranspose2d(widths[-1], channels, 2, 2),
            "relu": nn.ReLU(inplace=True),
            "logits": nn.Conv2d(channels, out_channels, 1),
        }
        super().__init__(OrderedDict(parts))
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        nn.init.normal_(self.get_submodule("logits").get_parameter("weight"), std=0.001)

    def forward(
        self, features: Float[Tensor, "N C h w"], channel: Int[Tensor, " N"] | None = None
    ) -> Float[Tensor, "N c M M"]:
        """Return the logits: all channels, or of each region only `channel`; the others are not computed."""
        if channel is None:
            return super().forward(features)
        *layers, last = self
        for layer in layers:
            features = layer(features)
        assert isinstance(last, nn.Conv2d) and last.bias is not None
        cells = features.permute(0, 2, 3, 1)
        weight, bias = last.weight[channel].flatten(1), last.bias[channel]
        logits = cells.flatten(1, 2) @ weight[:, :, None] + bias[:, None, None]
        return logits.view(cells.shape[:3]).unsqueeze(1)


# How target masks are cut: of (table, images, objects, boxes, side), see `maskrcnn.masks.targets`.
MaskTargets = Callable[[MaskTable, Tensor, Tensor, Tensor, int], Tensor]


class MaskBranch(nn.Module):
    """Predicts an M × M mask for each region, as `coding` encodes it; `targets` cuts what it learns from.

    `head` maps region features and the channel that each region needs (None: all) to logits (N, c, M, M).
    `pooler` reads the regions; None: the branch works on the box branch's region features (C4 networks).
    """

    def __init__(
        self, pooler: RoIPooler | None, head: nn.Module, coding: MaskCoding, targets: MaskTargets
    ) -> None:
        super().__init__()
        self.pooler = pooler
        self.head = head
        self.coding = coding
        self.targets = targets

    def forward(
        self, features: Float[Tensor, "N C h w"], labels: Int[Tensor, " N"]
    ) -> Float[Tensor, "N c M M"]:
        """Return the mask logits of regions of these classes: the channels that `coding` needs."""
        return self.head(features, self.coding.channel(labels))

    def losses(
        self, features: Float[Tensor, "N C h w"], regions: SampledRegions, targets: Targets
    ) -> dict[str, Float[Tensor, ""]]:
        """Return `loss_mask`: the mean over the pixels of positive regions, where L_mask is defined (§3).

        Raises ValueError where the targets have no masks.
        """
        table = targets.masks
        if table is None:
            raise ValueError(
                "the network has a mask branch, but the targets have no masks: train a _box recipe"
            )
        labels = regions.classes
        logits = self(features, labels)
        masks = self.targets(table, regions.images, regions.gt_index, regions.boxes, logits.shape[-1])
        has_mask = (table.sizes_hw[regions.images, regions.gt_index] > 0).all(-1)
        losses = self.coding.loss(logits, labels, masks).mean((1, 2))
        return {"loss_mask": masked_mean(losses, regions.positive & has_mask)}

    def detect(self, features: Float[Tensor, "N C h w"], labels: Int[Tensor, " N"]) -> Float[Tensor, "N M M"]:
        """Return the probability of each pixel to belong to the object of class `labels`."""
        return self.coding.probs(self(features, labels), labels)

    @staticmethod
    def added(detections: Detections, probs: Float[Tensor, "B D M M"]) -> Detections:
        """Return the detections with their masks."""
        return detections._replace(mask_probs=probs)
