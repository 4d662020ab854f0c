"""The batches of a training, as its settings say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from maskrcnn.data import prepare, transforms
from maskrcnn.data.copy_paste import copy_paste
from maskrcnn.data.dataset import Dataset
from maskrcnn.data.loader import AugmentedDataset, batch_indices, training_batches
from maskrcnn.data.sampling import repeat_factors
from maskrcnn.training.settings import Augmentation, Settings
from maskrcnn.training.step import TrainState
from maskrcnn.types import Batch, Targets


def open_batches(
    state: TrainState, dataset: Dataset, settings: Settings, white: int | None
) -> Iterator[tuple[Batch, Targets]]:
    """Return the batches of the steps after `state.step`, without end; of each, this process's share.

    `white` is as in `read_picture`.

    Raises ValueError where the processes do not divide `batch_size`.
    """
    step = settings.step
    return training_batches(
        augmented(dataset, settings, state.model.in_channels, white),
        batch_size=step.batch_size,
        share=state.processes.share(step.batch_size),
        stride=state.model.stride,
        workers=settings.pictures.workers,
        seed=settings.seed,
        start=state.step * step.accumulate,
        pin=state.device.type == "cuda",
    )


def pictures_of_step(dataset: Dataset, settings: Settings, number: int) -> list[Path]:
    """Return the pictures of step `number`, counted from 1: those of all its batches and processes."""
    step, data = settings.step, augmented(dataset, settings)
    return [
        dataset.path(index)
        for batch in range((number - 1) * step.accumulate, number * step.accumulate)
        for index in batch_indices(data, step.batch_size, settings.seed, batch)
    ]


def augmented(
    dataset: Dataset, settings: Settings, channels: int = 3, white: int | None = None
) -> AugmentedDataset:
    """Return the pictures as a network of so many channels learns from them."""
    probability, threshold = settings.augmentation.copy_paste, settings.pictures.repeat_threshold
    return AugmentedDataset(
        dataset,
        resizing(settings),
        augmenting(settings.augmentation),
        channels=channels,
        white=white,
        mix=copy_paste(probability) if probability else None,
        factors=repeat_factors(dataset, threshold) if threshold else None,
    )


def resizing(settings: Settings) -> prepare.Resize:
    """Return the function from the size of a picture's file to its size in the network's input."""
    resize = prepare.resize(settings.pictures.short_sides, settings.pictures.long_side)
    scale = settings.augmentation.scale
    return transforms.random_scale(resize, *scale) if scale else resize


def augmenting(augmentation: Augmentation) -> transforms.Transform:
    """Return the random transform of a resized picture. What is off draws no random number."""
    size_hw, share, turns = augmentation.crop, augmentation.object_crops, augmentation.quarter_turns
    crop = size_hw and (transforms.object_crop(size_hw, share) if share else transforms.crop(size_hw))
    return transforms.compose(
        *((crop,) if crop else ()),
        transforms.flip_horizontal(augmentation.flip_horizontal),
        transforms.flip_vertical(augmentation.flip_vertical),
        *((transforms.quarter_turn(turns),) if turns else ()),
        *((transforms.colour_jitter(*augmentation.jitter),) if augmentation.jitter else ()),
    )
