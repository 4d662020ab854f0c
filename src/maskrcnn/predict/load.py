"""From the name of a network to its predictor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from maskrcnn.device import resolve_device
from maskrcnn.fast.acceleration import PLAIN, Acceleration
from maskrcnn.predict.predictor import Predictor
from maskrcnn.runtimes.read import is_exported, read_exported
from maskrcnn.weights.model_checkpoint import read_model


def load(
    source: str | Path,
    device: str | torch.device = "auto",
    *,
    class_names: Sequence[str] | None = None,
    options: Mapping[str, Any] | None = None,
    precision: Literal["float32", "bf16"] = "float32",
    compile: bool = False,
    capture: bool = False,
) -> Predictor:
    """Return a predictor for a trained network.

    `source` is a checkpoint of this library, torchvision or Detectron2, a published name such as
    "torchvision/maskrcnn_resnet50_fpn_v2", or a file of ``maskrcnn export``. `class_names` and `options` of
    the recipe replace what a checkpoint says, or cannot say. `precision`, `compile` and `capture` are those
    of `Acceleration`. An exported file has all of these fixed; its `device` is one of its runtime's.

    Raises as `read_model`, `read_exported`, `resolve_device` and `Predictor.from_checkpoint` do, and
    ValueError for settings of an exported file that only another export can change.
    """
    acceleration = Acceleration(precision, compile, capture)
    if is_exported(source):
        if class_names or options or acceleration != PLAIN:
            raise ValueError(
                f"{source} is an exported network, whose class names, options and precision are fixed: "
                "export it again to change them"
            )
        return Predictor.from_exported(read_exported(Path(source), str(device)))
    place = resolve_device(device)  # checked before a long download
    checkpoint = read_model(source, class_names=class_names, options=options)
    return Predictor.from_checkpoint(checkpoint, device=place, acceleration=acceleration)
