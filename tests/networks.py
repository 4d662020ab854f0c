"""A small network whose answers are spread out, so that rounding does not decide which is first."""

from pathlib import Path

import torch

from maskrcnn.weights.model_checkpoint import ModelCheckpoint, write_model

SMALL = {"channels": 16, "hidden": 16, "proposals": 60, "max_detections": 12, "frozen": ()}


def small(recipe: str = "resnet18_fpn", **options) -> ModelCheckpoint:
    """Return a network of random weights for pictures of 160 px."""
    torch.manual_seed(0)
    trained = ModelCheckpoint(
        recipe=recipe,
        arguments={**SMALL, **options},
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
    louder |= {"mask_branch.head.logits.weight": 300}
    for name, tensor in weights.items():
        tensor *= next((factor for part, factor in louder.items() if part in name), 1)
    trained.weights.update(weights)
    return trained


def saved(trained: ModelCheckpoint, folder: Path) -> Path:
    """Write a network as a checkpoint has it."""
    write_model(folder / "network.pt", trained)
    return folder / "network.pt"
