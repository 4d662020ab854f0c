"""The parts that all architectures build alike from their options."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn

from maskrcnn.masks.targets import binary_targets, soft_legacy_targets
from maskrcnn.network.backbone import ResNet
from maskrcnn.network.box_heads import LinearHead
from maskrcnn.network.boxes import BoxBranch
from maskrcnn.network.init import freeze
from maskrcnn.network.keypoints import KeypointBranch
from maskrcnn.network.mask_ablations import CLASS_AGNOSTIC, SOFTMAX, MLPHead
from maskrcnn.network.masks import SIGMOID, FCNHead, MaskBranch
from maskrcnn.network.mobilenet import MobileNetV2
from maskrcnn.network.model import Normalise
from maskrcnn.network.norms import FrozenBatchNorm2d, Norm, batch_norm, group_norm, sync_batch_norm
from maskrcnn.network.rpn import RPN, Anchors, RPNHead, TopN
from maskrcnn.ops.roi_align import RegionOperator, RoIPooler, roi_align
from maskrcnn.ops.roi_align_adaptive import adaptive_roi_align
from maskrcnn.ops.roi_pool import maximum, roi_pool, roi_warp
from maskrcnn.recipes.options import (
    Body,
    Bottlenecks,
    Boxes,
    C4Boxes,
    C4Masks,
    C5Options,
    Input,
    Keypoints,
    Masks,
    Options,
    Proposals,
    PyramidOptions,
    Regions,
)

Backbone = ResNet | MobileNetV2
CODINGS = {"sigmoid": SIGMOID, "softmax": SOFTMAX, "class_agnostic": CLASS_AGNOSTIC}
_NORMS: dict[str, Norm | None] = {
    "none": None,
    "batch": batch_norm,
    "sync": sync_batch_norm,
    "group": group_norm,
}
_IMAGENET_MEAN, _IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def normalise(options: Input) -> Normalise:
    """Return the scaling of pixels. Raises ValueError where there is not one number for each channel."""
    mean: tuple[float, ...] = _IMAGENET_MEAN
    std: tuple[float, ...] = _IMAGENET_STD
    if options.channels != 3:
        mean, std = (127.5,) * options.channels, (64.0,) * options.channels
    if options.bgr:
        mean, std = mean[::-1], std[::-1]
    mean, std = options.mean or mean, options.std or std
    if len(mean) != options.channels or len(std) != options.channels:
        raise ValueError(
            f"input.mean and input.std must have one number for each of {options.channels} channels, "
            f"not {len(mean)} and {len(std)}"
        )
    return Normalise(mean, std, bgr=options.bgr)


def body_norm(options: Body) -> Norm:
    """Return the norm of the body's layers."""
    if options.norm == "frozen":
        return partial(FrozenBatchNorm2d, eps=options.norm_eps)
    norm = _NORMS[options.norm]
    assert norm is not None
    return norm


def head_norm(name: str) -> Norm | None:
    """Return the norm of a pyramid's or a head's layers."""
    return _NORMS[name]


def body(build: Callable[..., Backbone], options: Options) -> Backbone:
    """Return the backbone that `build` makes, parts of it frozen."""
    form: dict[str, Any] = {}
    if isinstance(options.body, Bottlenecks):
        form["stride_in_1x1"] = options.body.stride_in_1x1
    backbone = build(norm=body_norm(options.body), in_channels=options.input.channels, **form)
    usual = ("stem", "res2") if options.body.norm == "frozen" else ()
    freeze(backbone, usual if options.body.frozen is None else options.body.frozen)
    return backbone


def region_operator(options: Regions) -> RegionOperator:
    """Return what the branches read their regions with."""
    align: Callable[..., Tensor] = adaptive_roi_align
    if options.sampling_ratio:
        align = partial(roi_align, sampling_ratio=options.sampling_ratio)
    operators: dict[str, RegionOperator] = {
        "roi_align": partial(align, aligned=options.aligned),
        "roi_align_max": partial(align, aligned=options.aligned, reduction=maximum),
        "roi_warp": partial(roi_warp, align=align),
        "roi_warp_max": partial(roi_warp, align=partial(align, reduction=maximum)),
        "roi_pool": roi_pool,
    }
    return operators[options.operator]


def pyramid_rpn(channels: int, strides: tuple[int, ...], options: Proposals) -> RPN:
    """Return the RPN of a pyramid: one anchor size a level."""
    sizes = tuple((size,) for size in options.anchor_sizes)
    return _rpn(channels, _anchors(sizes, strides, options), options, pre_nms=(2, 1), post_nms=(1, 1))


def single_level_rpn(channels: int, stride: int, options: Proposals) -> RPN:
    """Return the RPN of a single map, which keeps as many proposals as all levels of a pyramid together."""
    anchors = _anchors((options.anchor_sizes,), (stride,), options)
    return _rpn(channels, anchors, options, pre_nms=(12, 6), post_nms=(2, 1))


def _anchors(sizes: tuple[tuple[float, ...], ...], strides: tuple[int, ...], options: Proposals) -> Anchors:
    return Anchors(sizes, options.aspect_ratios, strides, options.anchor_offset, options.rounded_anchors)


def _rpn(
    channels: int,
    anchors: Anchors,
    options: Proposals,
    *,
    pre_nms: tuple[int, int],
    post_nms: tuple[int, int],
) -> RPN:
    """Return the RPN; `pre_nms` and `post_nms` are multiples of `options.post_nms`, in training and test."""
    count = options.post_nms
    return RPN(
        RPNHead(channels, anchors.per_cell, convolutions=options.convolutions),
        anchors,
        train_topn=TopN(pre_nms[0] * count, options.post_nms_training or post_nms[0] * count),
        test_topn=TopN(pre_nms[1] * count, post_nms[1] * count),
        min_size=options.min_size,
        samples_per_image=options.samples_per_image,
        beta=options.beta,
        fixed_divisor=options.loss_divisor == "fixed",
    )


def box_head(channels: int, options: Boxes) -> LinearHead:
    """Return the head of regions of 7 × 7."""
    if options.head == "conv":
        norm = head_norm(options.norm)
        return LinearHead(channels, 7, convolutions=4, hidden=(options.hidden,), norm=norm)
    return LinearHead(channels, 7, hidden=(options.hidden, options.hidden))


def box_branch(
    pooler: RoIPooler,
    head: nn.Module,
    num_classes: int,
    options: C4Boxes,
    *,
    res5: nn.Module | None = None,
) -> BoxBranch:
    """Return the box branch."""
    branch = BoxBranch(
        pooler,
        head,
        num_classes,
        res5=res5,
        beta=options.beta,
        score_threshold=options.score_threshold,
        max_detections=options.max_detections,
        min_size=options.min_size,
    )
    branch.nms_threshold = options.nms_threshold
    return branch


def mask_head(channels: int, num_classes: int, options: Masks) -> FCNHead | MLPHead:
    """Return the mask head of regions of 14 × 14."""
    outputs = CODINGS[options.coding].channels(num_classes)
    if options.head == "mlp":
        return MLPHead(channels, outputs, hidden=(options.mlp_hidden,) * options.mlp_layers)
    return FCNHead(channels, outputs, channels=options.channels, norm=head_norm(options.norm))


def mask_branch(pooler: RoIPooler | None, head: nn.Module, options: C4Masks) -> MaskBranch:
    """Return the mask branch."""
    is_soft = options.targets == "soft_legacy"
    binary = partial(binary_targets, sampling_ratio=options.target_samples)
    return MaskBranch(pooler, head, CODINGS[options.coding], soft_legacy_targets if is_soft else binary)


def keypoint_branch(pooler: RoIPooler, channels: int, options: Keypoints) -> KeypointBranch:
    """Return the keypoint branch."""
    return KeypointBranch(pooler, channels, options.count, channels=options.channels)


def branches(
    strides: tuple[int, ...], channels: int, num_classes: int, options: PyramidOptions | C5Options
) -> dict[str, nn.Module]:
    """Return the branches beside the box branch, which read regions of 14 × 14 at these strides."""
    pooler, built = RoIPooler(strides, 14, region_operator(options.regions)), dict[str, nn.Module]()
    if options.masks:
        head = mask_head(channels, num_classes, options.masks)
        built["masks"] = mask_branch(pooler, head, options.masks)
    if options.keypoints:
        built["keypoints"] = keypoint_branch(pooler, channels, options.keypoints)
    return built
