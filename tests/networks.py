"""A small network whose answers are spread out, so that rounding does not decide which is first."""

from pathlib import Path

import torch

from maskrcnn import recipes
from maskrcnn.plain import options_of
from maskrcnn.weights.model_checkpoint import ModelCheckpoint, write_model

SMALL = {
    "pyramid.channels": 16,
    "masks.channels": 16,
    "boxes.hidden": 16,
    "proposals.post_nms": 60,
    "boxes.max_detections": 12,
    "body.frozen": (),
}


def fitting(recipe: str, values: dict) -> dict:
    """Return those of some options that a recipe has."""
    usual = recipes.options_of_recipe(recipe)
    known = [name for name in options_of(usual) if usual.masks or not name.startswith("masks.")]
    return {name: value for name, value in values.items() if name in known}


def small(recipe: str = "resnet18_fpn", **options) -> ModelCheckpoint:
    """Return a network of random weights for pictures of 160 px."""
    torch.manual_seed(0)
    trained = ModelCheckpoint(
        recipe=recipe,
        arguments={**fitting(recipe, SMALL), **options},
        class_names=("cat", "dog", "hen"),
        category_ids=(17, 18, 40),
        keypoint_names=(),
        skeleton=(),
        short_side=160,
        long_side=320,
        weights={},
    )
    weights = trained.build_untrained().state_dict()
    louder = {"cls_score.weight": 300, "bbox_pred.weight": 30, "objectness.weight": 30, "rpn.head.deltas": 10}
    louder |= {"branches.masks.head.logits.weight": 300}
    for name, tensor in weights.items():
        tensor *= next((factor for part, factor in louder.items() if part in name), 1)
    trained.weights.update(weights)
    return trained


def saved(trained: ModelCheckpoint, folder: Path) -> Path:
    """Write a network as a checkpoint has it."""
    write_model(folder / "network.pt", trained)
    return folder / "network.pt"
