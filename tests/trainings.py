"""Trainings of a few steps with a tiny network, and what they log."""

import json
from pathlib import Path

import torch

from maskrcnn.training.checkpoint import load
from maskrcnn.training.loop import train
from maskrcnn.training.settings import Settings

TINY_RECIPE = {
    "pyramid.channels": 16,
    "masks.channels": 16,
    "boxes.hidden": 16,
    "body.norm": "group",
    "body.frozen": (),
    "boxes.samples_per_image": 16,
    "boxes.max_detections": 5,
}


def tiny(**changes) -> Settings:
    """Return settings of four steps, with as much chance in them as possible."""
    values = {"steps": 4, "batch_size": 2, "warmup_steps": 2, "short_sides": (48, 64), "long_side": 64}
    values |= {"jitter": (0.2, 0.2, 0.2), "workers": 0, "scale": (0.8, 1.25), "crop": (48, 48)}
    values |= {"object_crops": 0.5, "quarter_turns": 0.5, "copy_paste": 0.5, "repeat_threshold": 0.9}
    values |= {"log_every": 1, "save_every": 100, "eval_every": None}
    return Settings.of(**{**values, **changes})


def run(data: Path, output: Path, settings: Settings, **more) -> Path:
    """Train the tiny network on the CPU."""
    more = {"recipe": "resnet18_fpn", "recipe_arguments": TINY_RECIPE, "device": "cpu", **more}
    return train(data, output=output, settings=settings, **more)


def records(output: Path) -> list[dict]:
    """Return what a training logged."""
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


def losses(output: Path) -> list[dict]:
    """Return the records of the steps, without their time."""
    return [{k: v for k, v in r.items() if k != "seconds"} for r in records(output) if "loss" in r]


def assert_same_training(one: Path, other: Path) -> None:
    """Check that two trainings logged the same steps and have the same weights, to the bit."""
    assert losses(one) == losses(other)
    ours, theirs = (load(folder / "last.pt") for folder in (one, other))
    assert ours.step == theirs.step
    weights = ours.trained.weights
    assert all(torch.equal(weights[name], tensor) for name, tensor in theirs.trained.weights.items())
