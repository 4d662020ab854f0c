"""The command ``maskrcnn bench --train``: a training step, ours and torchvision's, on the same weights.

A step is forward, backward and SGD, with stem, res2 and all norms frozen, as is usual for fine-tuning, on
pictures of noise with bright ellipses. Ours is a step of `maskrcnn train`, and cuts the truth of masks by its
own rule; torchvision's network is channels-last like ours and need not resize.
"""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Callable
from itertools import repeat
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from rich.table import Table
from torch import Tensor

from maskrcnn.bench.networks import CLASSES, ours, theirs
from maskrcnn.bench.timing import machine, peak_memory, take_turns
from maskrcnn.data.batch import collate
from maskrcnn.data.transforms import MaskCrop, Truth
from maskrcnn.training.checkpoint import Checkpoint
from maskrcnn.training.settings import Settings
from maskrcnn.training.step import make_train_state, train_step

_SHARES = 1 / 32, 1 / 4  # least and largest axis of an ellipse, of the picture's short side
Step = Callable[[], dict[str, float]]


class StepSpec(NamedTuple):
    """What a step works on; made anew by each process."""

    recipe: str
    device: str
    precision: str
    batch_size: int
    size_hw: tuple[int, int]
    objects: int  # a picture
    threads: int
    rate: float = 1e-5  # too small to lead anywhere: every step does the same work


def bench_training(work: StepSpec, *, against: str | None = None, repeats: int = 5) -> dict[str, Any]:
    """Return the figures of a training step: milliseconds, bytes at the peak, losses of the first step.

    Memory is that of a process of its own over two steps, network, gradients, optimiser and data. Raises
    ValueError as `find` and `theirs` do.
    """
    makers = {"ours": our_step, **({against: their_step} if against else {})}
    steps = {side: make(work) for side, make in makers.items()}
    losses = {side: step() for side, step in steps.items()}
    times = take_turns(steps, repeats=repeats)
    del steps
    return {
        "machine": machine(torch.device(work.device)),
        "work": work._asdict(),
        "losses": losses,
        "milliseconds": {side: own._asdict() for side, own in times.items()},
        "peak_bytes": {side: memory_of(make, work) for side, make in makers.items()},
    }


def our_step(work: StepSpec) -> Step:
    """Return a step of `maskrcnn train`."""
    trained = ours(work.recipe)
    trained.arguments["mask_truth"] = "binary"
    settings = Settings.of(precision=work.precision, lr=work.rate)
    start = Checkpoint(trained, settings, {}, {}, 0, 0.0, {}, -1.0)
    state = make_train_state(start, torch.device(work.device))
    batches = repeat(collate(_scenes(work), stride=state.model.stride))
    return lambda: train_step(state, batches, settings, work.rate)


def their_step(work: StepSpec) -> Step:
    """Return a step of torchvision's network."""
    device = torch.device(work.device)
    model = theirs(ours(work.recipe), work.size_hw).train().to(device)
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.SGD(learning, work.rate, momentum=0.9, weight_decay=1e-4)
    images, targets = _for_torchvision(_scenes(work))

    def step() -> dict[str, float]:
        on_device = [{name: value.to(device) for name, value in target.items()} for target in targets]
        with torch.autocast(device.type, torch.bfloat16, enabled=work.precision == "bf16"):
            losses = model([image.to(device).float() / 255 for image in images], on_device)
        optimiser.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimiser.step()
        return {name: loss.item() for name, loss in losses.items()}

    return step


def memory_of(make: Callable[[StepSpec], Step], work: StepSpec) -> int | None:
    """Return the bytes of two steps at their peak, measured in a process that does nothing else."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measured, (make, work))


def _measured(make: Callable[[StepSpec], Step], work: StepSpec) -> int | None:
    torch.set_num_threads(work.threads)

    def two_steps() -> None:
        step = make(work)
        step()
        step()

    return peak_memory(two_steps, torch.device(work.device))


def _scenes(work: StepSpec) -> list[tuple[UInt8[Tensor, "3 H W"], Truth]]:
    draw = np.random.default_rng(0)
    return [_scene(work, draw) for _ in range(work.batch_size)]


def _scene(work: StepSpec, draw: np.random.Generator) -> tuple[UInt8[Tensor, "3 H W"], Truth]:
    """Draw noise with bright ellipses, which may overlap."""
    height, width = work.size_hw
    image = draw.integers(0, 120, (height, width, 3), np.uint8)
    least, most = (math.log(share * min(height, width)) for share in _SHARES)
    sides = np.exp(draw.uniform(least, most, (work.objects, 2))).astype(int).clip(2)
    corners = (draw.uniform(size=(work.objects, 2)) * (np.array([width, height]) - sides)).astype(int)
    crops = [
        MaskCrop(_ellipse(*side), (1.0, -float(x), 1.0, -float(y)))
        for side, (x, y) in zip(sides.tolist(), corners, strict=True)
    ]
    for (x, y), crop in zip(corners, crops, strict=True):
        rows, columns = crop.pixels.shape
        image[y : y + rows, x : x + columns][crop.pixels > 0] = 240
    boxes = np.concatenate([corners, corners + sides], 1).astype(np.float32)
    labels = draw.integers(0, CLASSES, work.objects)
    truth = Truth(boxes, labels, np.zeros(work.objects, bool), list(crops), None)
    return torch.from_numpy(image).permute(2, 0, 1), truth


def _ellipse(width: int, height: int) -> np.ndarray:
    y, x = (2 * (np.arange(side) + 0.5) / side - 1 for side in (height, width))
    return (y[:, None] ** 2 + x**2 <= 1).astype(np.uint8)


def _for_torchvision(
    scenes: list[tuple[Tensor, Truth]],
) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    targets = []
    for image, truth in scenes:
        masks = torch.zeros((len(truth.boxes), *image.shape[1:]), dtype=torch.uint8)
        for mask, crop, (x1, y1, x2, y2) in zip(masks, truth.crops, truth.boxes.astype(int), strict=True):
            assert crop is not None
            mask[y1:y2, x1:x2] = torch.from_numpy(crop.pixels)
        boxes, labels = torch.from_numpy(truth.boxes), torch.from_numpy(truth.labels) + 1
        targets.append({"boxes": boxes, "labels": labels, "masks": masks})
    return [image for image, _ in scenes], targets


def printed_training(figures: dict[str, Any]) -> Table:
    """Return the figures as a table, to print with rich."""
    work, times, memory = StepSpec(**figures["work"]), figures["milliseconds"], figures["peak_bytes"]
    height, width = work.size_hw
    made = Table(
        *("", "step, ms", "pictures a second", "peak memory, MB", "loss"),
        title=f"training {work.recipe}, {work.batch_size} of {height}x{width}, {work.objects} objects each, "
        f"{work.precision}",
        title_justify="left",
    )
    for side, own in times.items():
        parts = figures["losses"][side]
        loss = parts.get("loss", sum(parts.values()))
        rate = f"{1000 * work.batch_size / own['median']:.2f}"
        held = "" if memory[side] is None else f"{memory[side] / 1e6:.0f}"
        made.add_row(side, f"{own['median']:.0f}", rate, held, f"{loss:.3f}")
    if len(times) == 2:
        first, second = times
        made.caption = f"ours takes {times[first]['median'] / times[second]['median']:.2f} of {second}'s time"
    return made
