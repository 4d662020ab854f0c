"""The options of a recipe, in groups: each architecture has options only for the parts that it has.

Options are plain values with dotted names (`maskrcnn.plain`): a checkpoint keeps those that are not the
recipe's own, and ``maskrcnn train --set proposals.post_nms=300`` sets them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from maskrcnn.plain import option


@dataclass(frozen=True)
class Input:
    """The pixels that the network sees. None takes ImageNet's statistics."""

    channels: int = option(3, "of a picture")
    bgr: bool = option(False, "the network sees blue first; mean and std are in its order")
    mean: tuple[float, ...] | None = option(None, "of pixels on the scale 0 … 255, one a channel")
    std: tuple[float, ...] | None = option(None, "standard deviation of pixels, one a channel")


@dataclass(frozen=True)
class Body:
    """The backbone below the pyramid."""

    norm: Literal["frozen", "batch", "sync", "group"] = option("frozen", "its normalisation layers")
    norm_eps: float = option(1e-5, "added to a frozen norm's variance")
    frozen: tuple[str, ...] | None = option(
        None, "parts that do not learn; none: stem and res2 where norms are frozen"
    )


@dataclass(frozen=True)
class Bottlenecks(Body):
    """A ResNet-50 or deeper."""

    stride_in_1x1: bool = option(False, "a block's stride is in its first 1x1, as in the original weights")


@dataclass(frozen=True)
class Pyramid:
    """The feature pyramid."""

    channels: int = option(256, "of every level")
    norm: Literal["none", "batch", "sync", "group"] = option("none", "its normalisation layers")


@dataclass(frozen=True)
class Proposals:
    """The region proposal network."""

    anchor_sizes: tuple[float, ...] = option(
        (32.0, 64.0, 128.0, 256.0, 512.0), "√area in pixels; on a pyramid one for each level"
    )
    aspect_ratios: tuple[float, ...] = option((0.5, 1.0, 2.0), "height / width of the anchors")
    anchor_offset: float = option(0.5, "where in its cell an anchor stands; 0 is the corner")
    rounded_anchors: bool = option(False, "anchor corners and steps are rounded to whole pixels")
    convolutions: int = option(1, "3x3 convolutions of the head")
    post_nms: int = option(1000, "regions of an image that leave the RPN")
    post_nms_training: int | None = option(None, "the same in training; none: as post_nms")
    min_size: float = option(0.0, "least side of a region, px of the network's input")
    samples_per_image: int = option(256, "anchors of an image to learn from")
    loss_divisor: Literal["sampled", "fixed"] = option(
        "sampled", "the losses are divided by the anchors sampled, or by those that could have been"
    )
    beta: float = option(1 / 9, "where smooth L1 becomes linear; 0 is L1")


@dataclass(frozen=True)
class Regions:
    """How the branches read their regions."""

    operator: Literal["roi_align", "roi_align_max", "roi_warp", "roi_warp_max", "roi_pool"] = option(
        "roi_align", "the region operator (Table 2c)"
    )
    sampling_ratio: int = option(2, "samples a bin on each axis; 0 for one a cell")
    aligned: bool = option(True, "false: RoIAlign half a cell aside, as in its first published kernels")


@dataclass(frozen=True)
class C4Boxes:
    """The box branch of a C4 network, whose head is res5."""

    samples_per_image: int = option(64, "regions of an image to learn from")
    beta: float = option(1.0, "where smooth L1 becomes linear; 0 is L1")
    score_threshold: float = option(0.05, "least score of a detection")
    nms_threshold: float = option(0.5, "IoU above which the worse of two detections of a class is dropped")
    min_size: float = option(0.0, "least side of a detection, px of the network's input")
    max_detections: int = option(100, "in an image")


@dataclass(frozen=True)
class Boxes(C4Boxes):
    """The box branch with a head of its own."""

    head: Literal["linear", "conv"] = option("linear", "two linear layers, or four convolutions and one")
    hidden: int = option(1024, "outputs of a linear layer")
    norm: Literal["none", "batch", "sync", "group"] = option(
        "none", "normalisation of the head's convolutions"
    )


@dataclass(frozen=True)
class C4Masks:
    """The mask branch of a C4 network."""

    coding: Literal["sigmoid", "softmax", "class_agnostic"] = option(
        "sigmoid", "how masks are encoded (Table 2b, section 4.2)"
    )
    channels: int = option(256, "of the layers before the logits")
    targets: Literal["binary", "soft_legacy"] = option(
        "binary", "target masks: half of a bin covered, or shares as torchvision cuts them"
    )
    target_samples: int = option(2, "samples a bin on each axis of binary targets; 0 for one a pixel")


@dataclass(frozen=True)
class Masks(C4Masks):
    """The mask branch with a head of its own."""

    head: Literal["fcn", "mlp"] = option("fcn", "fully convolutional, or fully connected (Table 2e)")
    norm: Literal["none", "batch", "sync", "group"] = option(
        "none", "normalisation of the fcn's convolutions"
    )
    mlp_layers: int = option(2, "hidden layers of the mlp")
    mlp_hidden: int = option(1024, "outputs of a hidden layer of the mlp")


@dataclass(frozen=True)
class Keypoints:
    """The keypoint branch."""

    count: int = option(17, "keypoints of an object")
    channels: int = option(512, "of its convolutions")


@dataclass(frozen=True)
class PyramidOptions:
    """Of a network with a feature pyramid."""

    input: Input = Input()
    body: Body = Body()
    pyramid: Pyramid = Pyramid()
    proposals: Proposals = Proposals()
    regions: Regions = Regions()
    boxes: Boxes = Boxes(samples_per_image=512)
    masks: Masks | None = Masks()
    keypoints: Keypoints | None = None


@dataclass(frozen=True)
class C4Options:
    """Of a network whose regions are read at stride 16 and go through res5."""

    input: Input = Input()
    body: Body = Body()
    proposals: Proposals = Proposals()
    regions: Regions = Regions()
    boxes: C4Boxes = C4Boxes()
    masks: C4Masks | None = C4Masks()
    keypoints: Keypoints | None = None


@dataclass(frozen=True)
class C5Options:
    """Of a network whose regions are read from the last map of the body."""

    input: Input = Input()
    body: Body = Body()
    proposals: Proposals = Proposals()
    regions: Regions = Regions()
    boxes: Boxes = field(default_factory=Boxes)
    masks: Masks | None = Masks()
    keypoints: Keypoints | None = None


Options = PyramidOptions | C4Options | C5Options
