"""This module turns a picture into the network's input: resized, and padded where pictures share a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor

from maskrcnn.data.pictures import Picture, SizeHW, Source, read_to_resize
from maskrcnn.types import Batch

# scale_x, shift_x, scale_y, shift_y: x_new = scale_x * x + shift_x
Affine = tuple[float, float, float, float]


class Prepared(NamedTuple):
    """A picture as the network's input, except for padding."""

    image: UInt8[Tensor, "C H W"]
    affine: Affine  # file → image
    size_hw: SizeHW  # of the file, upright


# From the size of the upright file to the size of the network's input
Resize = Callable[[SizeHW, np.random.Generator], SizeHW]


def prepare(source: Source, resize: Resize, channels: int = 3, white: int | None = None) -> Prepared:
    """Read a picture upright and resize it for prediction. Raises as `read_picture` does."""
    generator = np.random.default_rng(0)  # for a resize with a random size
    return at_target_size(read_to_resize(source, lambda hw: resize(hw, generator), channels, white))


def at_target_size(picture: Picture) -> Prepared:
    """Resize a picture to its `target_hw`."""
    image, (file_height, file_width), (rows, columns), (x1, y1, x2, y2) = picture
    height, width = image.shape[-2:]
    if (height, width) != (rows, columns):
        # These strides are channels-last, in which torch is several times faster, with bit-identical results
        batch = image.permute(1, 2, 0)[None].permute(0, 3, 1, 2)
        image = F.interpolate(batch, (rows, columns), mode="bilinear", antialias=True)[0]
    x_scale, y_scale = columns / width, rows / height
    to_image_x, to_image_y = (x2 - x1) / file_width, (y2 - y1) / file_height  # 1 / 2, … of a shrunk JPEG
    affine = (x_scale * to_image_x, x_scale * x1, y_scale * to_image_y, y_scale * y1)
    return Prepared(image, affine, picture.file_hw)


def resize(short_side: int | Sequence[int] | None, long_side: int) -> Resize:
    """Scale the short side to `short_side`, or to a random one of several, within a limit of the long side.

    With None the file's own scale is kept, where scale has a meaning (as in microscopy).
    """
    short_sides = (short_side,) if isinstance(short_side, int) else tuple(short_side or ())
    return partial(_resize, short_sides=short_sides, long_side=long_side)


def _resize(
    size_hw: SizeHW, generator: np.random.Generator, short_sides: tuple[int, ...], long_side: int
) -> SizeHW:
    fits = long_side / max(size_hw)
    if not short_sides:
        return scaled(size_hw, min(1.0, fits))
    short_side = short_sides[0] if len(short_sides) == 1 else generator.choice(short_sides)
    return scaled(size_hw, min(short_side / min(size_hw), fits))


def fit(limits: SizeHW) -> Resize:
    """Scale to the largest size within `limits`."""
    return partial(_fit, limits=limits)


def _fit(size_hw: SizeHW, generator: np.random.Generator, limits: SizeHW) -> SizeHW:
    return scaled(size_hw, min(limits[0] / size_hw[0], limits[1] / size_hw[1]))


def scaled(size_hw: SizeHW, scale: float) -> SizeHW:
    """Scale both sides, rounded, to at least 2."""
    height, width = size_hw
    # torch 2.13 computes wrong values when it resizes uint8 to a width of 1
    return max(2, int(height * scale + 0.5)), max(2, int(width * scale + 0.5))


def map_boxes(boxes: Shaped[np.ndarray, "... 4"], affine: Affine) -> Float[np.ndarray, "N 4"]:
    """Map boxes along an affine note; a mirror image exchanges their corners."""
    sx, tx, sy, ty = affine
    corners = boxes.reshape(-1, 2, 2) * np.array([sx, sy]) + np.array([tx, ty])
    return np.concatenate([corners.min(1), corners.max(1)], 1)


def pad(images: Sequence[Shaped[Tensor, "C _ _"]], stride: int) -> Batch:
    """Copy pictures to the top left corners of one channels-last tensor of zeros."""
    sizes_hw = torch.tensor([image.shape[-2:] for image in images])
    height, width = (-(-sizes_hw.amax(0) // stride) * stride).tolist()
    padded = torch.zeros(len(images), height, width, len(images[0]), dtype=images[0].dtype).permute(
        0, 3, 1, 2
    )
    for canvas, image in zip(padded, images, strict=True):
        canvas[:, : image.shape[1], : image.shape[2]] = image
    return Batch(padded, sizes_hw)
