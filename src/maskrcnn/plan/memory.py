"""The memory of a training step, measured by the worst batch that the data and the settings can give."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from maskrcnn.bench.timing import peak_memory_in_use
from maskrcnn.data.batch import collate
from maskrcnn.data.dataset import Dataset
from maskrcnn.data.pictures import SizeHW
from maskrcnn.data.prepare import resize, scaled
from maskrcnn.data.targets import ImageTargets, MaskCrop
from maskrcnn.memory import is_out_of_memory
from maskrcnn.network.learning import POSITIVE_FRACTION
from maskrcnn.training.checkpoint import Checkpoint
from maskrcnn.training.settings import Settings
from maskrcnn.training.setup import new_run, recipe_arguments
from maskrcnn.training.step import TrainState, add_gradients, update
from maskrcnn.weights.init import InitialWeights

SHARE = 0.8  # of the free memory, which a training should use; the rest is for what no trial foresees


@dataclass(frozen=True)
class StepMemory:
    """Peaks of memory, bytes, of training steps of so many pictures, and what follows for other numbers."""

    held: int  # by the process before
    peaks: tuple[tuple[int, int], ...]  # pictures and peak, `held` included; fewest pictures first
    refused: int | None = None  # pictures with which memory ran out

    @property
    def line(self) -> tuple[float, float]:
        """Bytes of a step without pictures, and of each picture: least squares through the peaks.

        A single peak is counted wholly as the pictures'.
        """
        pictures, peaks = np.array(self.peaks, float).T
        if len(pictures) == 1:
            return float(self.held), float((peaks[0] - self.held) / pictures[0])
        each, fixed = np.polyfit(pictures, peaks, 1)
        return float(fixed), max(float(each), 1.0)

    def planned(self, pictures: int) -> int:
        """Return the bytes of a step of so many pictures."""
        fixed, each = self.line
        return round(fixed + each * pictures)

    def largest(self, free: int) -> int:
        """Return the most pictures whose step takes `SHARE` of the free bytes at most; 0 where none fits."""
        if not self.peaks:
            return 0
        fixed, each = self.line
        fits = math.floor((self.held + SHARE * free - fixed) / each + 1e-6)  # the line is rounded
        return max(0, fits if self.refused is None else min(fits, self.refused - 1))


def sizes_to_try(most: int) -> list[int]:
    """Return 1, 2, 4, … below `most`, and `most`."""
    return [*(2**power for power in range(most.bit_length()) if 2**power < most), most]


def try_batches(measure: Callable[[int], int], sizes: Iterable[int], held: int, free: int) -> StepMemory:
    """Measure steps of these ascending numbers of pictures, until one needs `SHARE` of the free bytes.

    `measure` returns the peak of a step of so many pictures, or raises what `is_out_of_memory` knows. `held`
    are the bytes in use before, which the peaks include.
    """
    peaks: list[tuple[int, int]] = []
    for pictures in sizes:
        try:
            peaks.append((pictures, measure(pictures)))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return StepMemory(held, tuple(peaks), refused=pictures)
        if peaks[-1][1] - held >= SHARE * free:
            break
    return StepMemory(held, tuple(peaks))


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


def step_measure(
    state: TrainState, dataset: Dataset, objects: int, settings: Settings
) -> Callable[[int], int]:
    """Return the function from a number of pictures to the peak memory of a step, bytes, for `try_batches`.

    The steps are real ones, forward, backward and update, with the optimiser's state, on pictures as large as
    any of the data set is after augmentation, with so many `objects`. Memory is what `memory_in_use` counts.
    """
    size_hw = largest_input(dataset.sizes_hw, settings)
    objects = max(objects, round(state.model.samples_per_image * POSITIVE_FRACTION))
    picture = _full_picture(state, size_hw, objects, len(dataset.keypoint_names))

    def measure(pictures: int) -> int:
        batch = collate([picture] * pictures, state.model.stride)

        def steps() -> None:
            for _ in range(1 if state.optimiser.state else 2):  # the first one makes the optimiser's state
                add_gradients(state, [batch], settings.step, pictures)
                update(state, 0.0)

        return peak_memory_in_use(steps, state.device) or 0

    return measure


def largest_input(sizes_hw: Int[np.ndarray, "pictures 2"], settings: Settings) -> SizeHW:
    """Return the most rows and the most columns of pictures in the network's input: a batch may have both."""
    pictures, augmentation = settings.pictures, settings.augmentation
    to_input = resize(max(pictures.short_sides) if pictures.short_sides else None, pictures.long_side)
    factor = augmentation.scale[1] if augmentation.scale else 1.0
    generator = np.random.default_rng(0)  # of which a single short side needs no number
    inputs = [
        scaled(to_input((rows, columns), generator), factor)
        for rows, columns in np.unique(sizes_hw, axis=0).tolist()
    ]
    rows, columns = np.minimum(np.array(inputs).max(0), augmentation.crop or np.inf).astype(int).tolist()
    return rows, columns


def _full_picture(
    state: TrainState, size_hw: SizeHW, objects: int, keypoints: int
) -> tuple[UInt8[Tensor, "C H W"], ImageTargets]:
    """Return a picture with so many objects that all regions to learn from are found."""
    generator = np.random.default_rng(0)
    side = max(2, min(size_hw) // 4)
    corners = generator.integers(0, np.array(size_hw[::-1]) - side + 1, (objects, 2))
    mask = np.ones((side, side), np.uint8)
    targets = ImageTargets(
        boxes=np.concatenate([corners, corners + side], 1).astype(np.float32),
        labels=np.arange(objects) % state.model.num_classes,
        crowd=np.zeros(objects, bool),
        crops=[MaskCrop(mask, (1.0, -float(x), 1.0, -float(y))) for x, y in corners],
        keypoints=np.full((objects, keypoints, 3), 2, np.float32) if keypoints else None,
    )
    return torch.zeros(state.model.in_channels, *size_hw, dtype=torch.uint8), targets
