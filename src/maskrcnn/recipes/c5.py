"""Mask R-CNN on C5: regions are read from the last map of the whole body (Table 2d)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from maskrcnn.network.model import MaskRCNN
from maskrcnn.ops.roi_align import RoIPooler
from maskrcnn.recipes import parts
from maskrcnn.recipes.options import C5Options


def c5(build: Callable[..., parts.Backbone], num_classes: int, options: C5Options) -> MaskRCNN:
    """Return the network, with heads as on a pyramid; a dilated body has stride 16, a plain one 32."""
    operator = parts.region_operator(options.regions)
    backbone = parts.body(partial(build, stages=("res5",)), options)
    strides, channels = backbone.strides, backbone.out_channels[0]
    rpn = parts.single_level_rpn(channels, strides[0], options.proposals)
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
        stride=1,
    )
