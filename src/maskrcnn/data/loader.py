"""Batches for training, each a function of (seed, number) alone, and batches for prediction, in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, count, islice
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from maskrcnn.data.batch import collate
from maskrcnn.data.copy_paste import Mix
from maskrcnn.data.dataset import Dataset
from maskrcnn.data.pictures import SizeHW, Source, read_to_resize
from maskrcnn.data.prepare import Affine, Prepared, Resize, pad, prepare
from maskrcnn.data.sampling import draw_pass, pass_length
from maskrcnn.data.targets import NetworkInput, to_network
from maskrcnn.data.transforms import Transform, resized
from maskrcnn.data.white import common_white
from maskrcnn.data.workers import in_workers
from maskrcnn.types import Batch, Targets

S = TypeVar("S", bound=Source)

ORDER, AUGMENTATION = 0, 1  # purposes of random streams


@dataclass(frozen=True)
class AugmentedDataset:
    """Pictures of a data set as a network learns from them: read, resized and transformed at random."""

    dataset: Dataset
    resize: Resize
    transform: Transform
    channels: int = 3
    white: int | None = None  # of pictures with more than 8 bits, see `read_picture`
    mix: Mix | None = None  # what a picture gets of another one
    factors: Float[np.ndarray, " pictures"] | None = None  # how often each comes in an epoch; None: once

    def __len__(self) -> int:
        return len(self.dataset)

    def sample(self, index: int, generator: np.random.Generator) -> NetworkInput:
        """Return picture `index` as the network's input, and its targets.

        Raises as `read_picture` does, and ValueError if the picture has another size than the data set says.
        """
        inputs = self._transformed(index, generator)
        if self.mix is None:
            return inputs

        def another() -> NetworkInput:
            step = int(generator.integers(1, max(2, len(self))))
            return self._transformed((index + step) % len(self), generator)

        return self.mix(inputs, another, generator)

    def _transformed(self, index: int, generator: np.random.Generator) -> NetworkInput:
        path, size_hw = self.dataset.path(index), tuple(self.dataset.sizes_hw[index].tolist())
        picture = read_to_resize(
            path, lambda size_hw: self.resize(size_hw, generator), self.channels, self.white
        )
        if picture.file_hw != size_hw:
            raise ValueError(
                f"{path}: the picture has {picture.file_hw[0]} rows and {picture.file_hw[1]} columns, but"
                f" {self.dataset.source} says {size_hw[0]} and {size_hw[1]}"
                " (was it annotated before it was resized, or rotated by its EXIF orientation?)"
            )
        sample = resized(picture, self.dataset.objects(index), self.dataset.keypoint_flip)
        return to_network(self.transform(sample, generator))


def training_batches(
    data: AugmentedDataset,
    *,
    batch_size: int,
    stride: int,
    workers: int,
    seed: int,
    start: int = 0,
    share: range | None = None,
    pin: bool = False,
) -> Iterator[tuple[Batch, Targets]]:
    """Yield batches without end, from number `start` on; of each batch only the pictures in `share`.

    Batch n does not depend on `workers`, `start` and `share`. Each epoch shuffles the pictures and groups
    them by orientation, which keeps padding small; if `batch_size` does not divide an epoch, some are
    repeated. `pin` returns batches in pinned memory, for a CUDA device. Raises as `AugmentedDataset.sample`.
    """
    batches = _TrainingBatches(data, _order(data, batch_size, seed), stride, share or range(batch_size))
    for item in in_workers(batches, count(start), workers, pin):
        if isinstance(item, Exception):
            raise item
        yield item


def batch_indices(data: AugmentedDataset, batch_size: int, seed: int, number: int) -> list[int]:
    """Return the indices of the pictures of batch `number` of `training_batches`."""
    return _order(data, batch_size, seed).indices(number)


def random_stream(seed: int, purpose: int, *numbers: int) -> np.random.Generator:
    """Return the random numbers for one purpose: those of epoch n, or of picture `slot` of batch n.

    Streams of different purposes or numbers are independent. A tuple as the seed would not do: numpy pads it
    with zeros, so that (seed, n) and (seed, n, 0) are the same stream.
    """
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(purpose, *numbers)))


def batches_per_epoch(pictures: int, batch_size: int) -> int:
    """Return the number of batches that contain so many pictures."""
    return -(-pictures // batch_size)


def plan_epoch(
    is_portrait: Bool[np.ndarray, " pictures"],
    batch_size: int,
    generator: np.random.Generator,
    factors: Float[np.ndarray, " pictures"] | None = None,
) -> Int[np.ndarray, "batches pictures_of_one"]:
    """Distribute the pictures at random over batches; at most two mix orientations, one repeats pictures.

    Each picture comes once, or with `factors` as often as `draw_pass` says.
    """
    order = generator.permutation(len(is_portrait)) if factors is None else draw_pass(factors, generator)
    order = order[np.argsort(is_portrait[order], kind="stable")]
    shape = batches_per_epoch(len(order), batch_size), batch_size
    batches = np.resize(order, shape)  # repeats the order from its start
    return generator.permutation(batches)


@dataclass(frozen=True)
class _Order:
    """Which pictures a batch holds."""

    is_portrait: bytes  # one for each picture
    factors: bytes | None  # one for each picture
    batches: int  # of an epoch
    batch_size: int
    seed: int

    def indices(self, number: int) -> list[int]:
        """Return the indices of the pictures of a batch."""
        epoch, row = divmod(number, self.batches)
        return _epoch_plan(self, epoch)[row].tolist()


def _order(data: AugmentedDataset, batch_size: int, seed: int) -> _Order:
    sizes_hw, factors = data.dataset.sizes_hw, data.factors
    return _Order(
        is_portrait=(sizes_hw[:, 0] > sizes_hw[:, 1]).tobytes(),
        factors=None if factors is None else factors.tobytes(),
        batches=batches_per_epoch(len(data) if factors is None else pass_length(factors), batch_size),
        batch_size=batch_size,
        seed=seed,
    )


@lru_cache(maxsize=2)  # per worker process: 118,000 pictures take 10 ms, which every batch would pay
def _epoch_plan(order: _Order, epoch: int) -> np.ndarray:
    plan = plan_epoch(
        np.frombuffer(order.is_portrait, np.bool_),
        order.batch_size,
        random_stream(order.seed, ORDER, epoch),
        None if order.factors is None else np.frombuffer(order.factors, np.float64),
    )
    plan.setflags(write=False)
    return plan


@dataclass(frozen=True)
class _TrainingBatches(TorchDataset):
    """Batch `number`, built in one worker. An error is returned, not raised: torch would add a traceback."""

    data: AugmentedDataset
    order: _Order
    stride: int
    share: range

    def __getitem__(self, number: int) -> tuple[Batch, Targets] | Exception:
        indices = self.order.indices(number)
        try:
            samples = [
                self.data.sample(indices[slot], random_stream(self.order.seed, AUGMENTATION, number, slot))
                for slot in self.share
            ]
        except (OSError, ValueError) as error:
            return error
        return collate(samples, self.stride)


@dataclass(frozen=True)
class PictureInput:
    """A picture that is in a batch."""

    affine: Affine  # file → network's input
    size_hw: SizeHW  # of the file, upright


@dataclass(frozen=True)
class PictureError:
    """A picture that cannot be read: `message` names it and says why."""

    message: str


@dataclass(frozen=True)
class PictureBatch(Generic[S]):
    """Consecutive pictures for prediction."""

    batch: Batch | None  # row n is the n-th of `inputs`; None if there is none
    records: list[tuple[S, PictureInput | PictureError]]  # each source in order

    @property
    def inputs(self) -> list[PictureInput]:
        """The pictures in `batch`."""
        return [record for _, record in self.records if isinstance(record, PictureInput)]

    @property
    def errors(self) -> list[PictureError]:
        """The pictures that cannot be read."""
        return [record for _, record in self.records if isinstance(record, PictureError)]


def picture_batches(
    sources: Iterable[S],
    resize: Resize,
    *,
    batch_size: int,
    stride: int,
    workers: int,
    channels: int = 3,
    white: int | None = None,
    pin: bool = False,
) -> Iterator[PictureBatch[S]]:
    """Yield pictures in order; neighbours with the same padded shape share a batch.

    `sources` can be of any length, also a generator: a few of them are read ahead. Files are read by
    `workers` processes; pictures in memory are prepared in this process. A picture that cannot be read
    becomes a `PictureError`, not an exception. `pin` returns batches in pinned memory, for a CUDA device.

    `white` is as in `read_picture`; without it, a list of sources gets its `common_white`, and each picture
    of a generator one of its own.
    """
    if white is None and isinstance(sources, Sequence) and len(sources) > 1:
        white = common_white(sources)
    images: list[Tensor] = []
    records: list[tuple[S, PictureInput | PictureError]] = []
    for source, item in _prepared(sources, _Pictures(resize, channels, white), workers):
        if isinstance(item, Exception):
            records.append((source, PictureError(str(item))))
            continue
        if images and _padded_hw(item.image, stride) != _padded_hw(images[0], stride):
            yield _picture_batch(images, records, stride, pin)
            images, records = [], []
        images.append(item.image)
        records.append((source, PictureInput(item.affine, item.size_hw)))
        if len(images) == batch_size:
            yield _picture_batch(images, records, stride, pin)
            images, records = [], []
    if records:
        yield _picture_batch(images, records, stride, pin)


def _padded_hw(image: Tensor, stride: int) -> list[int]:
    return [-(-side // stride) for side in image.shape[-2:]]


def _picture_batch(
    images: list[Tensor], records: list[tuple[S, PictureInput | PictureError]], stride: int, pin: bool
) -> PictureBatch[S]:
    batch = pad(images, stride) if images else None
    return PictureBatch(batch.pinned() if batch and pin else batch, records)


def _prepared(
    sources: Iterable[S], pictures: _Pictures, workers: int
) -> Iterator[tuple[S, Prepared | Exception]]:
    """Yield each source with the picture, in order; at most two are taken from `sources` before the first."""
    sources = iter(sources)
    first = list(islice(sources, 1))
    if not first or not isinstance(first[0], str | Path):
        workers = 0  # sending pixels to another process costs as much as preparing them
    if workers:
        first += islice(sources, 1)
        workers = workers if len(first) > 1 else 0
    sent: deque[S] = deque()

    def send() -> Iterator[S]:
        for source in chain(first, sources):
            sent.append(source)
            yield source

    for item in in_workers(pictures, send(), workers, pin=False):
        yield sent.popleft(), item


@dataclass(frozen=True)
class _Pictures(TorchDataset):
    """Maps a source, which takes the place of an index, to the picture or to the error that it raises."""

    resize: Resize
    channels: int
    white: int | None

    def __getitem__(self, source: Source) -> Prepared | Exception:
        try:
            return prepare(source, self.resize, self.channels, self.white)
        except (OSError, ValueError) as error:
            return error
