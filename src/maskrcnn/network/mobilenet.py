"""MobileNetV2 body (Sandler et al. 2018), with the names of torchvision's published weights."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from maskrcnn.network.init import init_convolutions
from maskrcnn.network.norms import Norm, frozen_batch_norm

# Table 2 of the paper: expansion, channels, blocks, stride of the first block.
_LAYOUT = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
_ENDS = (3, 6, 13, 17)  # the last block at each stride


class InvertedResidual(nn.Module):
    """Widen by a 1×1, filter each channel by a 3×3, narrow by a linear 1×1; add `x` where shapes agree."""

    def __init__(
        self, in_channels: int, out_channels: int, *, stride: int, expansion: int, norm: Norm
    ) -> None:
        super().__init__()
        width = in_channels * expansion
        widen = [] if expansion == 1 else [_conv_norm_relu(in_channels, width, 1, norm=norm)]
        self.conv = nn.Sequential(
            *widen,
            _conv_norm_relu(width, width, 3, stride=stride, groups=width, norm=norm),
            nn.Conv2d(width, out_channels, 1, bias=False),
            norm(out_channels),
        )
        self.adds = stride == 1 and in_channels == out_channels

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B _ _ _"]:
        """Return the block's map, smaller by its stride."""
        return x + self.conv(x) if self.adds else self.conv(x)


class MobileNetV2(nn.Module):
    """MobileNetV2 up to its last bottleneck, returning maps of 24, 32, 96 and 320 channels.

    The published 1280-channel layer after it, made for classification, is left out: it only widens the last
    map, and a pyramid's lateral convolution would narrow it again.
    """

    strides = (4, 8, 16, 32)
    out_channels = (24, 32, 96, 320)

    def __init__(self, *, norm: Norm = frozen_batch_norm, in_channels: int = 3) -> None:
        super().__init__()
        self.features = nn.Sequential(_conv_norm_relu(in_channels, 32, 3, stride=2, norm=norm))
        width = 32
        for expansion, channels, blocks, first_stride in _LAYOUT:
            for i in range(blocks):
                stride = first_stride if i == 0 else 1
                self.features.append(
                    InvertedResidual(width, channels, stride=stride, expansion=expansion, norm=norm)
                )
                width = channels
        init_convolutions(self)

    def forward(self, images: Float[Tensor, "B C H W"]) -> list[Tensor]:
        """Return the maps at strides 4, 8, 16 and 32, each of ceil(H / stride) by ceil(W / stride)."""
        x, maps = images, []
        for i, layer in enumerate(self.features):
            x = layer(x)
            if i in _ENDS:
                maps.append(x)
        return maps


def _conv_norm_relu(
    in_channels: int, out_channels: int, kernel: int, *, stride: int = 1, groups: int = 1, norm: Norm
) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, norm(out_channels), nn.ReLU6(inplace=True))
