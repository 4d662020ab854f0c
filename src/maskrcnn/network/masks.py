"""The mask branch: which pixels of a region belong to the object? (section 3, "Mask Representation")"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from maskrcnn.masks.targets import binary_targets
from maskrcnn.network.norms import Norm, conv_norm, stacked
from maskrcnn.ops.losses import binary_cross_entropy, masked_mean
from maskrcnn.types import MaskTable


class MaskCoding(NamedTuple):
    """What the channels of a mask head mean: how many there are, which a region has, how it learns and reads.

    `channel` leads labels (N,) to the one channel (N,) of each region; where it is None, a region has all.
    `loss` takes the logits (N, c, M, M) of the regions' channels, labels (N,) and target masks (N, M, M), and
    gives a loss for each pixel (N, M, M); `probs` gives the probability (N, M, M) of the object at each.
    """

    channels: Callable[[int], int]
    channel: Callable[[Tensor], Tensor] | None
    loss: Callable[[Tensor, Tensor, Tensor], Tensor]
    probs: Callable[[Tensor, Tensor], Tensor]


def _sigmoid_loss(logits: Float[Tensor, "N 1 M M"], labels: Tensor, masks: Tensor) -> Tensor:
    return binary_cross_entropy(logits[:, 0], masks)


def _sigmoid_probs(logits: Float[Tensor, "N 1 M M"], labels: Tensor) -> Tensor:
    return logits[:, 0].float().sigmoid()


def _softmax_loss(logits: Tensor, labels: Tensor, masks: Tensor) -> Tensor:
    background = logits.shape[1] - 1
    truth = torch.where(masks > 0.5, labels[:, None, None], background)
    return F.cross_entropy(logits.float(), truth, reduction="none")


def _softmax_probs(logits: Tensor, labels: Tensor) -> Tensor:
    each = torch.arange(labels.shape[0], device=labels.device)
    return logits.float().softmax(1)[each, labels]


# A mask for each class, without competition among classes: the paper's choice.
SIGMOID = MaskCoding(lambda num_classes: num_classes, lambda labels: labels, _sigmoid_loss, _sigmoid_probs)
# One mask whatever the class (section 4.2, "Class-Specific vs. Class-Agnostic Masks").
CLASS_AGNOSTIC = MaskCoding(lambda num_classes: 1, torch.zeros_like, _sigmoid_loss, _sigmoid_probs)
# A class (or background) for each pixel, as in semantic segmentation (Table 2b).
SOFTMAX = MaskCoding(lambda num_classes: num_classes + 1, None, _softmax_loss, _softmax_probs)


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

    def one(self, features: Float[Tensor, "N C h w"], channel: Int[Tensor, " N"]) -> Float[Tensor, "N 1 M M"]:
        """Return of each region the one channel that is asked for; no other is calculated."""
        *layers, last = self
        for layer in layers:
            features = layer(features)
        assert isinstance(last, nn.Conv2d) and last.bias is not None
        cells = features.permute(0, 2, 3, 1)
        weight, bias = last.weight[channel].flatten(1), last.bias[channel]
        logits = cells.flatten(1, 2) @ weight[:, :, None] + bias[:, None, None]
        return logits.view(cells.shape[:3]).unsqueeze(1)


class MLPHead(nn.Sequential):
    """Hidden layers on the flattened region, then a layer that draws all masks at once (Table 2e)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        bins: int = 14,
        side: int = 28,
        hidden: Sequence[int] = (1024, 1024),
    ) -> None:
        widths = (in_channels * bins**2, *hidden)
        parts: dict[str, nn.Module] = {
            "flatten": nn.Flatten(),
            "hidden": stacked(nn.Linear(*ends) for ends in pairwise(widths)),
            "logits": nn.Linear(widths[-1], out_channels * side**2),
            "unflatten": nn.Unflatten(1, (out_channels, side, side)),
        }
        super().__init__(OrderedDict(parts))
        self.bins = bins
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_uniform_(layer.weight, a=1)
                nn.init.zeros_(layer.bias)

    def one(self, features: Float[Tensor, "N C h w"], channel: Int[Tensor, " N"]) -> Float[Tensor, "N 1 M M"]:
        """Return of each region the one channel that is asked for."""
        each = torch.arange(channel.shape[0], device=channel.device)
        return self(features)[each, channel].unsqueeze(1)


# How target masks are cut: of (table, pictures, objects, boxes, side), see `maskrcnn.ops.masks`.
MaskTruth = Callable[[MaskTable, Tensor, Tensor, Tensor, int], Tensor]


class MaskBranch(nn.Module):
    """Leads region features to one M × M mask each, as its `coding` has it, to be compared with `truth`."""

    def __init__(
        self, head: FCNHead | MLPHead, coding: MaskCoding = SIGMOID, truth: MaskTruth = binary_targets
    ) -> None:
        super().__init__()
        self.head = head
        self.coding = coding
        self.truth = truth

    def forward(
        self, features: Float[Tensor, "N C h w"], labels: Int[Tensor, " N"]
    ) -> Float[Tensor, "N c M M"]:
        """Return the mask logits of regions of these classes, of the channels that their `coding` has."""
        if self.coding.channel is None:
            return self.head(features)
        return self.head.one(features, self.coding.channel(labels))

    def loss(
        self,
        logits: Float[Tensor, "N c M M"],
        labels: Int[Tensor, " N"],
        masks: Float[Tensor, "N M M"],
        valid: Bool[Tensor, " N"],
    ) -> Float[Tensor, ""]:
        """Return the mean loss of the valid regions' pixels: L_mask is defined on positive regions only."""
        return masked_mean(self.coding.loss(logits, labels, masks).mean((1, 2)), valid)

    def probs(self, features: Float[Tensor, "N C h w"], labels: Int[Tensor, " N"]) -> Float[Tensor, "N M M"]:
        """Return the probability of each pixel to belong to the object of class `labels`."""
        return self.coding.probs(self(features, labels), labels)
