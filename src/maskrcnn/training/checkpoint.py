"""One file that holds a training: enough to predict from it alone, and to go on where it was left."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, get_origin, get_type_hints

import torch
from torch import Tensor

from maskrcnn import recipes
from maskrcnn.network.model import MaskRCNN
from maskrcnn.predict import Predictor, replacing
from maskrcnn.training.settings import Settings, settings_from

_FORMAT = 1


@dataclass(frozen=True)
class Checkpoint:
    """A training as it stands after `step` steps.

    Its random states are `settings.seed` and `step`: every step draws from a stream of its own that these two
    name, and so do the order and the augmentation of the pictures.
    """

    recipe: str
    recipe_arguments: dict[str, Any]
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]  # the data set's own, in the order of `class_names`
    keypoint_names: tuple[str, ...]
    skeleton: tuple[tuple[int, ...], ...]
    settings: Settings
    model: dict[str, Tensor]
    optimiser: dict[str, Any]
    scaler: dict[str, Any]  # of fp16's gradients
    step: int
    elapsed: float  # seconds
    metrics: dict[str, Any]  # of the last evaluation; empty before the first
    best_ap: float  # percent, of masks where there are masks; -1 before the first evaluation


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, whole or not at all."""
    values = {field.name: getattr(checkpoint, field.name) for field in fields(checkpoint)}
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as unfinished:
        torch.save({**values, "format": _FORMAT, "settings": asdict(checkpoint.settings)}, unfinished)


def load(path: str | Path) -> Checkpoint:
    """Read a checkpoint on the CPU; nothing in the file is executed.

    Raises FileNotFoundError when there is no such file, and ValueError when it is no checkpoint of ours.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint")
    try:
        values = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or hostile file can raise anything
        raise ValueError(
            f"{path} is not a checkpoint that torch can read safely, or it is damaged"
        ) from error
    try:
        return _checked(values)
    except ValueError as error:
        raise ValueError(f"{path} is not a checkpoint of this version of maskrcnn: {error}") from error


def _checked(values: Any) -> Checkpoint:
    if not isinstance(values, dict) or "format" not in values:
        raise ValueError("it does not say its format; weights of other origin start a training by --init")
    if values.pop("format") != _FORMAT:
        raise ValueError(f"its format is not {_FORMAT}")
    kinds = get_type_hints(Checkpoint) | {"settings": dict}
    if values.keys() != kinds.keys():
        raise ValueError(f"it should hold {', '.join(kinds)}")
    for name, kind in kinds.items():
        if not isinstance(values[name], get_origin(kind) or kind):
            raise ValueError(f"{name} is a {type(values[name]).__name__}")
    return Checkpoint(**{**values, "settings": settings_from(values["settings"])})


def build_model(checkpoint: Checkpoint) -> MaskRCNN:
    """Build the network that the checkpoint names, with its weights; ValueError when the two do not fit."""
    recipe = recipes.find(checkpoint.recipe)
    try:
        model = recipe(len(checkpoint.class_names), **checkpoint.recipe_arguments)
        model.load_state_dict(checkpoint.model)
    except (TypeError, RuntimeError) as error:
        raise ValueError(f"the checkpoint does not fit the recipe {checkpoint.recipe}: {error}") from error
    return model


def predictor_of(checkpoint: Checkpoint, model: MaskRCNN, device: str | torch.device = "auto") -> Predictor:
    """Return a predictor that looks at pictures with `model` in the size in which the training evaluates."""
    short_side, long_side = checkpoint.settings.test_sides
    return Predictor(
        model,
        class_names=checkpoint.class_names,
        category_ids=checkpoint.category_ids,
        short_side=short_side,
        long_side=long_side,
        device=device,
        skeleton=checkpoint.skeleton,
        keypoint_names=checkpoint.keypoint_names,
    )


def load_predictor(path: str | Path, device: str | torch.device = "auto") -> Predictor:
    """Return a trained network, ready to look at pictures, from its checkpoint; errors as `load`'s."""
    checkpoint = load(path)
    return predictor_of(checkpoint, build_model(checkpoint), device)
