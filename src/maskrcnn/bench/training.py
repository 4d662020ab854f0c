"""The command ``maskrcnn bench --train``: how long a training step takes on this machine, and its memory.

A step is forward, backward and SGD, with stem, res2 and all norms frozen, as is usual for fine-tuning, on
pictures of noise with bright ellipses. `benchmarks/train_torchvision.py` compares it with torchvision's.
"""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Callable, Mapping
from itertools import repeat
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from rich.table import Table
from torch import Tensor

from maskrcnn.bench.networks import NUM_CLASSES, random_checkpoint
from maskrcnn.bench.timing import machine, peak_memory, take_turns
from maskrcnn.data.batch import collate
from maskrcnn.data.targets import ImageTargets, MaskCrop
from maskrcnn.training.checkpoint import Checkpoint
from maskrcnn.training.settings import Settings
from maskrcnn.training.step import make_train_state, train_step

_AXES = 1 / 32, 1 / 4  # shortest and longest axis of an ellipse, as shares of the picture's short side


class StepSpec(NamedTuple):
    """A training step to measure. It is plain, so that another process can build the step, too."""

    recipe: str
    device: str
    precision: str
    batch_size: int
    size_hw: tuple[int, int]
    objects: int  # in each picture
    threads: int
    rate: float = 1e-5  # learning rate; too small to change the work of the next steps
    recompute: bool = False  # activations


Step = Callable[[], dict[str, float]]  # runs a training step and returns its losses
StepMaker = Callable[[StepSpec], Step]
Scene = tuple[UInt8[Tensor, "3 H W"], ImageTargets]


def make_step(spec: StepSpec) -> Step:
    """Return a step of ``maskrcnn train``. Raises ValueError for an unknown recipe."""
    checkpoint = random_checkpoint(spec.recipe)
    checkpoint.arguments["masks.targets"] = "binary"
    settings = Settings.of(precision=spec.precision, lr=spec.rate, recompute=spec.recompute)
    run = Checkpoint(checkpoint, settings, {}, {}, 0, 0.0, {}, -1.0)
    state = make_train_state(run, torch.device(spec.device))
    batches = repeat(collate(make_scenes(spec), stride=state.model.stride))
    return lambda: train_step(state, batches, settings, spec.rate)


OURS: Mapping[str, StepMaker] = {"ours": make_step}


def bench_training(
    spec: StepSpec, makers: Mapping[str, StepMaker] = OURS, *, repeats: int = 5
) -> dict[str, Any]:
    """Return figures of the training steps of `makers`: milliseconds, peak memory, losses of the first step.

    The steps take turns. Memory is measured as in `step_memory`. Raises ValueError as the makers do.
    """
    steps = {side: make(spec) for side, make in makers.items()}
    losses = {side: step() for side, step in steps.items()}
    timings = take_turns(steps, repeats=repeats)
    del steps
    return {
        "machine": machine(torch.device(spec.device)),
        "work": spec._asdict(),
        "losses": losses,
        "milliseconds": {side: timing._asdict() for side, timing in timings.items()},
        "peak_bytes": {side: step_memory(make, spec) for side, make in makers.items()},
    }


def step_memory(make: StepMaker, spec: StepSpec) -> int | None:
    """Return the peak memory, bytes, of making a step and running it twice, in a process of its own.

    It holds the network, gradients, optimizer and data. None where the system does not count it.
    """
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_two_steps_memory, (make, spec))


def _two_steps_memory(make: StepMaker, spec: StepSpec) -> int | None:
    torch.set_num_threads(spec.threads)

    def two_steps() -> None:
        step = make(spec)
        step()
        step()

    return peak_memory(two_steps, torch.device(spec.device))


def make_scenes(spec: StepSpec) -> list[Scene]:
    """Return the pictures of a batch with their objects, the same at each call."""
    generator = np.random.default_rng(0)
    return [_scene(spec, generator) for _ in range(spec.batch_size)]


def _scene(spec: StepSpec, generator: np.random.Generator) -> Scene:
    """Return noise with bright ellipses, which may overlap."""
    height, width = spec.size_hw
    image = generator.integers(0, 120, (height, width, 3), np.uint8)
    shortest, longest = (math.log(share * min(height, width)) for share in _AXES)
    sides = np.exp(generator.uniform(shortest, longest, (spec.objects, 2))).astype(int).clip(2)
    corners = (generator.uniform(size=(spec.objects, 2)) * (np.array([width, height]) - sides)).astype(int)
    crops = [
        MaskCrop(_ellipse(*side), (1.0, -float(x), 1.0, -float(y)))
        for side, (x, y) in zip(sides.tolist(), corners, strict=True)
    ]
    for (x, y), crop in zip(corners, crops, strict=True):
        rows, columns = crop.pixels.shape
        image[y : y + rows, x : x + columns][crop.pixels > 0] = 240
    boxes = np.concatenate([corners, corners + sides], 1).astype(np.float32)
    labels = generator.integers(0, NUM_CLASSES, spec.objects)
    truth = ImageTargets(boxes, labels, np.zeros(spec.objects, bool), list(crops), None)
    return torch.from_numpy(image).permute(2, 0, 1), truth


def _ellipse(width: int, height: int) -> np.ndarray:
    y, x = (2 * (np.arange(side) + 0.5) / side - 1 for side in (height, width))
    return (y[:, None] ** 2 + x**2 <= 1).astype(np.uint8)


def training_table(figures: dict[str, Any]) -> Table:
    """Return the figures of `bench_training` as a table for rich to print."""
    spec, timings, memory = StepSpec(**figures["work"]), figures["milliseconds"], figures["peak_bytes"]
    height, width = spec.size_hw
    table = Table(
        *("", "step, ms", "pictures / s", "peak memory, MB", "loss"),
        title=f"training {spec.recipe}, {spec.batch_size} of {height}x{width}, {spec.objects} objects each, "
        f"{spec.precision}",
        title_justify="left",
    )
    for side, timing in timings.items():
        losses = figures["losses"][side]
        loss = losses.get("loss", sum(losses.values()))
        rate = f"{1000 * spec.batch_size / timing['median']:.2f}"
        megabytes = "" if memory[side] is None else f"{memory[side] / 1e6:.0f}"
        table.add_row(side, f"{timing['median']:.0f}", rate, megabytes, f"{loss:.3f}")
    if len(timings) == 2:
        first, second = timings
        ratio = timings[first]["median"] / timings[second]["median"]
        table.caption = f"{first} takes {ratio:.2f} of the time of {second}"
    return table
