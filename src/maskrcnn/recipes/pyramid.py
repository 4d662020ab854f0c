"""Mask R-CNN on a feature pyramid (Figure 4, right)."""

from __future__ import annotations

from collections.abc import Callable

from maskrcnn.network.backbone import FPN
from maskrcnn.network.model import MaskRCNN
from maskrcnn.ops.roi_align import RoIPooler
from maskrcnn.recipes import parts
from maskrcnn.recipes.options import PyramidOptions


def pyramid(build: Callable[..., parts.Backbone], num_classes: int, options: PyramidOptions) -> MaskRCNN:
    """Return the network: every branch reads regions from P2 … P5, proposals come from P2 … P6."""
    channels, operator = options.pyramid.channels, parts.region_operator(options.regions)
    backbone = FPN(parts.body(build, options), channels, parts.head_norm(options.pyramid.norm))
    strides = backbone.strides[:4]
    rpn = parts.pyramid_rpn(channels, backbone.strides, options.proposals)
    box_branch = parts.box_branch(
        RoIPooler(strides, 7, operator), parts.box_head(channels, options.boxes), num_classes, options.boxes
    )
    return MaskRCNN(
        normalise=parts.normalise(options.input),
        backbone=backbone,
        rpn=rpn,
        box_branch=box_branch,
        branches=parts.branches(strides, channels, num_classes, options),
        samples_per_image=options.boxes.samples_per_image,
        stride=32,
    )
