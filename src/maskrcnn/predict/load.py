"""Load a predictor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from maskrcnn.data.transforms import fit
from maskrcnn.fast.acceleration import PLAIN, Acceleration
from maskrcnn.network.model import MaskRCNN
from maskrcnn.predict.predictor import Predictor
from maskrcnn.runtimes.network import ExportedNetwork
from maskrcnn.runtimes.read import is_exported, read_exported
from maskrcnn.weights.model_checkpoint import ModelCheckpoint, read_model


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
    """Return a trained network, ready to look at pictures.

    `source` is a checkpoint of this library, a file of torchvision's or Detectron2's, or the name of what
    they published, such as "torchvision/maskrcnn_resnet50_fpn_v2"; `class_names` and `options` of the recipe
    say what such a file cannot. A file of ``maskrcnn export`` does as well. `precision`, `compile` and
    `capture` make a network faster on some machines, see `Acceleration`. Errors as those of `read_model`,
    `read_exported` and `Speed.of`.
    """
    speed = Acceleration(precision, compile, capture)
    if is_exported(source):
        if class_names or options or speed != PLAIN:
            raise ValueError(
                f"{source} is exported, with its class names, options and precision: for others, export again"
            )
        return predictor_of_exported(read_exported(Path(source), str(device)))
    trained = read_model(source, class_names=class_names, options=options)
    return predictor_of(trained, trained.build(), device, speed)


def predictor_of(
    trained: ModelCheckpoint,
    model: MaskRCNN,
    device: str | torch.device = "auto",
    speed: Acceleration = PLAIN,
) -> Predictor:
    """Return a predictor that looks at pictures with `model` and knows what `trained` knows."""
    return Predictor(
        model,
        class_names=trained.class_names,
        category_ids=trained.category_ids,
        short_side=trained.short_side,
        long_side=trained.long_side,
        device=device,
        skeleton=trained.skeleton,
        keypoint_names=trained.keypoint_names,
        speed=speed,
    )


def predictor_of_exported(network: ExportedNetwork) -> Predictor:
    """Return a predictor that looks at pictures with an exported network and knows what its file says."""
    about = network.description
    predictor = Predictor(
        network,
        class_names=about.labels.class_names,
        category_ids=about.labels.category_ids,
        short_side=about.short_side,
        long_side=about.long_side,
        skeleton=about.labels.skeleton,
        keypoint_names=about.labels.keypoint_names,
    )
    if about.input.size_hw is not None:
        predictor.resize = fit(about.input.size_hw)
    return predictor
