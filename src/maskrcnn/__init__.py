"""Mask R-CNN: train, evaluate, predict and export, on plain PyTorch.

::

    weights = maskrcnn.train("data", recipe="resnet18_fpn", settings=maskrcnn.Settings.of(steps=1000))
    result = maskrcnn.load(weights).predict("picture.jpg")
    result.boxes, result.masks, result.names
    maskrcnn.draw(PIL.Image.open("picture.jpg"), result).save("overlay.png")

Names are imported on first use, so that ``maskrcnn --help`` does not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from maskrcnn import recipes as recipes
    from maskrcnn.evaluation.run import evaluate as evaluate
    from maskrcnn.fast.memory import keep_memory as keep_memory
    from maskrcnn.plan.make import make_plan as make_plan
    from maskrcnn.predict.load import load as load
    from maskrcnn.predict.predictor import Predictor as Predictor
    from maskrcnn.results.draw import draw as draw
    from maskrcnn.results.result import Result as Result
    from maskrcnn.training.loop import resume_training as resume_training
    from maskrcnn.training.loop import train as train
    from maskrcnn.training.settings import Settings as Settings
    from maskrcnn.types import Metadata as Metadata

__version__ = "0.1.0"
__all__ = [
    "Metadata",
    "Predictor",
    "Result",
    "Settings",
    "__version__",
    "draw",
    "evaluate",
    "keep_memory",
    "load",
    "make_plan",
    "recipes",
    "resume_training",
    "train",
]

_HOMES = {
    "Metadata": ("types", "Metadata"),
    "Predictor": ("predict.predictor", "Predictor"),
    "Result": ("results.result", "Result"),
    "Settings": ("training.settings", "Settings"),
    "draw": ("results.draw", "draw"),
    "evaluate": ("evaluation.run", "evaluate"),
    "keep_memory": ("fast.memory", "keep_memory"),
    "load": ("predict.load", "load"),
    "make_plan": ("plan.make", "make_plan"),
    "resume_training": ("training.loop", "resume_training"),
    "train": ("training.loop", "train"),
}


def __getattr__(name: str) -> Any:
    if name == "recipes":
        return import_module("maskrcnn.recipes")
    if name not in _HOMES:
        raise AttributeError(f"module 'maskrcnn' has no attribute {name!r}")
    module, attribute = _HOMES[name]
    return getattr(import_module(f"maskrcnn.{module}"), attribute)
