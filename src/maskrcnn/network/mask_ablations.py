"""The paper's ablations of the mask branch: codings (Table 2b, section 4.2) and the MLP head (Table 2e)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from maskrcnn.network.masks import MaskCoding, sigmoid_loss, sigmoid_probs
from maskrcnn.network.norms import stacked


def _softmax_loss(logits: Tensor, labels: Tensor, masks: Tensor) -> Tensor:
    background = logits.shape[1] - 1
    classes = torch.where(masks > 0.5, labels[:, None, None], background)
    return F.cross_entropy(logits.float(), classes, reduction="none")


def _softmax_probs(logits: Tensor, labels: Tensor) -> Tensor:
    each = torch.arange(labels.shape[0], device=labels.device)
    return logits.float().softmax(1)[each, labels]


# One mask whatever the class (section 4.2, "Class-Specific vs. Class-Agnostic Masks").
CLASS_AGNOSTIC = MaskCoding(lambda num_classes: 1, torch.zeros_like, sigmoid_loss, sigmoid_probs)
# A class (or background) for each pixel, as in semantic segmentation (Table 2b).
SOFTMAX = MaskCoding(lambda num_classes: num_classes + 1, lambda labels: None, _softmax_loss, _softmax_probs)


class MLPHead(nn.Sequential):
    """Hidden layers on the flattened region, then a layer that predicts all masks at once (Table 2e)."""

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

    def forward(
        self, features: Float[Tensor, "N C h w"], channel: Int[Tensor, " N"] | None = None
    ) -> Float[Tensor, "N c M M"]:
        """Return the logits: all channels, or of each region only `channel`."""
        logits: Tensor = super().forward(features)
        if channel is None:
            return logits
        return logits[torch.arange(channel.shape[0], device=channel.device), channel].unsqueeze(1)
