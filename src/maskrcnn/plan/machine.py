"""What the machine can do: measured where a name would be a guess."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from maskrcnn.data.dataset import Dataset
from maskrcnn.device import resolve_device
from maskrcnn.plan.memory import StepMemory
from maskrcnn.training.batches import open_batches
from maskrcnn.training.checkpoint import Checkpoint
from maskrcnn.training.settings import Settings
from maskrcnn.training.setup import new_run, recipe_arguments
from maskrcnn.training.step import TrainState, train_step
from maskrcnn.weights.init import InitialWeights

_PATIENCE = 3.0  # seconds of steps, after which no further one is measured
_GAIN = 0.8  # of float32's time: below it, bf16 is worth its rounding


@dataclass(frozen=True)
class Machine:
    """Where a training runs."""

    device: str  # cpu, cuda:0, …
    cores: int
    memory: int | None  # bytes of the device; None where the system does not say
    precision: Literal["float32", "bf16"]  # the fastest one
    picture_seconds: float | None = None  # of training, measured with the plan that is made without it
    step_memory: StepMemory | None = None  # of the plan that is made without it
    recomputed_memory: StepMemory | None = None  # with `step.recompute`, where the plain step needs too much


def probe_machine(device: str = "auto") -> Machine:
    """Return what this machine has, after a probe of about a second. Raises as `resolve_device` does."""
    place = resolve_device(device)
    return Machine(str(place), torch.get_num_threads(), _memory(place), fastest_precision(place))


def fastest_precision(device: torch.device) -> Literal["float32", "bf16"]:
    """Return "bf16" where a convolution takes less than 0.8 of float32's time in it, forward and backward."""
    conv = nn.Conv2d(128, 128, 3, padding=1, device=device)
    maps = torch.randn(2, 128, 48, 48, device=device).contiguous(memory_format=torch.channels_last)

    def run(enabled: bool) -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=enabled):
            conv(maps).float().square().mean().backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    try:
        turns = [(_seconds(lambda: run(False)), _seconds(lambda: run(True))) for _ in range(6)][1:]
    except RuntimeError:  # a device without bf16
        return "float32"
    plain, half = (statistics.median(times) for times in zip(*turns, strict=True))
    return "bf16" if half < _GAIN * plain else "float32"


def trial_run(
    dataset: Dataset,
    settings: Settings,
    recipe: str,
    arguments: Mapping[str, Any],
    origin: InitialWeights | None,
) -> Checkpoint:
    """Return a training at its beginning, with drawn weights in place of those of `origin`.

    `origin` are the initial weights, which bring options of the recipe.
    """
    run = new_run(Path(os.devnull), recipe, arguments, settings)
    trained = replace(
        run.trained,
        arguments=recipe_arguments(recipe, run.trained, len(dataset.keypoint_names), origin),
        class_names=dataset.class_names,
        category_ids=dataset.category_ids,
        keypoint_names=dataset.keypoint_names,
        skeleton=dataset.skeleton,
    )
    return replace(run, trained=replace(trained, weights=trained.build_untrained().state_dict()))


def step_seconds(state: TrainState, dataset: Dataset, settings: Settings, *, steps: int = 3) -> float:
    """Return the seconds of a training step, the median of some real ones on these pictures, after one more.

    Slow steps are measured fewer times; of one that takes longer than 3 s, the first alone. `state` is
    changed.
    """
    loading = settings.replaced(workers=0)
    batches = open_batches(state, dataset, loading, dataset.white)
    times: list[float] = []
    while len(times) < 1 + steps and sum(times) < _PATIENCE:
        times.append(_seconds(lambda: train_step(state, batches, loading, 1e-6)))
    return statistics.median(times[1:] or times)


def _seconds(run: Callable[[], object]) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def _memory(device: torch.device) -> int | None:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    sizes = [size for size in (_available(), _left_of_limit()) if size is not None]
    return min(sizes) if sizes else None


def _available() -> int | None:
    """Return the bytes that Linux can give without swapping: free ones, and of caches."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    sizes = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    return sizes[0] if sizes else None


def _left_of_limit() -> int | None:
    """Return the bytes left of a container's limit (cgroup v2); None where there is no limit."""
    folder = Path("/sys/fs/cgroup")
    try:
        limit, used = (int((folder / name).read_text()) for name in ("memory.max", "memory.current"))
    except (OSError, ValueError):  # no such files, or no number: "max"
        return None
    return max(0, limit - used)
