"""Batches for training, each a function of (seed, number) alone; batches for prediction, in order."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from maskrcnn.data.batch import collate, pad
from maskrcnn.data.pictures import SizeHW, Source, read_to_resize
from maskrcnn.data.readers.coco import CocoDataset
from maskrcnn.data.transforms import (
    Affine,
    Prepared,
    Resize,
    Sample,
    Transform,
    prepare,
    resized,
    to_network,
)
from maskrcnn.types import Batch, Targets


class PictureBatch(NamedTuple):
    """A run of pictures for prediction: those in `batch`, and those that could not be read."""

    batch: Batch | None  # None where none could be read
    indices: list[int]  # of the pictures in `batch`, among the sources
    affines: list[Affine]  # file → network's input
    sizes_hw: list[SizeHW]  # of the files
    failures: list[tuple[int, str]]  # index and reason


def training_batches(
    dataset: CocoDataset,
    resize: Resize,
    transform: Transform,
    *,
    batch_size: int,
    stride: int,
    workers: int,
    seed: int,
    start: int = 0,
    channels: int = 3,
    share: range | None = None,
) -> Iterator[tuple[Batch, Targets]]:
    """Yield batches without end, from number `start` on; of each batch, the pictures of `share` alone.

    Batch n is the same whatever `workers`, `start` and `share` are. Each epoch shuffles the pictures and
    groups them by orientation, which keeps padding small; where an epoch does not divide, some come twice.
    Raises what reading a picture raises, ValueError or FileNotFoundError.
    """
    batches = _TrainingBatches(
        dataset, resize, transform, batch_size, stride, seed, channels, share or range(batch_size)
    )
    for item in _in_workers(batches, count(start), workers, pin=torch.cuda.is_available()):
        if isinstance(item, Exception):
            raise item
        yield item


def batches_per_epoch(dataset: CocoDataset, batch_size: int) -> int:
    """How many batches show every picture once."""
    return -(-len(dataset) // batch_size)


def plan_epoch(
    is_portrait: Bool[np.ndarray, " pictures"], batch_size: int, generator: np.random.Generator
) -> Int[np.ndarray, "batches pictures_of_one"]:
    """Draw the pictures of an epoch's batches: two at most mix orientations, and one repeats pictures."""
    order = generator.permutation(len(is_portrait))
    order = order[np.argsort(is_portrait[order], kind="stable")]
    rows = -(-len(order) // batch_size)
    batches = np.resize(order, (rows, batch_size))  # begins anew where the order ends
    return generator.permutation(batches)


def picture_batches(
    sources: Sequence[Source],
    resize: Resize,
    *,
    batch_size: int,
    stride: int,
    workers: int,
    channels: int = 3,
    pin: bool = False,
) -> Iterator[PictureBatch]:
    """Yield pictures in order; neighbours share a batch when they have the same padded shape.

    A picture that cannot be read is a failure with its reason, not an exception. With `pin` the batches lie
    in pinned memory, for a CUDA device.
    """
    waiting: list[_Picture] = []
    failures: list[tuple[int, str]] = []
    for index, item in enumerate(
        _in_workers(_Pictures(sources, resize, channels), range(len(sources)), workers, pin=False)
    ):
        if isinstance(item, Exception):
            failures.append((index, str(item)))
            continue
        picture = _Picture(index, *item)
        if waiting and (
            len(waiting) == batch_size or _padded(picture, stride) != _padded(waiting[0], stride)
        ):
            yield _picture_batch(waiting, failures, stride, pin)
            waiting, failures = [], []
        waiting.append(picture)
    if waiting or failures:
        yield _picture_batch(waiting, failures, stride, pin)


class _Picture(NamedTuple):
    number: int
    image: UInt8[Tensor, "C H W"]
    affine: Affine
    size_hw: SizeHW


def _padded(picture: _Picture, stride: int) -> list[int]:
    return [-(-side // stride) for side in picture.image.shape[-2:]]


def _picture_batch(
    pictures: list[_Picture], failures: list[tuple[int, str]], stride: int, pin: bool
) -> PictureBatch:
    batch = pad([picture.image for picture in pictures], stride) if pictures else None
    return PictureBatch(
        batch=batch.pinned() if batch and pin else batch,
        indices=[picture.number for picture in pictures],
        affines=[picture.affine for picture in pictures],
        sizes_hw=[picture.size_hw for picture in pictures],
        failures=failures,
    )


@dataclass(frozen=True)
class _TrainingBatches(Dataset):
    """Batch `number`, made whole in one worker; an error comes back as a value, its sentence kept clean."""

    dataset: CocoDataset
    resize: Resize
    transform: Transform
    batch_size: int
    stride: int
    seed: int
    channels: int
    share: range

    def __getitem__(self, number: int) -> tuple[Batch, Targets] | Exception:
        epoch, row = divmod(number, batches_per_epoch(self.dataset, self.batch_size))
        is_portrait = self.dataset.sizes_hw[:, 0] > self.dataset.sizes_hw[:, 1]
        plan = plan_epoch(is_portrait, self.batch_size, np.random.default_rng((self.seed, epoch)))
        try:
            samples = [
                to_network(self._sample(int(index), np.random.default_rng((self.seed, number, slot))))
                for slot, index in enumerate(plan[row])
                if slot in self.share
            ]
        except (OSError, ValueError) as error:
            return error
        return collate(samples, self.stride)

    def _sample(self, index: int, generator: np.random.Generator) -> Sample:
        path, size_hw = self.dataset.path(index), tuple(self.dataset.sizes_hw[index].tolist())
        picture = read_to_resize(path, lambda size_hw: self.resize(size_hw, generator), self.channels)
        if picture.file_hw != size_hw:
            raise ValueError(
                f"{path}: the picture has {picture.file_hw[0]} rows and {picture.file_hw[1]} columns, but"
                f" {self.dataset.annotation_file} says {size_hw[0]} and {size_hw[1]}"
                " (was it annotated before it was resized, or turned by its EXIF orientation?)"
            )
        sample = resized(picture, self.dataset.objects(index), self.dataset.keypoint_flip)
        return self.transform(sample, generator)


@dataclass(frozen=True)
class _Pictures(Dataset):
    """Picture `index`, resized, with its affine and the size of its file; or why it cannot be read."""

    sources: Sequence[Source]
    resize: Resize
    channels: int

    def __getitem__(self, index: int) -> Prepared | Exception:
        try:
            return prepare(self.sources[index], self.resize, self.channels)
        except (OSError, ValueError) as error:
            return error


def _in_workers(items: Dataset, numbers: Iterable[int], workers: int, pin: bool) -> Iterator[Any]:
    """Yield the items of the given numbers, in order, made by `workers` processes, or by this one if 0.

    There are never more processes than cores that this one may use: they would only take turns.
    """
    loader = DataLoader(
        items,
        sampler=numbers,
        batch_size=None,
        num_workers=min(workers, _cores()),
        collate_fn=_as_is,
        pin_memory=pin,
        generator=torch.Generator(),  # it draws the workers' seeds, which would advance torch's own
    )
    return iter(loader)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _as_is(item: Any) -> Any:
    return item
