"""Infers a recipe and its arguments from the names and shapes of weights.

What no name or shape tells, such as where the stride stands or in which order the channels come, is taken
from `LIBRARY_DEFAULTS`: what each library does. docs/conventions.md explains the differences.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from maskrcnn import recipes
from maskrcnn.plain import options_of

Weights = Mapping[str, Tensor]

LIBRARY_DEFAULTS: dict[str, dict[str, Any]] = {
    "torchvision": {
        "regions.aligned": False,
        "body.norm_eps": 0.0,  # of norms that do not learn: those of the published weights
        "proposals.anchor_offset": 0.0,
        "proposals.rounded_anchors": True,
        "proposals.min_size": 1e-3,
        "boxes.min_size": 1e-2,
        "proposals.post_nms_training": 2000,
        "boxes.beta": 1 / 9,
        "masks.targets": "soft_legacy",
    },
    "detectron2": {
        "input.bgr": True,
        "input.mean": (103.53, 116.28, 123.675),
        "input.std": (1.0, 1.0, 1.0),
        "body.stride_in_1x1": True,
        "regions.sampling_ratio": 0,
        "proposals.anchor_offset": 0.0,
        "proposals.loss_divisor": "fixed",
        "proposals.beta": 0.0,
        "boxes.beta": 0.0,
        "masks.target_samples": 0,
    },
}
# Of Detectron2's ResNeXt, which was trained by Caffe2:
_RESNEXT_DEFAULTS = {"input.std": (57.375, 57.12, 58.395)}

_BODIES = {
    (2, 1): "resnet18",
    (6, 1): "resnet50",
    (23, 1): "resnet101",
    (23, 32): "resnext101",
    (23, 64): "resnext101_64x4d",
}  # by the number of blocks of res4 and of groups


class InferredRecipe(NamedTuple):
    """A recipe, the options that are not its own, by their dotted names, and its number of classes."""

    recipe: str
    arguments: dict[str, Any]
    num_classes: int


def infer_recipe(weights: Weights, library: str) -> InferredRecipe:
    """Return the network of weights under our names that `library` (of `LIBRARY_DEFAULTS`) trained.

    Raises ValueError, saying what the weights are of, where no recipe makes such a network.
    """
    if "box_branch.cls_score.weight" not in weights:
        raise ValueError("it has no box predictor: weights of a backbone start a training by --init")
    body = "backbone.body." if any(name.startswith("backbone.body.") for name in weights) else "backbone."
    recipe = f"{_body(weights, body)}_{_architecture(weights)}"
    if recipe not in recipes.RECIPES:
        raise ValueError(f"it is a {recipe}, which is not one of the recipes: {', '.join(recipes.RECIPES)}")
    num_classes = len(weights["box_branch.cls_score.weight"]) - 1
    inferred = (
        _branches(weights, num_classes) | _layers(weights) | _norms(weights, body) | _input(weights, body)
    )
    known = options_of(recipes.options_of_recipe(recipe))
    arguments = {
        name: value
        for name, value in (_defaults(library, recipe) | inferred).items()
        if name in known and (known[name].value != value or name.startswith("keypoints."))
    }
    if "masks" in arguments:  # there are none, so nothing can be said of them
        arguments = {name: value for name, value in arguments.items() if not name.startswith("masks.")}
    return InferredRecipe(recipe, arguments, num_classes)


def backbone_defaults(weights: Weights) -> dict[str, Any]:
    """Return the options that a Caffe2 backbone, under our names, needs to see what it was trained on."""
    names = ["input.bgr", "input.mean", "input.std", "body.stride_in_1x1"]
    body = _body(weights, "")
    defaults = _defaults("detectron2", body)
    if "resnext" in body:
        names.remove("body.stride_in_1x1")  # its blocks have no choice
    return {name: defaults[name] for name in names}


def library_defaults(library: str, recipe: str) -> dict[str, Any]:
    """Return the options with which a recipe does what `library` does, where it differs from ours."""
    options = recipes.options_of_recipe(recipe)
    known, absent = options_of(options), () if options.masks else ("masks.",)
    defaults = _defaults(library, recipe)
    return {name: defaults[name] for name in defaults if name in known and not name.startswith(absent)}


def _defaults(library: str, body: str) -> dict[str, Any]:
    defaults = LIBRARY_DEFAULTS[library]
    return defaults | _RESNEXT_DEFAULTS if library == "detectron2" and "resnext" in body else defaults


def body_recipe(weights: Weights) -> str:
    """Return the recipe with a pyramid whose backbone has these weights. Raises ValueError where none has."""
    if any(name.startswith("features.") for name in weights):
        return "mobilenet_v2_fpn"
    return f"{_body(weights, '')}_fpn"


def _body(weights: Weights, body: str) -> str:
    depth = _count(weights, rf"{re.escape(body)}res4\.(\d+)\.")
    is_basic = f"{body}res2.0.conv3.weight" not in weights
    conv = weights.get(f"{body}res2.0.conv2.weight")
    groups = 0 if conv is None else conv.shape[0] // conv.shape[1]
    if is_basic and depth == 6:
        return "resnet34"
    if (depth, groups) not in _BODIES:
        raise ValueError(
            f"its backbone has {depth} blocks in res4 with {groups} groups, which none of the backbones has: "
            f"{', '.join(sorted({'resnet34', *_BODIES.values()}))}"
        )
    return _BODIES[depth, groups]


def _architecture(weights: Weights) -> str:
    if "backbone.lateral.0.conv.weight" in weights:
        return "fpn"
    if any(name.startswith("box_branch.res5.") for name in weights):
        return "c4"
    return "dc5"  # a C5 without dilation has the same names and shapes, but none is published


def _branches(weights: Weights, num_classes: int) -> dict[str, Any]:
    inferred: dict[str, Any] = {}
    if "branches.masks.head.logits.weight" not in weights:
        inferred["masks"] = None
    elif len(weights["branches.masks.head.logits.weight"]) != num_classes:
        inferred["masks.coding"] = "class_agnostic"
    if "branches.keypoints.deconv.weight" in weights:
        channels, count = weights["branches.keypoints.deconv.weight"].shape[:2]
        inferred |= {"keypoints.count": count, "keypoints.channels": channels}
    return inferred


def _layers(weights: Weights) -> dict[str, Any]:
    """Return kinds and widths of the layers."""
    inferred: dict[str, Any] = {"proposals.convolutions": _count(weights, r"rpn\.head\.convs\.(\d+)\.")}
    if "box_branch.head.convs.0.conv.weight" in weights:
        inferred["boxes.head"] = "conv"
    if "box_branch.head.hidden.0.weight" in weights:
        inferred["boxes.hidden"] = len(weights["box_branch.head.hidden.0.weight"])
    if "backbone.lateral.0.conv.weight" in weights:
        inferred["pyramid.channels"] = len(weights["backbone.lateral.0.conv.weight"])
    if "branches.masks.head.deconv.weight" in weights:
        inferred["masks.channels"] = weights["branches.masks.head.deconv.weight"].shape[1]
    return inferred


_NORMED = {
    "pyramid.norm": "backbone.lateral.0.norm",
    "boxes.norm": "box_branch.head.convs.0.norm",
    "masks.norm": "branches.masks.head.convs.0.norm",
}


def _norms(weights: Weights, body: str) -> dict[str, str]:
    """Return the kinds of norms. Only norms whose statistics move count their steps; groups have none."""
    inferred = {}
    if f"{body}stem.norm.running_mean" not in weights:
        inferred["body.norm"] = "group"
    elif any(name.startswith(body) and name.endswith("num_batches_tracked") for name in weights):
        inferred["body.norm"] = "batch"
    for option, layer in _NORMED.items():
        if f"{layer}.weight" in weights:
            inferred[option] = "batch" if f"{layer}.running_mean" in weights else "group"
    return inferred


def _input(weights: Weights, body: str) -> dict[str, Any]:
    inferred: dict[str, Any] = {"input.channels": weights[f"{body}stem.conv.weight"].shape[1]}
    if "pixel_mean" in weights and "pixel_std" in weights:
        mean, std = (
            tuple(round(value, 4) for value in weights[f"pixel_{name}"].flatten().tolist())
            for name in ("mean", "std")
        )
        is_bgr = len(mean) == 3 and mean[0] < mean[2]  # ImageNet's pictures are more red than blue
        inferred |= {"input.mean": mean, "input.std": std, "input.bgr": is_bgr}
    return inferred


def _count(weights: Weights, pattern: str) -> int:
    return len({match[1] for name in weights if (match := re.match(pattern, name))})
