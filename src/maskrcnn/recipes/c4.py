"""Mask R-CNN on C4: res5 works on every region (Figure 4, left)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from maskrcnn.network.backbone import Bottleneck
from maskrcnn.network.box_heads import MeanHead
from maskrcnn.network.masks import FCNHead
from maskrcnn.network.model import MaskRCNN
from maskrcnn.network.resnets import res5_stage
from maskrcnn.ops.roi_align import RoIPooler
from maskrcnn.recipes import parts
from maskrcnn.recipes.options import Bottlenecks, C4Options

Res5 = Callable[..., nn.Module]  # of in_channels and norm


def c4(
    build: Callable[..., parts.Backbone], num_classes: int, options: C4Options, *, res5: Res5 | None = None
) -> MaskRCNN:
    """Return the network: regions of 14 × 14 at stride 16, then res5, shared by boxes and masks.

    `res5` builds it; None: three bottlenecks.
    """
    operator = parts.region_operator(options.regions)
    backbone = parts.body(partial(build, stages=("res4",)), options)
    channels, width = backbone.out_channels[0], 2 * backbone.out_channels[0]
    stage = (res5 or _bottlenecks(options))(in_channels=channels, norm=parts.body_norm(options.body))
    branches: dict[str, nn.Module] = {}
    if options.masks:
        outputs = parts.CODINGS[options.masks.coding].channels(num_classes)
        head = FCNHead(width, outputs, convolutions=0, channels=options.masks.channels)
        branches["masks"] = parts.mask_branch(None, head, options.masks)
    rpn = parts.single_level_rpn(channels, 16, options.proposals)
    pooler = RoIPooler((16,), 14, operator)
    box_branch = parts.box_branch(pooler, MeanHead(width), num_classes, options.boxes, res5=stage)
    if options.keypoints:
        branches["keypoints"] = parts.keypoint_branch(pooler, channels, options.keypoints)
    return MaskRCNN(
        normalise=parts.normalise(options.input),
        backbone=backbone,
        rpn=rpn,
        box_branch=box_branch,
        branches=branches,
        samples_per_image=options.boxes.samples_per_image,
        stride=1,
    )


def _bottlenecks(options: C4Options) -> Res5:
    assert isinstance(options.body, Bottlenecks)
    return partial(res5_stage, partial(Bottleneck, stride_in_1x1=options.body.stride_in_1x1))
