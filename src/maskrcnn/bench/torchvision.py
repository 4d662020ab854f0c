"""torchvision's Mask R-CNN with our weights, for ``maskrcnn bench --against torchvision``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from maskrcnn.predict.predictor import Predictor
from maskrcnn.recipes import FORMS
from maskrcnn.weights.layouts import TORCHVISION
from maskrcnn.weights.model_checkpoint import ModelCheckpoint

# torchvision's names of the bodies that both libraries have
_BODIES = {
    "resnext101": "resnext101_32x8d",
    **{name: name for name in ("resnet18", "resnet34", "resnet50", "resnet101", "resnext101_64x4d")},
}


def torchvision_network(checkpoint: ModelCheckpoint, size_hw: tuple[int, int]) -> nn.Module:
    """Return torchvision's network with the weights of `checkpoint`, for pictures of `size_hw`, not resized.

    Raises ValueError where torchvision is not installed or has no such network.
    """
    try:
        from torchvision.models import detection
        from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
    except ImportError as error:
        raise ValueError(
            f"a comparison with torchvision needs torchvision: pip install torchvision ({error})"
        ) from None
    form = next((form for form in FORMS if checkpoint.recipe.endswith(form)), "")
    name = checkpoint.recipe.removesuffix(form)
    body = name.removesuffix("_fpn")
    classes: dict[str, Any] = {"": detection.MaskRCNN, "_box": detection.FasterRCNN}
    if body not in _BODIES or not name.endswith("_fpn") or form not in classes:
        recipes = ", ".join(f"{body}_fpn" for body in _BODIES)
        raise ValueError(
            f"{checkpoint.recipe} cannot be compared with torchvision; expected {recipes}, or one of these "
            "with the ending _box"
        )
    backbone = resnet_fpn_backbone(backbone_name=_BODIES[body], weights=None, trainable_layers=3)
    sides = {"min_size": min(size_hw), "max_size": max(size_hw)}
    model = classes[form](backbone, len(checkpoint.class_names) + 1, **sides)
    model.load_state_dict(TORCHVISION.from_native(checkpoint.weights))
    return model


def detect_without_pasting(model: Any, images: list[Tensor]) -> list[dict[str, Tensor]]:
    """Return the detections of torchvision's `model` in its input frame, masks as M × M probabilities."""
    batch, _ = model.transform(images)
    features = model.backbone(batch.tensors)
    proposals, _ = model.rpn(batch, features)
    return model.roi_heads(features, proposals, batch.image_sizes)[0]


def agreement(predictor: Predictor, picture: np.ndarray, theirs: dict[str, Tensor]) -> dict[str, Any]:
    """Return how far our detections in a picture differ from `theirs`, those of torchvision's network.

    "ours" and "theirs" are the numbers of detections; "box_px" and "score" are the largest differences of
    coordinates (px) and scores between a detection of ours and the nearest of theirs of the same class.
    """
    ours = predictor.predict(picture, score=0.0)
    figures: dict[str, Any] = {"ours": len(ours), "theirs": len(theirs["boxes"])}
    if len(ours) and len(theirs["boxes"]):
        their_boxes, their_scores = theirs["boxes"].float().cpu(), theirs["scores"].float().cpu()
        distance = (torch.from_numpy(ours.boxes)[:, None] - their_boxes).abs().amax(-1)
        is_other_class = torch.from_numpy(ours.labels)[:, None] != theirs["labels"].cpu() - 1
        box, nearest = distance.masked_fill(is_other_class, torch.inf).min(1)
        figures["box_px"] = box.max().item()
        figures["score"] = (torch.from_numpy(ours.scores) - their_scores[nearest]).abs().max().item()
    return figures


def to_torchvision(pictures: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Return uint8 pictures as torchvision's networks take them: floats from 0 to 1."""
    return [picture.to(device).float() / 255 for picture in pictures]
