"""The mask branch: which pixels of a region belong to the object? (section 3, "Mask Representation")"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from maskrcnn.network.norms import Norm, conv_norm, stacked
from maskrcnn.ops.losses import binary_cross_entropy, masked_mean
from maskrcnn.ops.masks import binary_targets
from maskrcnn.types import MaskTable


class MaskCoding(NamedTuple):
    """What the channels of the mask logits mean: how many there are, how they learn, how they are read.

    `loss` takes logits (N, channels, M, M), labels (N,) and target masks (N, M, M), and gives a loss for each
    pixel (N, M, M); `probs` gives the probability (N, M, M) of the object at each pixel.
    """

    channels: Callable[[int], int]
    loss: Callable[[Tensor, Tensor, Tensor], Tensor]
    probs: Callable[[Tensor, Tensor], Tensor]


def _of_class(logits: Float[Tensor, "N K M M"], labels: Int[Tensor, " N"]) -> Float[Tensor, "N M M"]:
    return logits[torch.arange(labels.shape[0], device=labels.device), labels]


def _sigmoid_loss(logits: Tensor, labels: Tensor, masks: Tensor) -> Tensor:
    return binary_cross_entropy(_of_class(logits, labels), masks)


def _sigmoid_probs(logits: Tensor, labels: Tensor) -> Tensor:
    return _of_class(logits, labels).float().sigmoid()


def _agnostic_loss(logits: Tensor, labels: Tensor, masks: Tensor) -> Tensor:
    return binary_cross_entropy(logits[:, 0], masks)


def _agnostic_probs(logits: Tensor, labels: Tensor) -> Tensor:
    return logits[:, 0].float().sigmoid()


def _softmax_loss(logits: Tensor, labels: Tensor, masks: Tensor) -> Tensor:
    background = logits.shape[1] - 1
    truth = torch.where(masks > 0.5, labels[:, None, None], background)
    return F.cross_entropy(logits.float(), truth, reduction="none")


def _softmax_probs(logits: Tensor, labels: Tensor) -> Tensor:
    return _of_class(logits.float().softmax(1), labels)


# A mask for each class, without competition among classes: the paper's choice.
SIGMOID = MaskCoding(lambda num_classes: num_classes, _sigmoid_loss, _sigmoid_probs)
# One mask whatever the class (section 4.2, "Class-Specific vs. Class-Agnostic Masks").
CLASS_AGNOSTIC = MaskCoding(lambda num_classes: 1, _agnostic_loss, _agnostic_probs)
# A class (or background) for each pixel, as in semantic segmentation (Table 2b).
SOFTMAX = MaskCoding(lambda num_classes: num_classes + 1, _softmax_loss, _softmax_probs)


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
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_uniform_(layer.weight, a=1)
                nn.init.zeros_(layer.bias)


# How target masks are cut: of (table, pictures, objects, boxes, side), see `maskrcnn.ops.masks`.
MaskTruth = Callable[[MaskTable, Tensor, Tensor, Tensor, int], Tensor]


class MaskBranch(nn.Module):
    """Leads region features to one M × M mask each, as its `coding` has it, to be compared with `truth`."""

    def __init__(
        self, head: nn.Module, coding: MaskCoding = SIGMOID, truth: MaskTruth = binary_targets
    ) -> None:
        super().__init__()
        self.head = head
        self.coding = coding
        self.truth = truth

    def forward(self, features: Float[Tensor, "N C h w"]) -> Float[Tensor, "N channels M M"]:
        """Return the mask logits."""
        return self.head(features)

    def loss(
        self,
        logits: Float[Tensor, "N channels M M"],
        labels: Int[Tensor, " N"],
        masks: Float[Tensor, "N M M"],
        valid: Bool[Tensor, " N"],
    ) -> Float[Tensor, ""]:
        """Return the mean loss of the valid regions' pixels: L_mask is defined on positive regions only."""
        return masked_mean(self.coding.loss(logits, labels, masks).mean((1, 2)), valid)

    def probs(
        self, logits: Float[Tensor, "N channels M M"], labels: Int[Tensor, " N"]
    ) -> Float[Tensor, "N M M"]:
        """Return the probability of each pixel to belong to the object of class `labels`."""
        return self.coding.probs(logits, labels)
