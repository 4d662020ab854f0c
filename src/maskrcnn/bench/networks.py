"""The contestants: a network of ours and torchvision's, with the same weights.

The weights are a fixed draw, scaled so that activations stay finite, proposals fill their slots and
detections theirs, as with trained weights on a crowded picture: no checkpoint is needed.
"""

from __future__ import annotations

import re
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from maskrcnn.recipes import FORMS
from maskrcnn.weights.infer import LIBRARY_DEFAULTS
from maskrcnn.weights.layouts import TORCHVISION
from maskrcnn.weights.model_checkpoint import ModelCheckpoint

CLASSES = 90
_EPS = 1e-5  # of torchvision's frozen norms, unless it loads published weights
# Factors on a variance-preserving draw: residual branches are damped, scores spread over the thresholds.
_FACTORS = {
    r"backbone\..*res\d\.\d+\.norm3\.weight": 0.2,
    r"lateral.*weight": 0.3,
    r"rpn\.head\.deltas\.weight": 0.1,
    r"cls_score\.weight": 0.6,
    r"bbox_pred\.weight": 0.7,
    r"mask_branch\.head\.logits\.weight": 2.0,
}


def ours(recipe: str) -> ModelCheckpoint:
    """Return a network of ours as torchvision would have it, with drawn weights. Raises as `find` does."""
    trained = ModelCheckpoint(
        recipe=recipe,
        arguments={**LIBRARY_DEFAULTS["torchvision"], "norm_eps": _EPS},
        class_names=tuple(f"class {number}" for number in range(_classes(recipe))),
        category_ids=tuple(range(1, _classes(recipe) + 1)),
        keypoint_names=(),
        skeleton=(),
        short_side=None,
        long_side=100_000,
        weights={},
    )
    draw = torch.Generator().manual_seed(0)
    for name, value in trained.build_untrained().state_dict().items():
        is_kept = name.startswith("normalise.") or "running_" in name or name.endswith("tracked")
        trained.weights[name] = value if is_kept else _drawn(name, value.shape, draw)
    return trained


def _classes(recipe: str) -> int:
    return 1 if recipe.endswith("_keypoint") else CLASSES


def _drawn(name: str, shape: torch.Size, draw: torch.Generator) -> Tensor:
    value = torch.randn(shape, generator=draw)
    factor = next((factor for pattern, factor in _FACTORS.items() if re.search(pattern, name)), 1.0)
    if len(shape) > 1:
        return value * factor * (2 / shape[1:].numel()) ** 0.5
    return (1 + 0.1 * value) * factor if name.endswith("weight") else 0.02 * value


_BODIES = {
    "resnext101": "resnext101_32x8d",
    **{name: name for name in ("resnet18", "resnet34", "resnet50", "resnet101", "resnext101_64x4d")},
}


def theirs(trained: ModelCheckpoint, size_hw: tuple[int, int]) -> nn.Module:
    """Return torchvision's network with the same weights, for pictures of `size_hw` that it does not resize.

    Raises ValueError where torchvision is not installed or has no such network.
    """
    try:
        from torchvision.models import detection
        from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
    except ImportError as error:
        raise ValueError(
            f"--against torchvision needs torchvision: pip install torchvision ({error})"
        ) from None
    form = next((form for form in FORMS if trained.recipe.endswith(form)), "")
    body = trained.recipe.removesuffix(form).removesuffix("_fpn")
    if body not in _BODIES or not trained.recipe.removesuffix(form).endswith("_fpn"):
        there = ", ".join(f"{name}_fpn" for name in _BODIES)
        raise ValueError(f"torchvision has no {trained.recipe}: it can be compared in {there}, and as _box")
    kinds: dict[str, Any] = {"": detection.MaskRCNN, "_box": detection.FasterRCNN}
    if form not in kinds:
        raise ValueError(f"{trained.recipe} cannot be compared with torchvision's: choose another form")
    backbone = resnet_fpn_backbone(backbone_name=_BODIES[body], weights=None, trainable_layers=3)
    sides = {"min_size": min(size_hw), "max_size": max(size_hw)}
    model = kinds[form](backbone, len(trained.class_names) + 1, **sides)
    model.load_state_dict(TORCHVISION.from_native(trained.weights))
    return model


def picture(size_hw: tuple[int, int]) -> UInt8[Tensor, "3 H W"]:
    """Return noise on several scales."""
    draw = torch.Generator().manual_seed(0)
    layers: list[Float[Tensor, "1 3 _h _w"]] = [
        torch.rand(1, 3, max(1, size_hw[0] // scale), max(1, size_hw[1] // scale), generator=draw)
        for scale in (1, 8, 32)
    ]
    mixed = torch.stack([F.interpolate(layer, size_hw, mode="bilinear")[0] for layer in layers]).mean(0)
    return (mixed * 255).to(torch.uint8)
