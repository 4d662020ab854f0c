"""From file pixels to the network's input: the one place where a picture and its objects change their frame.

First a `Resize` says how large a picture is to be, before it is decoded, and `resized` makes it so. Then
come transforms, functions ``(Sample, numpy Generator) -> Sample``. They change the image, and note in
`affine` what that does to coordinates; the objects stay in file pixels until `to_network` maps them, once and
exactly. The makers of both return `functools.partial`s, which, unlike closures, can be sent to spawned worker
processes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from maskrcnn.data.dataset import Entry, Objects, Polygons
from maskrcnn.data.pictures import Picture, SizeHW, Source, read_to_resize
from maskrcnn.masks.rle import rle_to_crop

IDENTITY = (1.0, 0.0, 1.0, 0.0)

NO_OBJECTS = Objects(
    np.zeros((0, 4), np.float32),
    np.zeros(0, np.int64),
    np.zeros(0, np.bool_),
    [],
    None,
    np.zeros(0, np.int64),
)

Affine = tuple[
    float, float, float, float
]  # scale_x, shift_x, scale_y, shift_y: x_new = scale_x * x + shift_x


class Sample(NamedTuple):
    """A picture on its way to the network, and its objects, still in file pixels."""

    image: UInt8[Tensor, "C H W"]
    objects: Objects
    keypoint_flip: tuple[int, ...] = ()  # which keypoint each becomes in a mirror
    affine: Affine = IDENTITY  # file → image


# From the size of a file to the size in which the network sees it.
Resize = Callable[[SizeHW, np.random.Generator], SizeHW]
Transform = Callable[[Sample, np.random.Generator], Sample]


class MaskCrop(NamedTuple):
    """The tight crop of an object's mask, in pixels of its own."""

    pixels: UInt8[np.ndarray, "h w"]
    affine: Affine  # network's input → crop


class Truth(NamedTuple):
    """Objects of one picture in the frame of the network's input."""

    boxes: Float[np.ndarray, "G 4"]
    labels: Int[np.ndarray, " G"]
    crowd: Bool[np.ndarray, " G"]
    crops: list[MaskCrop | None]
    keypoints: Float[np.ndarray, "G J 3"] | None


def resize(short_side: int | Sequence[int] | None, long_side: int) -> Resize:
    """Scale the short side to `short_side`, or to one of them; the long one becomes `long_side` at most.

    None keeps the scale of the file, where the scale itself has a meaning (as under a microscope).
    """
    short_sides = (short_side,) if isinstance(short_side, int) else tuple(short_side or ())
    return partial(_resize, short_sides=short_sides, long_side=long_side)


def _resize(
    size_hw: SizeHW, generator: np.random.Generator, short_sides: tuple[int, ...], long_side: int
) -> SizeHW:
    fits = long_side / max(size_hw)
    if not short_sides:
        return _scaled(size_hw, min(1.0, fits))
    short_side = short_sides[0] if len(short_sides) == 1 else generator.choice(short_sides)
    return _scaled(size_hw, min(short_side / min(size_hw), fits))


def fit(limits: SizeHW) -> Resize:
    """Scale to the largest size that fits into `limits`."""
    return partial(_fit, limits=limits)


def _fit(size_hw: SizeHW, generator: np.random.Generator, limits: SizeHW) -> SizeHW:
    return _scaled(size_hw, min(limits[0] / size_hw[0], limits[1] / size_hw[1]))


def random_scale(resize: Resize, low: float, high: float) -> Resize:
    """Scale what `resize` gives by a factor drawn evenly from `low` … `high`."""
    return partial(_random_scale, resize=resize, low=low, high=high)


def _random_scale(
    size_hw: SizeHW, generator: np.random.Generator, resize: Resize, low: float, high: float
) -> SizeHW:
    return _scaled(resize(size_hw, generator), generator.uniform(low, high))


def _scaled(size_hw: SizeHW, scale: float) -> SizeHW:
    height, width = size_hw
    # torch 2.13 resizes uint8 to a width of 1 wrongly
    return max(2, int(height * scale + 0.5)), max(2, int(width * scale + 0.5))


def resized(picture: Picture, objects: Objects, keypoint_flip: tuple[int, ...] = ()) -> Sample:
    """Bring a picture to the size that is wanted."""
    image, (file_height, file_width), (rows, columns), (x1, y1, x2, y2) = picture
    height, width = image.shape[-2:]
    if (height, width) != (rows, columns):
        image = _interpolated(image, (rows, columns))
    x_scale, y_scale = columns / width, rows / height
    to_image_x, to_image_y = (x2 - x1) / file_width, (y2 - y1) / file_height  # 1 / 2, … of a shrunk JPEG
    affine = (x_scale * to_image_x, x_scale * x1, y_scale * to_image_y, y_scale * y1)
    return Sample(image, objects, keypoint_flip, affine)


class Prepared(NamedTuple):
    """A picture as the network sees it, but for padding."""

    image: UInt8[Tensor, "C H W"]
    affine: Affine  # file → image
    size_hw: SizeHW  # of the file


def prepare(source: Source, resize: Resize, channels: int = 3) -> Prepared:
    """Read a picture upright and resize it for prediction. Raises as `read_picture` does."""
    generator = np.random.default_rng(0)  # a size for prediction is not drawn
    picture = read_to_resize(source, lambda size_hw: resize(size_hw, generator), channels)
    sample = resized(picture, NO_OBJECTS)
    return Prepared(sample.image, sample.affine, picture.file_hw)


def _interpolated(image: Tensor, size_hw: SizeHW) -> Tensor:
    # By the strides that this gives, torch sees channels-last memory: several times faster, equal to the bit
    batch = image.permute(1, 2, 0)[None].permute(0, 3, 1, 2)
    return F.interpolate(batch, size_hw, mode="bilinear", antialias=True)[0]


def compose(*transforms: Transform) -> Transform:
    """One transform after another."""
    return partial(_compose, transforms=transforms)


def _compose(sample: Sample, generator: np.random.Generator, transforms: Sequence[Transform]) -> Sample:
    for transform in transforms:
        sample = transform(sample, generator)
    return sample


def crop(size_hw: tuple[int, int]) -> Transform:
    """Cut a window of `size_hw`, or as much of it as the picture has, at random."""
    return partial(_crop, size_hw=size_hw)


def _crop(sample: Sample, generator: np.random.Generator, size_hw: tuple[int, int]) -> Sample:
    height, width = sample.image.shape[-2:]
    y0 = int(generator.integers(max(0, height - size_hw[0]) + 1))
    x0 = int(generator.integers(max(0, width - size_hw[1]) + 1))
    window = sample.image[:, y0 : y0 + size_hw[0], x0 : x0 + size_hw[1]]
    return _moved(sample, window, (1.0, -float(x0), 1.0, -float(y0)))


def flip_horizontal(probability: float) -> Transform:
    """Mirror left and right."""
    return partial(_flip_horizontal, probability=probability)


def _flip_horizontal(sample: Sample, generator: np.random.Generator, probability: float) -> Sample:
    if generator.random() >= probability:
        return sample
    return _moved(sample, sample.image.flip(-1), (-1.0, float(sample.image.shape[-1]), 1.0, 0.0))


def flip_vertical(probability: float) -> Transform:
    """Mirror top and bottom."""
    return partial(_flip_vertical, probability=probability)


def _flip_vertical(sample: Sample, generator: np.random.Generator, probability: float) -> Sample:
    if generator.random() >= probability:
        return sample
    return _moved(sample, sample.image.flip(-2), (1.0, 0.0, -1.0, float(sample.image.shape[-2])))


def _moved(sample: Sample, image: Tensor, step: Affine) -> Sample:
    """The sample with `image`, to which `step` leads from the image it had."""
    (ax, bx, ay, by), (sx, tx, sy, ty) = sample.affine, step
    return sample._replace(image=image, affine=(sx * ax, sx * bx + tx, sy * ay, sy * by + ty))


def colour_jitter(brightness: float = 0.0, contrast: float = 0.0, saturation: float = 0.0) -> Transform:
    """Change each by a factor drawn evenly from 1 - strength … 1 + strength.

    Grey is the mean of the channels, so that any number of them will do; one channel has no saturation.
    """
    return partial(_colour_jitter, strengths=(brightness, contrast, saturation))


def _colour_jitter(
    sample: Sample, generator: np.random.Generator, strengths: tuple[float, float, float]
) -> Sample:
    brightness, contrast, saturation = (1 + generator.uniform(-1, 1) * strength for strength in strengths)
    image = sample.image.float()
    greys, mean = sum(image.unbind()) / len(image), image.mean()  # mean(0) is slow in channels-last memory
    # All three at once, in place: the passes over the memory are what takes the time
    kept = brightness * contrast
    image.mul_(kept * saturation).add_(greys * (kept * (1 - saturation)) + mean * (brightness - kept))
    return sample._replace(image=image.round_().clamp_(0, 255).byte())


def to_network(sample: Sample) -> tuple[UInt8[Tensor, "C H W"], Truth]:
    """Map the objects into the frame of the image as it is now.

    Polygons are rasterised here, at the network's resolution; run lengths keep that of the file. An object
    that reaches over the edge gets the box of its visible part; with less than 1 square pixel left it goes.
    """
    objects, size_hw = sample.objects, sample.image.shape[-2:]
    mapped = _map_boxes(objects.boxes, sample.affine)
    boxes = _clip(mapped, size_hw)
    is_cut = np.abs(boxes - mapped).max(1, initial=0) > 1e-3  # more than rounding
    kept, crops = [], []
    for i in np.flatnonzero(_areas(boxes) > 0):
        crop = _crop_mask(objects.masks[i], sample.affine, size_hw)
        if is_cut[i]:
            if objects.masks[i] is not None:
                boxes[i] = _visible_box(crop, size_hw)
            if _visible_area(crop, boxes[i]) < 1:
                continue
        kept.append(i)
        crops.append(crop)
    keypoints = None if objects.keypoints is None else _map_keypoints(objects.keypoints[kept], sample)
    boxes = boxes[kept].astype(np.float32)
    return sample.image, Truth(boxes, objects.labels[kept], objects.crowd[kept], crops, keypoints)


def _map_boxes(boxes: np.ndarray, affine: Affine) -> np.ndarray:
    sx, tx, sy, ty = affine
    corners = boxes.reshape(-1, 2, 2) * np.array([sx, sy]) + np.array([tx, ty])
    return np.concatenate([corners.min(1), corners.max(1)], 1)  # a mirror has swapped them


def _clip(boxes: np.ndarray, size_hw: Sequence[int]) -> np.ndarray:
    return boxes.clip(0, np.array([size_hw[1], size_hw[0]] * 2))


def _areas(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _map_keypoints(keypoints: np.ndarray, sample: Sample) -> np.ndarray:
    (height, width), (sx, tx, sy, ty) = sample.image.shape[-2:], sample.affine
    if sx * sy < 0:  # a mirror, in which a left hand looks like a right one; two mirrors make a turn
        keypoints = keypoints[:, list(sample.keypoint_flip)]
    x, y = keypoints[..., 0] * sx + tx, keypoints[..., 1] * sy + ty
    inside = (x >= 0) & (x <= width) & (y >= 0) & (y <= height)
    labelled = (keypoints[..., 2] > 0) & inside
    return np.stack([x, y, keypoints[..., 2]], -1).astype(np.float32) * labelled[..., None]


def _crop_mask(mask: Polygons | Entry | None, affine: Affine, size_hw: Sequence[int]) -> MaskCrop | None:
    if mask is None:
        return None
    if isinstance(mask, dict):
        return _crop_runs(mask, affine, size_hw)
    return _crop_polygons(mask, affine, size_hw)


def _crop_polygons(polygons: Polygons, affine: Affine, size_hw: Sequence[int]) -> MaskCrop | None:
    from faster_coco_eval.core import mask as coco_mask

    sx, tx, sy, ty = affine
    rings = [ring.astype(np.float64) * [sx, sy] + [tx, ty] for ring in polygons]
    points = np.concatenate(rings)
    origin = np.maximum(np.floor(points.min(0)), 0).astype(int)
    width, height = np.minimum(np.ceil(points.max(0)), size_hw[::-1]).astype(int) - origin
    if min(width, height) <= 0:
        return None
    runs = coco_mask.frPyObjects(
        [(ring - origin).ravel().tolist() for ring in rings], int(height), int(width)
    )
    return _tight(coco_mask.decode(coco_mask.merge(runs)), (1.0, -float(origin[0]), 1.0, -float(origin[1])))


def _crop_runs(rle: Entry, affine: Affine, size_hw: Sequence[int]) -> MaskCrop | None:
    pixels, (y0, x0) = rle_to_crop(rle)
    sx, tx, sy, ty = affine
    to_crop = (1 / sx, -tx / sx - x0, 1 / sy, -ty / sy - y0)
    seen = _map_boxes(np.array([0, 0, size_hw[1], size_hw[0]]), to_crop)[0].round(6)  # rounding adds no pixel
    low, high = np.floor(seen[:2]).clip(0).astype(int), np.ceil(seen[2:]).clip(0).astype(int)
    to_window = (to_crop[0], to_crop[1] - low[0], to_crop[2], to_crop[3] - low[1])
    return _tight(pixels[low[1] : high[1], low[0] : high[0]], to_window)


def _tight(pixels: np.ndarray, affine: Affine) -> MaskCrop | None:
    """Cut a crop down to the rows and columns that hold something; None where nothing does."""
    rows, columns = np.flatnonzero(pixels.any(1)), np.flatnonzero(pixels.any(0))
    if not len(rows):
        return None
    pixels = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    sx, tx, sy, ty = affine
    return MaskCrop(np.ascontiguousarray(pixels, np.uint8), (sx, tx - columns[0], sy, ty - rows[0]))


def _visible_box(crop: MaskCrop | None, size_hw: Sequence[int]) -> np.ndarray:
    if crop is None:
        return np.zeros(4)
    (height, width), (sx, tx, sy, ty) = crop.pixels.shape, crop.affine
    to_network = (1 / sx, -tx / sx, 1 / sy, -ty / sy)
    return _clip(_map_boxes(np.array([0, 0, width, height]), to_network), size_hw)[0]


def _visible_area(crop: MaskCrop | None, box: np.ndarray) -> float:
    """Square pixels of the network's input."""
    if crop is None:
        return float(_areas(box[None])[0])
    sx, _, sy, _ = crop.affine
    return float(crop.pixels.sum()) / abs(sx * sy)
