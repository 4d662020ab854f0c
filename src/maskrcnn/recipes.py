"""Every network, as a page of constructor calls with the numbers in place.

A recipe is a function of the number of object classes (background not counted) and of `Options`, which are
plain values, so that a checkpoint can keep them and ``maskrcnn train --set recipe.NAME=VALUE`` can set them.
The endings ``_box`` (Faster R-CNN) and ``_keypoint`` (17 keypoints, no masks) of `find` are short for the
usual ones.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from torch import Tensor, nn

from maskrcnn.masks.targets import binary_targets, soft_legacy_targets
from maskrcnn.network import resnet
from maskrcnn.network.anchors import Anchors
from maskrcnn.network.boxes import BoxBranch, LinearHead, MeanHead
from maskrcnn.network.fpn import FPN
from maskrcnn.network.keypoints import KeypointBranch
from maskrcnn.network.masks import CLASS_AGNOSTIC, SIGMOID, SOFTMAX, FCNHead, MaskBranch, MLPHead
from maskrcnn.network.mobilenet import MobileNetV2
from maskrcnn.network.model import MaskRCNN, Normalise, Sampling
from maskrcnn.network.norms import FrozenBatchNorm2d, Norm, batch_norm, group_norm, sync_batch_norm
from maskrcnn.network.regions import Regions
from maskrcnn.network.rpn import RPN, RPNHead, TopN, by_budget, by_sampled
from maskrcnn.ops.roi_align import RegionOperator, maximum, roi_align, roi_pool, roi_warp

NORMS: dict[str, Norm] = {  # that learn
    "batch": batch_norm,
    "sync": sync_batch_norm,
    "group": group_norm,
}
CODINGS = {"sigmoid": SIGMOID, "softmax": SOFTMAX, "class_agnostic": CLASS_AGNOSTIC}

OperatorName = Literal["roi_align", "roi_align_max", "roi_warp", "roi_warp_max", "roi_pool"]
Body = resnet.ResNet | MobileNetV2


@dataclass(frozen=True)
class Options:
    """What a recipe can be told. None takes what the paper or its successors use for the architecture."""

    # Branches
    masks: bool = True
    keypoints: int = 0  # of an object; 0: no keypoint branch
    mask_coding: Literal["sigmoid", "softmax", "class_agnostic"] = "sigmoid"
    mask_head: Literal["fcn", "mlp"] = "fcn"
    mask_layers: int = 2  # hidden layers of the mlp
    box_head: Literal["linear", "conv"] = "linear"  # two linear layers; or four convolutions and one
    region_operator: OperatorName = "roi_align"
    sampling_ratio: int = 2  # samples a bin on each axis; 0 for one a cell
    aligned: bool = True  # False: RoIAlign half a cell aside, as in its first published kernels
    # Backbone
    in_channels: int = 3
    bgr: bool = False  # the network sees blue first; pixel_mean and pixel_std are in its order
    pixel_mean: tuple[float, ...] | None = None  # on the scale 0 … 255, one a channel; None: ImageNet's
    pixel_std: tuple[float, ...] | None = None
    norm: Literal["frozen", "batch", "sync", "group"] = "frozen"
    norm_eps: float = 1e-5  # added to a frozen norm's variance
    frozen: tuple[str, ...] | None = None  # parts that do not learn; None: stem and res2, with frozen norms
    head_norm: Literal["none", "batch", "sync", "group"] = "none"  # of the pyramid and branches
    stride_in_1x1: bool = False  # as in the original ResNet-50 and -101 weights
    channels: int = 256  # of the pyramid and the mask branch
    hidden: int = 1024  # of the box branch's layers
    keypoint_channels: int = 512  # of the keypoint branch
    # Proposals and detections
    anchor_sizes: tuple[float, ...] | None = None  # √area in pixels; on a pyramid one for each level
    aspect_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)  # height / width
    anchor_offset: float = 0.5  # where in its cell an anchor stands; 0 is the corner
    rounded_anchors: bool = False  # their corners and steps, to whole pixels
    rpn_convolutions: int = 1
    proposals: int = 1000  # regions of a picture that leave the RPN
    proposal_size: float = 0.0  # least side of a region, px of the network's input
    score_threshold: float = 0.05
    detection_size: float = 0.0  # least side of a detection, px of the network's input
    max_detections: int = 100  # in a picture
    # Learning
    training_proposals: int | None = None  # regions that leave the RPN in training; None: as `proposals`
    rpn_budget: int = 256  # anchors of a picture to learn from
    rpn_divisor: Literal["sampled", "budget"] = "sampled"  # what the RPN's losses are divided by
    rpn_beta: float = 1 / 9  # where the RPN's smooth L1 becomes linear; 0 is L1
    budget: int | None = None  # regions of a picture to learn from; None: 512, or 64 without a pyramid
    beta: float = 1.0  # where the box branch's smooth L1 becomes linear; 0 is L1
    mask_truth: Literal["binary", "soft_legacy"] = "binary"  # soft: as torchvision cuts it
    mask_samples: int = 2  # samples a bin on each axis of binary truth; 0 for one a pixel


def resnet18_fpn(num_classes: int, **options: Any) -> MaskRCNN:
    """ResNet-18 with a feature pyramid: for small data and small machines."""
    return _pyramid(resnet.resnet18, num_classes, Options(**options))


def resnet34_fpn(num_classes: int, **options: Any) -> MaskRCNN:
    """ResNet-34 with a feature pyramid: between resnet18_fpn and resnet50_fpn."""
    return _pyramid(resnet.resnet34, num_classes, Options(**options))


def resnet50_fpn(num_classes: int, **options: Any) -> MaskRCNN:
    """ResNet-50-FPN, the usual choice: mask AP 33.6 on COCO in the paper's Table 2a."""
    return _pyramid(resnet.resnet50, num_classes, Options(**options))


def resnet101_fpn(num_classes: int, **options: Any) -> MaskRCNN:
    """ResNet-101-FPN: mask AP 35.4 in Table 2a."""
    return _pyramid(resnet.resnet101, num_classes, Options(**options))


def resnext101_fpn(num_classes: int, **options: Any) -> MaskRCNN:
    """ResNeXt-101 (32×8d) with a pyramid; the paper's 64×4d has mask AP 36.7 in Table 2a."""
    return _pyramid(resnet.resnext101, num_classes, Options(**options))


def resnext101_64x4d_fpn(num_classes: int, **options: Any) -> MaskRCNN:
    """ResNeXt-101 (64×4d) with a pyramid: mask AP 36.7 in Table 2a."""
    return _pyramid(partial(resnet.resnext101, 64, 4), num_classes, Options(**options))


def mobilenet_v2_fpn(num_classes: int, **options: Any) -> MaskRCNN:
    """MobileNetV2 with a pyramid: light enough to train on a CPU from ImageNet weights."""
    return _pyramid(MobileNetV2, num_classes, Options(**{"frozen": (), **options}))


def resnet18_c4(num_classes: int, **options: Any) -> MaskRCNN:
    """ResNet-18-C4: the form of the paper's C4 networks for small machines."""
    res5 = partial(resnet.res5_stage, resnet.BasicBlock, depth=2)
    return _c4(resnet.resnet18, num_classes, Options(**options), res5=res5)


def resnet18_c5(num_classes: int, **options: Any) -> MaskRCNN:
    """ResNet-18-C5, regions read at stride 32: for small machines."""
    return _c5(resnet.resnet18, num_classes, Options(**options))


def resnet50_c4(num_classes: int, **options: Any) -> MaskRCNN:
    """ResNet-50-C4, where res5 works on every region: mask AP 30.3 in Table 2a."""
    return _c4(resnet.resnet50, num_classes, Options(**options))


def resnet101_c4(num_classes: int, **options: Any) -> MaskRCNN:
    """ResNet-101-C4: mask AP 32.7 in Table 2a."""
    return _c4(resnet.resnet101, num_classes, Options(**options))


def resnet50_c5(num_classes: int, **options: Any) -> MaskRCNN:
    """ResNet-50-C5, regions read at stride 32: mask AP 30.9 with RoIAlign, 23.6 with RoIPool in Table 2d."""
    return _c5(resnet.resnet50, num_classes, Options(**options))


def resnet50_dc5(num_classes: int, **options: Any) -> MaskRCNN:
    """ResNet-50 with a dilated C5 at stride 16."""
    return _c5(partial(resnet.resnet50, dilate_c5=True), num_classes, Options(**options))


def resnet101_dc5(num_classes: int, **options: Any) -> MaskRCNN:
    """ResNet-101 with a dilated C5 at stride 16."""
    return _c5(partial(resnet.resnet101, dilate_c5=True), num_classes, Options(**options))


RECIPES: dict[str, Callable[..., MaskRCNN]] = {
    recipe.__name__: recipe
    for recipe in (
        resnet18_fpn,
        resnet34_fpn,
        resnet50_fpn,
        resnet101_fpn,
        resnext101_fpn,
        resnext101_64x4d_fpn,
        mobilenet_v2_fpn,
        resnet18_c4,
        resnet18_c5,
        resnet50_c4,
        resnet101_c4,
        resnet50_c5,
        resnet50_dc5,
        resnet101_dc5,
    )
}
FORMS: dict[str, dict[str, Any]] = {"_box": {"masks": False}, "_keypoint": {"masks": False, "keypoints": 17}}


def find(name: str) -> Callable[..., MaskRCNN]:
    """Return the recipe of a name, as "resnet50_fpn" or "resnet50_fpn_box". Raises ValueError for another."""
    for ending, options in FORMS.items():
        if name.removesuffix(ending) in RECIPES and name.endswith(ending):
            return partial(RECIPES[name.removesuffix(ending)], **options)
    if name not in RECIPES:
        known = ", ".join(RECIPES)
        raise ValueError(
            f"there is no recipe {name!r}; there are {known}, each also with {' and '.join(FORMS)}"
        )
    return RECIPES[name]


def _pyramid(body: Callable[..., Body], num_classes: int, options: Options) -> MaskRCNN:
    """FPN: every branch reads regions from P2 … P5, proposals come from P2 … P6 (Figure 4, right)."""
    backbone = FPN(_body(body, options), options.channels, _head_norm(options))
    anchors = _anchors(tuple((size,) for size in _sizes(options)), backbone.strides, options)
    strides, channels, operator = backbone.strides[:4], options.channels, _operator(options)
    return MaskRCNN(
        normalise=_normalise(options),
        backbone=backbone,
        rpn=_rpn(channels, anchors, options, per_level=(2, 1), total=(1, 1)),
        box_regions=Regions(strides, 7, operator=operator),
        box_branch=_box_branch(_box_head(channels, options), num_classes, options),
        mask_regions=Regions(strides, 14, operator=operator) if options.masks else None,
        mask_branch=_mask_branch(_mask_head(channels, num_classes, options), options)
        if options.masks
        else None,
        keypoint_regions=Regions(strides, 14, operator=operator) if options.keypoints else None,
        keypoint_branch=_keypoint_branch(channels, options),
        sampling=Sampling(options.budget or 512),
        stride=32,
    )


def _c4(
    body: Callable[..., Body],
    num_classes: int,
    options: Options,
    *,
    res5: Callable[..., nn.Module] | None = None,
) -> MaskRCNN:
    """C4: regions of 14 × 14 at stride 16, then res5 on each, shared by boxes and masks (Figure 4, left).

    Without a `res5` of the body's own blocks, it is three bottlenecks.
    """
    backbone, operator = _body(partial(body, stages=("res4",)), options), _operator(options)
    channels, width = backbone.out_channels[0], 2 * backbone.out_channels[0]
    block = partial(resnet.Bottleneck, stride_in_1x1=options.stride_in_1x1)
    stage = (res5 or partial(resnet.res5_stage, block))(in_channels=channels, norm=_norm(options))
    head = nn.Sequential(OrderedDict(res5=stage))
    coding = CODINGS[options.mask_coding]
    mask_head = FCNHead(width, coding.channels(num_classes), convolutions=0, channels=options.channels)
    return MaskRCNN(
        normalise=_normalise(options),
        backbone=backbone,
        rpn=_single_level_rpn(channels, 16, options),
        box_regions=Regions((16,), 14, operator=operator, head=head),
        box_branch=_box_branch(MeanHead(width), num_classes, options),
        mask_branch=_mask_branch(mask_head, options) if options.masks else None,
        keypoint_regions=Regions((16,), 14, operator=operator) if options.keypoints else None,
        keypoint_branch=_keypoint_branch(channels, options),
        sampling=Sampling(options.budget or 64),
        stride=1,
    )


def _c5(body: Callable[..., Body], num_classes: int, options: Options, *, channels: int = 2048) -> MaskRCNN:
    """C5: regions read from the last map of the whole body, heads as on a pyramid (Table 2d)."""
    backbone = _body(partial(body, stages=("res5",)), options)
    strides, channels, operator = backbone.strides, backbone.out_channels[0], _operator(options)
    return MaskRCNN(
        normalise=_normalise(options),
        backbone=backbone,
        rpn=_single_level_rpn(channels, strides[0], options),
        box_regions=Regions(strides, 7, operator=operator),
        box_branch=_box_branch(_box_head(channels, options), num_classes, options),
        mask_regions=Regions(strides, 14, operator=operator) if options.masks else None,
        mask_branch=_mask_branch(_mask_head(channels, num_classes, options), options)
        if options.masks
        else None,
        keypoint_regions=Regions(strides, 14, operator=operator) if options.keypoints else None,
        keypoint_branch=_keypoint_branch(channels, options),
        sampling=Sampling(options.budget or 64),
        stride=1,
    )


def _body(body: Callable[..., Body], options: Options) -> Body:
    extra = {"stride_in_1x1": True} if options.stride_in_1x1 else {}
    built = body(norm=_norm(options), in_channels=options.in_channels, **extra)
    usual = ("stem", "res2") if options.norm == "frozen" else ()
    resnet.freeze(built, usual if options.frozen is None else options.frozen)
    return built


def _norm(options: Options) -> Norm:
    return (
        partial(FrozenBatchNorm2d, eps=options.norm_eps) if options.norm == "frozen" else NORMS[options.norm]
    )


def _head_norm(options: Options) -> Norm | None:
    return None if options.head_norm == "none" else NORMS[options.head_norm]


def _normalise(options: Options) -> Normalise:
    # Of ImageNet's pictures:
    mean: tuple[float, ...] = (123.675, 116.28, 103.53)
    std: tuple[float, ...] = (58.395, 57.12, 57.375)
    if options.in_channels != 3:
        mean, std = (127.5,) * options.in_channels, (64.0,) * options.in_channels
    if options.bgr:
        mean, std = mean[::-1], std[::-1]
    mean, std = options.pixel_mean or mean, options.pixel_std or std
    if len(mean) != options.in_channels or len(std) != options.in_channels:
        raise ValueError(
            f"pixel_mean and pixel_std must have one number for each of {options.in_channels} channels, "
            f"not {len(mean)} and {len(std)}"
        )
    return Normalise(mean, std, bgr=options.bgr)


def _operator(options: Options) -> RegionOperator:
    align = partial(roi_align, aligned=options.aligned)
    operators: dict[str, Callable[..., Tensor]] = {
        "roi_align": align,
        "roi_align_max": partial(align, reduction=maximum),
        "roi_warp": roi_warp,
        "roi_warp_max": partial(roi_warp, reduction=maximum),
    }
    if options.region_operator == "roi_pool":
        return roi_pool
    return partial(operators[options.region_operator], sampling_ratio=options.sampling_ratio)


def _single_level_rpn(channels: int, stride: int, options: Options) -> RPN:
    # One map must offer what the levels of a pyramid offer together.
    anchors = _anchors((_sizes(options),), (stride,), options)
    return _rpn(channels, anchors, options, per_level=(12, 6), total=(2, 1))


def _sizes(options: Options) -> tuple[float, ...]:
    return options.anchor_sizes or (32.0, 64.0, 128.0, 256.0, 512.0)


def _anchors(sizes: tuple[tuple[float, ...], ...], strides: tuple[int, ...], options: Options) -> Anchors:
    return Anchors(sizes, options.aspect_ratios, strides, options.anchor_offset, options.rounded_anchors)


def _rpn(
    channels: int, anchors: Anchors, options: Options, *, per_level: tuple[int, int], total: tuple[int, int]
) -> RPN:
    """Return the RPN; `per_level` and `total` are multiples of `proposals`, in training and in detection."""
    count = options.proposals
    return RPN(
        RPNHead(channels, anchors.per_cell, convolutions=options.rpn_convolutions),
        anchors,
        train_topn=TopN(per_level[0] * count, options.training_proposals or total[0] * count),
        test_topn=TopN(per_level[1] * count, total[1] * count),
        min_size=options.proposal_size,
        budget=options.rpn_budget,
        beta=options.rpn_beta,
        divisor=by_budget if options.rpn_divisor == "budget" else by_sampled,
    )


def _box_head(channels: int, options: Options) -> LinearHead:
    if options.box_head == "conv":
        return LinearHead(channels, 7, convolutions=4, hidden=(options.hidden,), norm=_head_norm(options))
    return LinearHead(channels, 7, hidden=(options.hidden, options.hidden))


def _box_branch(head: nn.Module, num_classes: int, options: Options) -> BoxBranch:
    return BoxBranch(
        head,
        num_classes,
        beta=options.beta,
        score_threshold=options.score_threshold,
        min_size=options.detection_size,
        max_detections=options.max_detections,
    )


def _mask_head(channels: int, num_classes: int, options: Options) -> FCNHead | MLPHead:
    outputs = CODINGS[options.mask_coding].channels(num_classes)
    if options.mask_head == "mlp":
        return MLPHead(channels, outputs, hidden=(options.hidden,) * options.mask_layers)
    return FCNHead(channels, outputs, channels=options.channels, norm=_head_norm(options))


def _mask_branch(head: FCNHead | MLPHead, options: Options) -> MaskBranch:
    is_soft = options.mask_truth == "soft_legacy"
    truth = soft_legacy_targets if is_soft else partial(binary_targets, sampling_ratio=options.mask_samples)
    return MaskBranch(head, CODINGS[options.mask_coding], truth)


def _keypoint_branch(channels: int, options: Options) -> KeypointBranch | None:
    if not options.keypoints:
        return None
    return KeypointBranch(channels, options.keypoints, channels=options.keypoint_channels)
