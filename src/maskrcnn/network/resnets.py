"""The bodies of the paper by name: ResNet and ResNeXt of their published depths, and res5 alone.

ResNet-18 and 34 have a block of their own; that of the deeper ones is in `maskrcnn.network.backbone`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TypedDict, Unpack

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from maskrcnn.network.backbone import (
    AddReLU,
    Block,
    Bottleneck,
    ResNet,
    conv3x3,
    residual_stage,
    shortcut,
)
from maskrcnn.network.init import damp, init_convolutions
from maskrcnn.network.norms import Norm, frozen_batch_norm


class BasicBlock(nn.Module):
    """Two 3×3 convolutions beside a shortcut."""

    def __init__(
        self, in_channels: int, out_channels: int, *, stride: int = 1, dilation: int = 1, norm: Norm
    ) -> None:
        super().__init__()
        self.conv1 = conv3x3(in_channels, out_channels, stride=stride, dilation=dilation)
        self.norm1 = norm(out_channels)
        self.conv2 = conv3x3(out_channels, out_channels, dilation=dilation)
        self.norm2 = norm(out_channels)
        self.shortcut = shortcut(in_channels, out_channels, stride, norm)
        self.add_relu = AddReLU()
        damp(self.norm2)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B _ _ _"]:
        """Return the block's map, smaller by its stride."""
        branch = F.relu(self.norm1(self.conv1(x)), inplace=True)
        return self.add_relu(self.norm2(self.conv2(branch)), self.shortcut(x))


class ResNetOptions(TypedDict, total=False):
    """Arguments of `ResNet` that every depth takes."""

    stages: Sequence[str]
    norm: Norm
    in_channels: int
    dilate_c5: bool


def resnet18(**options: Unpack[ResNetOptions]) -> ResNet:
    """ResNet-18."""
    return ResNet(BasicBlock, (2, 2, 2, 2), channels=64, **options)


def resnet34(**options: Unpack[ResNetOptions]) -> ResNet:
    """ResNet-34."""
    return ResNet(BasicBlock, (3, 4, 6, 3), channels=64, **options)


def resnet50(*, stride_in_1x1: bool = False, **options: Unpack[ResNetOptions]) -> ResNet:
    """ResNet-50; `stride_in_1x1` as in `Bottleneck`."""
    block = partial(Bottleneck, stride_in_1x1=stride_in_1x1)
    return ResNet(block, (3, 4, 6, 3), channels=256, **options)


def resnet101(*, stride_in_1x1: bool = False, **options: Unpack[ResNetOptions]) -> ResNet:
    """ResNet-101; `stride_in_1x1` as in `Bottleneck`."""
    block = partial(Bottleneck, stride_in_1x1=stride_in_1x1)
    return ResNet(block, (3, 4, 23, 3), channels=256, **options)


def resnext101(groups: int = 32, width_per_group: int = 8, **options: Unpack[ResNetOptions]) -> ResNet:
    """ResNeXt-101, 32×8d by default; ``resnext101(64, 4)`` is 64×4d."""
    block = partial(Bottleneck, groups=groups, width_per_group=width_per_group)
    return ResNet(block, (3, 4, 23, 3), channels=256, **options)


def res5_stage(
    block: Block = Bottleneck, *, depth: int = 3, in_channels: int = 1024, norm: Norm = frozen_batch_norm
) -> nn.Sequential:
    """Return res5 alone, the head of a C4 network (Figure 4, left): twice the channels, half the size.

    `block` is a block with its arguments bound, e.g. ``partial(Bottleneck, stride_in_1x1=True)``.
    """
    res5 = residual_stage(partial(block, norm=norm), depth, in_channels, 2 * in_channels, 2)
    init_convolutions(res5)
    return res5
