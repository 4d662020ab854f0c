"""Infers a recipe and its arguments from the names and shapes of weights.

What neither names nor shapes determine, such as the layer that has a stage's stride or the order of the
channels, depends on the library that trained the weights: `LIBRARY_DEFAULTS`, explained in
docs/conventions.md.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from maskrcnn import recipes

Weights = Mapping[str, Tensor]

LIBRARY_DEFAULTS: dict[str, dict[str, Any]] = {
    "torchvision": {
        "aligned": False,
        "norm_eps": 0.0,  # of frozen norms, in the published weights
        "anchor_offset": 0.0,
        "rounded_anchors": True,
        "proposal_size": 1e-3,
        "detection_size": 1e-2,
        "training_proposals": 2000,
        "beta": 1 / 9,
        "mask_truth": "soft_legacy",
    },
    "detectron2": {
        "bgr": True,
        "pixel_mean": (103.53, 116.28, 123.675),
        "pixel_std": (1.0, 1.0, 1.0),
        "stride_in_1x1": True,
        "sampling_ratio": 0,
        "anchor_offset": 0.0,
        "rpn_divisor": "budget",
        "rpn_beta": 0.0,
        "beta": 0.0,
        "mask_samples": 0,
    },
}
# Of Detectron2's ResNeXt, which was trained with Caffe2:
_RESNEXT_DEFAULTS = {"stride_in_1x1": False, "pixel_std": (57.375, 57.12, 58.395)}

_BODIES = {
    (2, 1): "resnet18",
    (6, 1): "resnet50",
    (23, 1): "resnet101",
    (23, 32): "resnext101",
    (23, 64): "resnext101_64x4d",
}  # by the number of blocks of res4 and of groups


class InferredRecipe(NamedTuple):
    """A recipe, its arguments, and its number of classes."""

    recipe: str
    arguments: dict[str, Any]
    num_classes: int


def infer_recipe(weights: Weights, library: str) -> InferredRecipe:
    """Return the recipe of weights under native names that `library` (of `LIBRARY_DEFAULTS`) trained.

    Raises ValueError where no recipe builds such a network, and an arithmetic, lookup or type error where a
    tensor that every network has is missing or has another number of dimensions.
    """
    if "box_branch.cls_score.weight" not in weights:
        raise ValueError("the weights have no box predictor; pass a backbone to a training by --init")
    body = "backbone.body." if any(name.startswith("backbone.body.") for name in weights) else "backbone."
    recipe = f"{_body(weights, body)}_{_form(weights)}"
    if recipe not in recipes.RECIPES:
        raise ValueError(f"the weights are of a {recipe}, but the recipes are {', '.join(recipes.RECIPES)}")
    num_classes = len(weights["box_branch.cls_score.weight"]) - 1
    inferred = _heads(weights, num_classes) | _norms(weights, body) | _input(weights, body)
    arguments = _library_defaults(library, recipe) | inferred
    defaults = vars(recipes.Options())
    arguments = {name: value for name, value in arguments.items() if value != defaults[name]}
    return InferredRecipe(recipe, arguments, num_classes)


def backbone_defaults(weights: Weights) -> dict[str, Any]:
    """Return the arguments that a Caffe2 backbone, under native names, was trained with."""
    names = ("bgr", "pixel_mean", "pixel_std", "stride_in_1x1")
    defaults = _library_defaults("detectron2", _body(weights, ""))
    return {name: defaults[name] for name in names if defaults[name]}


def _library_defaults(library: str, body: str) -> dict[str, Any]:
    defaults = LIBRARY_DEFAULTS[library]
    if library == "detectron2" and "resnext" in body:
        return defaults | _RESNEXT_DEFAULTS
    if body.startswith(("resnet18", "resnet34")):  # their blocks have no 1×1 convolution before the 3×3
        return defaults | {"stride_in_1x1": False}
    return defaults


def _body(weights: Weights, body: str) -> str:
    depth = _count(weights, rf"{re.escape(body)}res4\.(\d+)\.")
    is_basic = f"{body}res2.0.conv3.weight" not in weights
    conv = weights.get(f"{body}res2.0.conv2.weight")
    groups = 0 if conv is None else conv.shape[0] // conv.shape[1]
    if is_basic and depth == 6:
        return "resnet34"
    if (depth, groups) not in _BODIES:
        raise ValueError(
            f"no recipe has a body with {depth} blocks in res4 and convolutions in {groups} groups"
        )
    return _BODIES[depth, groups]


def _form(weights: Weights) -> str:
    if "backbone.lateral.0.conv.weight" in weights:
        return "fpn"
    if any(name.startswith("box_regions.head.res5.") for name in weights):
        return "c4"
    return "dc5"  # a C5 without dilation has the same names and shapes, but none is published


def _heads(weights: Weights, num_classes: int) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "masks": "mask_branch.head.logits.weight" in weights,
        "rpn_convolutions": _count(weights, r"rpn\.head\.convs\.(\d+)\."),
    }
    if arguments["masks"] and len(weights["mask_branch.head.logits.weight"]) != num_classes:
        arguments["mask_coding"] = "class_agnostic"
    if "keypoint_branch.deconv.weight" in weights:
        channels, keypoints = weights["keypoint_branch.deconv.weight"].shape[:2]
        arguments |= {"keypoint_channels": channels, "keypoints": keypoints}
    if "box_branch.head.convs.0.conv.weight" in weights:
        arguments["box_head"] = "conv"
    if "box_branch.head.hidden.0.weight" in weights:
        arguments["hidden"] = len(weights["box_branch.head.hidden.0.weight"])
    if "backbone.lateral.0.conv.weight" in weights:
        arguments["channels"] = len(weights["backbone.lateral.0.conv.weight"])
    return arguments


def _norms(weights: Weights, body: str) -> dict[str, str]:
    """Return the kinds of norms: only BatchNorm counts its steps, and GroupNorm has no statistics."""
    arguments = {}
    if f"{body}stem.norm.running_mean" not in weights:
        arguments["norm"] = "group"
    elif any(name.startswith(body) and name.endswith("num_batches_tracked") for name in weights):
        arguments["norm"] = "batch"
    scales = [name for name in weights if re.search(r"(lateral|output|convs)\.\d+\.norm\.weight$", name)]
    if scales:
        has_statistics = scales[0].replace("weight", "running_mean") in weights
        arguments["head_norm"] = "batch" if has_statistics else "group"
    return arguments


def _input(weights: Weights, body: str) -> dict[str, Any]:
    arguments: dict[str, Any] = {"in_channels": weights[f"{body}stem.conv.weight"].shape[1]}
    if "pixel_mean" in weights and "pixel_std" in weights:
        mean, std = (tuple(weights[f"pixel_{name}"].flatten().tolist()) for name in ("mean", "std"))
        arguments |= {
            "pixel_mean": tuple(round(m, 4) for m in mean),
            "pixel_std": tuple(round(s, 4) for s in std),
        }
        arguments["bgr"] = len(mean) == 3 and mean[0] < mean[2]  # ImageNet's pictures are more red than blue
    return arguments


def _count(weights: Weights, pattern: str) -> int:
    return len({match[1] for name in weights if (match := re.match(pattern, name))})
