"""Heads of the box branch: region features to one vector a region."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn

from maskrcnn.network.norms import Norm, conv_norm, stacked


class LinearHead(nn.Sequential):
    """Hidden layers on the flattened region (FPN, §4.2), after `convolutions` 3×3 convolutions, if any.

    The strong form of the box head is four 3×3 convolutions with a norm and one layer: ``hidden=(1024,)``.
    """

    def __init__(
        self,
        channels: int,
        bins: int,
        *,
        convolutions: int = 0,
        hidden: Sequence[int] = (1024, 1024),
        norm: Norm | None = None,
    ) -> None:
        widths = (channels * bins**2, *hidden)
        parts: dict[str, nn.Module] = {
            "convs": stacked(conv_norm(channels, channels, 3, norm=norm) for _ in range(convolutions)),
            "flatten": nn.Flatten(),
            "hidden": stacked(nn.Linear(*ends) for ends in pairwise(widths)),
        }
        super().__init__(OrderedDict(parts))
        self.bins = bins
        self.out_features = widths[-1]
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(layer, nn.Linear):
                nn.init.kaiming_uniform_(layer.weight, a=1)
            if isinstance(layer, nn.Conv2d | nn.Linear) and layer.bias is not None:
                nn.init.zeros_(layer.bias)


class MeanHead(nn.Module):
    """The mean over the region: all that remains to do after res5 (Figure 4, left)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.out_features = channels

    def forward(self, features: Float[Tensor, "N C h w"]) -> Float[Tensor, "N C"]:
        """Return the mean of each channel."""
        return features.mean((2, 3))
