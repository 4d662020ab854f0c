"""This module changes pictures at random for training; an affine map notes where their coordinates go.

Transforms are functions ``(Sample, numpy Generator) -> Sample`` that change the image and update `affine`.
The objects keep the coordinates of the file until `targets.to_network` maps them once, exactly. The functions
that build transforms return `functools.partial` objects: closures cannot be sent to spawned workers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from torch import Tensor

from maskrcnn.data.dataset import Objects
from maskrcnn.data.pictures import Picture, SizeHW
from maskrcnn.data.prepare import Affine, Resize, at_target_size, map_boxes, scaled

IDENTITY = (1.0, 0.0, 1.0, 0.0)


class Sample(NamedTuple):
    """A picture that is being transformed, and its objects in pixels of the file."""

    image: UInt8[Tensor, "C H W"]
    objects: Objects
    keypoint_flip: tuple[int, ...] = ()  # index of the keypoint that each becomes in a mirror image
    affine: Affine = IDENTITY  # file → image
    is_turned: bool = False  # `to_network` then turns it by 90°: an affine map of each axis exchanges none


Transform = Callable[[Sample, np.random.Generator], Sample]


def random_scale(resize: Resize, low: float, high: float) -> Resize:
    """Scale the size that `resize` returns by a factor from a uniform distribution over `low` … `high`."""
    return partial(_random_scale, resize=resize, low=low, high=high)


def _random_scale(
    size_hw: SizeHW, generator: np.random.Generator, resize: Resize, low: float, high: float
) -> SizeHW:
    return scaled(resize(size_hw, generator), generator.uniform(low, high))


def resized(picture: Picture, objects: Objects, keypoint_flip: tuple[int, ...] = ()) -> Sample:
    """Resize a picture to its `target_hw`; the objects stay as they are."""
    prepared = at_target_size(picture)
    return Sample(prepared.image, objects, keypoint_flip, prepared.affine)


def compose(*transforms: Transform) -> Transform:
    """Apply the transforms in order."""
    return partial(_compose, transforms=transforms)


def _compose(sample: Sample, generator: np.random.Generator, transforms: Sequence[Transform]) -> Sample:
    for transform in transforms:
        sample = transform(sample, generator)
    return sample


def crop(size_hw: tuple[int, int]) -> Transform:
    """Crop a random window of `size_hw`, or of the picture's size where that is smaller."""
    return partial(_crop, size_hw=size_hw)


def _crop(sample: Sample, generator: np.random.Generator, size_hw: tuple[int, int]) -> Sample:
    height, width = sample.image.shape[-2:]
    y0 = int(generator.integers(max(0, height - size_hw[0]) + 1))
    x0 = int(generator.integers(max(0, width - size_hw[1]) + 1))
    return _window(sample, y0, x0, size_hw)


def object_crop(size_hw: tuple[int, int], share: float) -> Transform:
    """Crop as `crop` does, but make sure that this share of the windows holds an object.

    Its class is drawn first, among those in the picture, and then the object, so that windows meet rare
    classes (Isensee et al. 2021, nnU-Net: a third). The window contains the object's box, or lies within it
    along an axis where the box is longer; it is uniform over all such windows.
    """
    return partial(_object_crop, size_hw=size_hw, share=share)


def _object_crop(
    sample: Sample, generator: np.random.Generator, size_hw: tuple[int, int], share: float
) -> Sample:
    objects = sample.objects
    if generator.random() >= share or objects.crowd.all():
        return _crop(sample, generator, size_hw)
    label = generator.choice(np.unique(objects.labels[~objects.crowd]))
    index = generator.choice(np.flatnonzero((objects.labels == label) & ~objects.crowd))
    x1, y1, x2, y2 = map_boxes(objects.boxes[index], sample.affine)[0].tolist()
    height, width = sample.image.shape[-2:]
    y0 = _window_start(y1, y2, height, size_hw[0], generator)
    x0 = _window_start(x1, x2, width, size_hw[1], generator)
    return _window(sample, y0, x0, size_hw)


def _window_start(low: float, high: float, side: int, window: int, generator: np.random.Generator) -> int:
    ends = sorted((math.ceil(high) - window, math.floor(low)))
    first, last = (min(max(end, 0), max(0, side - window)) for end in ends)
    return int(generator.integers(first, last + 1))


def _window(sample: Sample, y0: int, x0: int, size_hw: tuple[int, int]) -> Sample:
    window = sample.image[:, y0 : y0 + size_hw[0], x0 : x0 + size_hw[1]]
    return _transformed(sample, window, (1.0, -float(x0), 1.0, -float(y0)))


def flip_horizontal(probability: float) -> Transform:
    """Flip left and right with this probability."""
    return partial(_flip_horizontal, probability=probability)


def _flip_horizontal(sample: Sample, generator: np.random.Generator, probability: float) -> Sample:
    if generator.random() >= probability:
        return sample
    return _transformed(sample, sample.image.flip(-1), (-1.0, float(sample.image.shape[-1]), 1.0, 0.0))


def flip_vertical(probability: float) -> Transform:
    """Flip top and bottom with this probability."""
    return partial(_flip_vertical, probability=probability)


def _flip_vertical(sample: Sample, generator: np.random.Generator, probability: float) -> Sample:
    if generator.random() >= probability:
        return sample
    return _transformed(sample, sample.image.flip(-2), (1.0, 0.0, -1.0, float(sample.image.shape[-2])))


def quarter_turn(probability: float) -> Transform:
    """Turn by 90°, anticlockwise, with this probability, after all other transforms.

    With both flips at 0.5 and this at 0.5, all eight positions of a picture are equally probable.
    """
    return partial(_quarter_turn, probability=probability)


def _quarter_turn(sample: Sample, generator: np.random.Generator, probability: float) -> Sample:
    return sample._replace(is_turned=bool(generator.random() < probability))


def _transformed(sample: Sample, image: Tensor, step: Affine) -> Sample:
    """Return the sample with a new image; `step` maps coordinates of the old image to the new one."""
    (ax, bx, ay, by), (sx, tx, sy, ty) = sample.affine, step
    return sample._replace(image=image, affine=(sx * ax, sx * bx + tx, sy * ay, sy * by + ty))


def colour_jitter(brightness: float = 0.0, contrast: float = 0.0, saturation: float = 0.0) -> Transform:
    """Scale each by a factor from a uniform distribution over 1 - strength … 1 + strength.

    Grey is the mean of the channels, so that any number of channels is supported; one has no saturation.
    """
    return partial(_colour_jitter, strengths=(brightness, contrast, saturation))


def _colour_jitter(
    sample: Sample, generator: np.random.Generator, strengths: tuple[float, float, float]
) -> Sample:
    brightness, contrast, saturation = (1 + generator.uniform(-1, 1) * strength for strength in strengths)
    image = sample.image.float()
    greys, mean = sum(image.unbind()) / len(image), image.mean()  # mean(0) is slow in channels-last memory
    # All three in one in-place expression: passes over memory take most of the time
    scale = brightness * contrast
    image.mul_(scale * saturation).add_(greys * (scale * (1 - saturation)) + mean * (brightness - scale))
    return sample._replace(image=image.round_().clamp_(0, 255).byte())
