"""Which network do weights belong to? Names and shapes say nearly all; the library that made them the rest.

What no name or shape tells, such as where the stride stands or in which order the channels come, is a habit
of the library that trained the weights: `LIBRARY_DEFAULTS` lists them, and docs/conventions.md explains them.
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
        "norm_eps": 0.0,  # of norms that do not learn: those of the published weights
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
# Of Detectron2's ResNeXt, which was trained by Caffe2:
_RESNEXT_HABITS = {"stride_in_1x1": False, "pixel_std": (57.375, 57.12, 58.395)}

_BODIES = {
    (2, 1): "resnet18",
    (6, 1): "resnet50",
    (23, 1): "resnet101",
    (23, 32): "resnext101",
    (23, 64): "resnext101_64x4d",
}  # by the blocks of res4 and the groups


class InferredRecipe(NamedTuple):
    """A recipe, its arguments, and the number of classes it is built for."""

    recipe: str
    arguments: dict[str, Any]
    num_classes: int


def infer_recipe(weights: Weights, library: str) -> InferredRecipe:
    """Return the network of weights under our names, which `library` (of `LIBRARY_DEFAULTS`) trained.

    Raises ValueError, saying what was found, where no recipe makes such a network.
    """
    if "box_branch.cls_score.weight" not in weights:
        raise ValueError("there is no box predictor in them: a backbone's weights start a training by --init")
    body = "backbone.body." if any(name.startswith("backbone.body.") for name in weights) else "backbone."
    recipe = f"{_body(weights, body)}_{_form(weights)}"
    if recipe not in recipes.RECIPES:
        raise ValueError(
            f"they belong to a {recipe}, and there is no such recipe: {', '.join(recipes.RECIPES)}"
        )
    num_classes = len(weights["box_branch.cls_score.weight"]) - 1
    found = _heads(weights, num_classes) | _norms(weights, body) | _input(weights, body)
    habits = _habits(library, recipe)
    usual = vars(recipes.Options())
    arguments = {name: value for name, value in (habits | found).items() if value != usual[name]}
    return InferredRecipe(recipe, arguments, num_classes)


def backbone_defaults(weights: Weights) -> dict[str, Any]:
    """Return the arguments that a Caffe2 backbone, under our names, needs to see what it was trained on."""
    names = ("bgr", "pixel_mean", "pixel_std", "stride_in_1x1")
    habits = _habits("detectron2", _body(weights, ""))
    return {name: habits[name] for name in names if habits[name]}


def _habits(library: str, body: str) -> dict[str, Any]:
    habits = LIBRARY_DEFAULTS[library]
    if library == "detectron2" and "resnext" in body:
        return habits | _RESNEXT_HABITS
    if body.startswith(("resnet18", "resnet34")):  # no block of theirs has a 1×1 before the 3×3
        return habits | {"stride_in_1x1": False}
    return habits


def _body(weights: Weights, body: str) -> str:
    depth = _count(weights, rf"{re.escape(body)}res4\.(\d+)\.")
    is_basic = f"{body}res2.0.conv3.weight" not in weights
    conv = weights.get(f"{body}res2.0.conv2.weight")
    groups = 0 if conv is None else conv.shape[0] // conv.shape[1]
    if is_basic and depth == 6:
        return "resnet34"
    if (depth, groups) not in _BODIES:
        raise ValueError(
            f"their body has {depth} blocks in res4, in {groups} groups, which is no body we have"
        )
    return _BODIES[depth, groups]


def _form(weights: Weights) -> str:
    if "backbone.lateral.0.conv.weight" in weights:
        return "fpn"
    if any(name.startswith("box_regions.head.res5.") for name in weights):
        return "c4"
    return "dc5"  # a C5 that is not dilated has the same names and shapes, and nobody published one


def _heads(weights: Weights, num_classes: int) -> dict[str, Any]:
    found: dict[str, Any] = {
        "masks": "mask_branch.head.logits.weight" in weights,
        "rpn_convolutions": _count(weights, r"rpn\.head\.convs\.(\d+)\."),
    }
    if found["masks"] and len(weights["mask_branch.head.logits.weight"]) != num_classes:
        found["mask_coding"] = "class_agnostic"
    if "keypoint_branch.deconv.weight" in weights:
        found["keypoint_channels"], found["keypoints"] = weights["keypoint_branch.deconv.weight"].shape[:2]
    if "box_branch.head.convs.0.conv.weight" in weights:
        found["box_head"] = "conv"
    if "box_branch.head.hidden.0.weight" in weights:
        found["hidden"] = len(weights["box_branch.head.hidden.0.weight"])
    if "backbone.lateral.0.conv.weight" in weights:
        found["channels"] = len(weights["backbone.lateral.0.conv.weight"])
    return found


def _norms(weights: Weights, body: str) -> dict[str, str]:
    """Return the kinds of norms. Only norms whose statistics move count their steps; groups have none."""
    found = {}
    if f"{body}stem.norm.running_mean" not in weights:
        found["norm"] = "group"
    elif any(name.startswith(body) and name.endswith("num_batches_tracked") for name in weights):
        found["norm"] = "batch"
    learnt = [name for name in weights if re.search(r"(lateral|output|convs)\.\d+\.norm\.weight$", name)]
    if learnt:
        has_statistics = learnt[0].replace("weight", "running_mean") in weights
        found["head_norm"] = "batch" if has_statistics else "group"
    return found


def _input(weights: Weights, body: str) -> dict[str, Any]:
    found: dict[str, Any] = {"in_channels": weights[f"{body}stem.conv.weight"].shape[1]}
    if "pixel_mean" in weights and "pixel_std" in weights:
        mean, std = (tuple(weights[f"pixel_{name}"].flatten().tolist()) for name in ("mean", "std"))
        found |= {
            "pixel_mean": tuple(round(m, 4) for m in mean),
            "pixel_std": tuple(round(s, 4) for s in std),
        }
        found["bgr"] = len(mean) == 3 and mean[0] < mean[2]  # ImageNet's pictures are more red than blue
    return found


def _count(weights: Weights, pattern: str) -> int:
    return len({match[1] for name in weights if (match := re.match(pattern, name))})
