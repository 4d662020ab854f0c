"""The backbones of the paper: ResNet, ResNeXt and the feature pyramid (FPN).

A body (He et al. 2016; Xie et al. 2017), cut and dilated as detectors need it, maps an image to a list of
feature maps, one per name in `stages`, and has their `strides` and `out_channels` as attributes. The
backbones of the paper's Table 2a are choices of `stages`:

    FPN  ``("res2", "res3", "res4", "res5")``, the default, as the body of a pyramid (Lin et al. 2017)
    C4   ``("res4",)``, with `resnets.res5_stage` as the head of every region
    C5   ``("res5",)``; dilated C5 adds ``dilate_c5=True`` and has stride 16

Stages after the last one returned are not built.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from maskrcnn.network.init import damp, init_convolutions
from maskrcnn.network.norms import Norm, conv_norm, frozen_batch_norm

STAGES = ("res2", "res3", "res4", "res5")

Block = Callable[..., nn.Module]  # block(in_channels, out_channels, *, stride, dilation, norm)


class AddReLU(nn.Module):
    """The end of a residual block: a sum and a ReLU. A module, so that it can be replaced by a faster one."""

    def forward(
        self, branch: Float[Tensor, "B C H W"], shortcut: Float[Tensor, "B C H W"]
    ) -> Float[Tensor, "B C H W"]:
        """Return the ReLU of the sum, in the memory of `branch`."""
        branch += shortcut
        return F.relu(branch, inplace=True)


class Bottleneck(nn.Module):
    """A 1×1, a 3×3 and a 1×1 convolution beside a shortcut; with groups, the block of ResNeXt.

    The 3×3 has `groups` groups of `width_per_group` channels in res2 (1 × 64: ResNet); the width doubles from
    stage to stage. The stride is in the 3×3 (torchvision, ResNeXt) or, `stride_in_1x1`, in the first 1×1
    (He et al.'s weights, and so Detectron2's ResNet-50 and 101).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        norm: Norm,
        groups: int = 1,
        width_per_group: int = 64,
        stride_in_1x1: bool = False,
    ) -> None:
        super().__init__()
        width = groups * width_per_group * out_channels // 256
        stride1, stride2 = (stride, 1) if stride_in_1x1 else (1, stride)
        self.conv1 = nn.Conv2d(in_channels, width, 1, stride1, bias=False)
        self.norm1 = norm(width)
        self.conv2 = conv3x3(width, width, stride=stride2, dilation=dilation, groups=groups)
        self.norm2 = norm(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.norm3 = norm(out_channels)
        self.shortcut = shortcut(in_channels, out_channels, stride, norm)
        self.add_relu = AddReLU()
        damp(self.norm3)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B _ _ _"]:
        """Return the block's map, smaller by its stride."""
        branch = F.relu(self.norm1(self.conv1(x)), inplace=True)
        branch = F.relu(self.norm2(self.conv2(branch)), inplace=True)
        return self.add_relu(self.norm3(self.conv3(branch)), self.shortcut(x))


class ResNet(nn.Module):
    """A 7×7 stem and up to four stages of `depths` blocks each, returning the maps of `stages`.

    `channels` is the width of res2's map; it doubles from stage to stage. `dilate_c5` keeps res5 at stride 16
    and dilates all its 3×3 convolutions by 2. Raises ValueError for a stage that does not exist.
    """

    def __init__(
        self,
        block: Block,
        depths: Sequence[int],
        *,
        channels: int,
        stages: Sequence[str] = STAGES,
        norm: Norm = frozen_batch_norm,
        in_channels: int = 3,
        dilate_c5: bool = False,
    ) -> None:
        super().__init__()
        if not stages or list(stages) != [name for name in STAGES if name in stages]:
            raise ValueError(f"stages are some of {STAGES}, in this order, but {tuple(stages)} was given")
        self.stages = tuple(stages)
        self.stem = conv_norm(in_channels, 64, 7, stride=2, norm=norm)
        maps = {}
        stride, width = 4, 64
        for i, name in enumerate(STAGES[: STAGES.index(stages[-1]) + 1]):
            dilation = 2 if dilate_c5 and name == "res5" else 1
            step = 1 if i == 0 or dilation == 2 else 2
            stage_block = partial(block, dilation=dilation, norm=norm)
            self.add_module(name, residual_stage(stage_block, depths[i], width, channels << i, step))
            stride, width = stride * step, channels << i
            maps[name] = stride, width
        self.strides = tuple(maps[name][0] for name in stages)
        self.out_channels = tuple(maps[name][1] for name in stages)
        init_convolutions(self)

    def forward(self, images: Float[Tensor, "B C H W"]) -> list[Tensor]:
        """Return the maps of `stages`, finest first, each of ceil(H / stride) by ceil(W / stride)."""
        x = F.max_pool2d(F.relu(self.stem(images), inplace=True), 3, stride=2, padding=1)
        maps = []
        for name, stage in self.named_children():
            if name != "stem":
                x = stage(x)
            if name in self.stages:
                maps.append(x)
        return maps


def residual_stage(
    block: Block, depth: int, in_channels: int, out_channels: int, stride: int
) -> nn.Sequential:
    """Return `depth` blocks, the first with the stride; `block` has its other arguments bound."""
    first = block(in_channels, out_channels, stride=stride)
    return nn.Sequential(first, *(block(out_channels, out_channels) for _ in range(depth - 1)))


def conv3x3(
    in_channels: int, out_channels: int, *, stride: int = 1, dilation: int = 1, groups: int = 1
) -> nn.Conv2d:
    """Return a 3×3 convolution without a bias, padded to keep the size at stride 1."""
    return nn.Conv2d(in_channels, out_channels, 3, stride, dilation, dilation, groups, bias=False)


def shortcut(in_channels: int, out_channels: int, stride: int, norm: Norm) -> nn.Module:
    """Return what leads past a block: nothing where the block keeps the size, else a 1×1 convolution."""
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return conv_norm(in_channels, out_channels, 1, stride=stride, norm=norm)


# --- the pyramid ---


class TopDownAdd(nn.Module):
    """A step of the top-down pathway: adds the coarser map, upsampled, to the finer one."""

    def forward(
        self, finer: Float[Tensor, "B C H W"], coarser: Float[Tensor, "B C h w"]
    ) -> Float[Tensor, "B C H W"]:
        """Return the sum, in the memory of `finer`."""
        finer += F.interpolate(coarser, size=finer.shape[-2:], mode="nearest")
        return finer


class FPN(nn.Module):
    """A feature pyramid: a body's maps, merged top-down, and one more at twice the coarsest stride.

    Its maps have one width and are semantically strong at every stride. `body` is any module with `strides`
    and `out_channels` that returns its maps finest first; over res2 … res5 the pyramid is P2 … P6.
    Convolutions are initialised by Caffe's Xavier (uniform), as in both published implementations.
    """

    def __init__(self, body: nn.Module, out_channels: int = 256, norm: Norm | None = None) -> None:
        super().__init__()
        strides: tuple[int, ...] = body.strides  # type: ignore[assignment]
        widths: tuple[int, ...] = body.out_channels  # type: ignore[assignment]
        self.body = body
        self.lateral = nn.ModuleList(conv_norm(width, out_channels, 1, norm=norm) for width in widths)
        self.top_down_add = TopDownAdd()
        self.output = nn.ModuleList(conv_norm(out_channels, out_channels, 3, norm=norm) for _ in widths)
        self.strides = (*strides, 2 * strides[-1])
        self.out_channels = (out_channels,) * len(self.strides)
        for conv in (*self.lateral.modules(), *self.output.modules()):
            if isinstance(conv, nn.Conv2d):
                nn.init.kaiming_uniform_(conv.weight, a=1)
                if conv.bias is not None:
                    nn.init.zeros_(conv.bias)

    def forward(self, images: Float[Tensor, "B C H W"]) -> list[Tensor]:
        """Return the pyramid, finest first."""
        merged = [lateral(x) for lateral, x in zip(self.lateral, self.body(images), strict=True)]
        for i in reversed(range(len(merged) - 1)):
            merged[i] = self.top_down_add(merged[i], merged[i + 1])
        pyramid = [output(x) for output, x in zip(self.output, merged, strict=True)]
        return [*pyramid, F.max_pool2d(pyramid[-1], kernel_size=1, stride=2)]
