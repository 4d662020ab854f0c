"""What the rules of a plan need to know about a data set, from its annotations and a few of its pictures."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from maskrcnn.data.dataset import Dataset, Mask, Objects
from maskrcnn.data.pictures import read_to_resize
from maskrcnn.masks.rle import decode, rle_counts

_DECODED = 64  # pictures whose pixels are looked at
_MEASURED = 20_000  # objects, about, whose masks and neighbours are measured; of more, every second, third, …
_TURNED = 1000  # masks whose main axis is computed
_ELONGATED = 1.5  # ratio of the main axes from which a mask has a direction
_CHI_SQUARE_8_BINS = 14.07  # 5 % of uniform samples exceed it
_SMALL_EFFECT = 0.1  # of chi-square by the number of masks; photographs have 0.25 and more, nuclei 0.04
_BANDS = 8  # horizontal bands whose brightness is compared


@dataclass(frozen=True)
class ObjectStatistics:
    """Percentiles of the objects, crowd regions aside; sides are √(mask area) in px of the files."""

    count: int
    in_a_picture: tuple[float, float, float]  # median, 99th percentile, most
    sides: tuple[float, float, float, float, float]  # percentiles 5, 10, 50, 95, 99; at least 1
    share_square: float  # of boxes within 1.5 : 1
    share_long: float  # of boxes beyond 3 : 1
    overlap: float  # 99th percentile of the IoU of an object's box with the nearest of its class
    truncated: float  # share that touches the border of its picture
    whole: int  # masks that do not, in the class that has most of them
    cover: float  # share of a picture that masks cover, the median


@dataclass(frozen=True)
class Fingerprint:
    """A data set in numbers."""

    pictures: int
    size_hw: tuple[float, float]  # medians, px
    longest_side: int
    is_grey: bool
    white: int | None  # of pictures with more than 8 bits
    classes: tuple[int, ...]  # objects of each class
    class_pictures: tuple[int, ...]  # pictures that show each class
    keypoints: int
    has_up: bool  # False where pictures may be turned: masks have all directions, and no band is brighter
    objects: ObjectStatistics
    share_grey: float = 0.0  # of the pictures that were decoded; `is_grey` where it is all


def fingerprint(dataset: Dataset) -> Fingerprint:
    """Return the fingerprint of a data set.

    It reads all annotations, measures the masks of about 20,000 objects at most, and decodes up to 64
    pictures, at equal distances; those that cannot be read are skipped, as training reports them. Raises
    ValueError where there is no object to learn from.
    """
    pictures = [without_crowds(dataset.objects(index)) for index in range(len(dataset))]
    counts = np.array([len(objects.labels) for objects in pictures])
    if not counts.sum():
        raise ValueError(f"{dataset.source}: there are no objects to learn from")
    boxes = np.concatenate([objects.boxes for objects in pictures])
    labels = np.concatenate([objects.labels for objects in pictures])
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    ratio = np.maximum(width, height) / np.maximum(np.minimum(width, height), 1e-6)
    limits = np.repeat(dataset.sizes_hw[:, ::-1], counts, axis=0)
    truncated = (boxes[:, :2] <= 1).any(1) | (boxes[:, 2:] >= limits - 1).any(1)
    has_mask = np.array([mask is not None for objects in pictures for mask in objects.masks])
    classes = len(dataset.class_names)
    shown = np.unique(np.repeat(np.arange(len(dataset)), counts) * classes + labels) % classes
    step = max(1, len(boxes) // _MEASURED)
    some = pictures[::step]
    areas = [mask_areas(objects) for objects in some]
    covers = np.array([of_one.sum() for of_one in areas]) / dataset.sizes_hw[::step].prod(1)
    overlaps = np.concatenate([nearest_overlaps(objects) for objects in some])
    profiles, share_grey = look_at_pixels(dataset)
    height_px, width_px = np.median(dataset.sizes_hw, axis=0).tolist()
    return Fingerprint(
        pictures=len(dataset),
        size_hw=(height_px, width_px),
        longest_side=int(dataset.sizes_hw.max()),
        is_grey=share_grey == 1,
        white=dataset.white,
        classes=tuple(np.bincount(labels, minlength=classes).tolist()),
        class_pictures=tuple(np.bincount(shown, minlength=classes).tolist()),
        keypoints=len(dataset.keypoint_names),
        has_up=not has_all_directions(some) or has_brighter_bands(profiles),
        objects=ObjectStatistics(
            count=int(counts.sum()),
            in_a_picture=(float(np.median(counts)), float(np.percentile(counts, 99)), float(counts.max())),
            sides=tuple(
                np.percentile(np.sqrt(np.concatenate(areas)).clip(min=1), (5, 10, 50, 95, 99)).tolist()
            ),
            share_square=float((ratio <= 1.5).mean()),
            share_long=float((ratio > 3).mean()),
            overlap=float(np.percentile(overlaps, 99)),
            truncated=float(truncated.mean()),
            whole=int(np.bincount(labels[has_mask & ~truncated], minlength=1).max()),
            cover=float(np.median(covers)),
        ),
        share_grey=share_grey,
    )


def without_crowds(objects: Objects) -> Objects:
    """Return the objects that are not crowd regions."""
    kept = np.flatnonzero(~objects.crowd)
    return objects._replace(
        boxes=objects.boxes[kept],
        labels=objects.labels[kept],
        crowd=objects.crowd[kept],
        masks=[objects.masks[index] for index in kept],
        ids=objects.ids[kept],
    )


def mask_areas(objects: Objects) -> Float[np.ndarray, " G"]:
    """Return the area of each mask, px²; of its box where an object has no mask."""
    areas = (objects.boxes[:, 2:] - objects.boxes[:, :2]).prod(1).astype(np.float64)
    for index, mask in enumerate(objects.masks):
        if isinstance(mask, dict):
            areas[index] = rle_counts(mask)[1::2].sum()
        elif mask:
            areas[index] = sum(_ring_area(ring) for ring in mask)
    return areas


def _ring_area(ring: np.ndarray) -> float:
    x, y = ring.T.astype(np.float64)
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)


def nearest_overlaps(objects: Objects) -> Float[np.ndarray, " G"]:
    """Return for each object the largest IoU of its box with another of its class; of at most 200 objects."""
    boxes, labels = objects.boxes[:200], objects.labels[:200]
    low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    shared = (high - low).clip(min=0).prod(2)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    iou = shared / np.maximum(area[:, None] + area - shared, 1e-6)
    iou[(labels[:, None] != labels) | np.eye(len(boxes), dtype=bool)] = 0
    return iou.max(1, initial=0)


def has_all_directions(pictures: Iterable[Objects]) -> bool:
    """Return whether the main axes of elongated masks are spread about evenly over all directions.

    It takes 40 of them to say so. Chi-square over 8 bins must be below its 5 % limit, or small for their
    number: pixels alone favour some directions.
    """
    masks = [mask for objects in pictures for mask in objects.masks if mask]
    angles = [angle for mask in masks[:: max(1, len(masks) // _TURNED)] if (angle := _direction(mask)) >= 0]
    counts = np.histogram(angles, bins=8, range=(0, np.pi))[0]
    if len(angles) < 40:
        return False
    chi_square = ((counts - len(angles) / 8) ** 2).sum() / (len(angles) / 8)
    return bool(chi_square < max(_CHI_SQUARE_8_BINS, _SMALL_EFFECT * len(angles)))


def _direction(mask: Mask) -> float:
    """Return the angle of a mask's main axis, 0 … π; -1 where it is about as wide as it is high."""
    if isinstance(mask, dict):
        points = np.argwhere(decode(mask))[:, ::-1].astype(np.float64)
    else:
        points = _along_rings(mask or [])
    if len(points) < 3:
        return -1.0
    values, vectors = np.linalg.eigh(np.cov(points.T))
    if values[1] < _ELONGATED**2 * max(values[0], 1e-6):
        return -1.0
    return float(np.arctan2(vectors[1, 1], vectors[0, 1]) % np.pi)


def _along_rings(rings: Iterable[np.ndarray]) -> np.ndarray:
    """Return points at equal distances along polygons: their corners alone may be crowded in places."""
    points = [np.zeros((0, 2))]
    for ring in rings:
        closed = np.concatenate([ring, ring[:1]]).astype(np.float64)
        at = np.concatenate([[0], np.hypot(*np.diff(closed, axis=0).T).cumsum()])
        positions = np.linspace(0, at[-1], 64, endpoint=False)
        points.append(np.stack([np.interp(positions, at, axis) for axis in closed.T], 1))
    return np.concatenate(points)


def look_at_pixels(dataset: Dataset) -> tuple[Float[np.ndarray, "pictures bands"], float]:
    """Return the mean brightness of horizontal bands less the picture's own, and the share of grey ones."""
    profiles, grey = [], []
    for index in range(0, len(dataset), -(-len(dataset) // _DECODED)):
        try:
            picture = read_to_resize(
                dataset.path(index), lambda hw: (max(8, hw[0] // 8), max(8, hw[1] // 8)), 3, dataset.white
            )
        except (OSError, ValueError):
            continue
        pixels = picture.image.numpy().astype(np.float64)
        grey.append((np.ptp(pixels, axis=0) <= 8).mean() > 0.99)
        bands = np.array([band.mean() for band in np.array_split(pixels.mean(0), _BANDS)])
        profiles.append(bands - bands.mean())
    return np.array(profiles).reshape(-1, _BANDS), float(np.mean(grey)) if grey else 1.0


def has_brighter_bands(profiles: Float[np.ndarray, "pictures bands"]) -> bool:
    """Return whether a band is brighter or darker than its pictures by four standard errors."""
    if len(profiles) < 8:
        return False
    error = profiles.std(0, ddof=1) / np.sqrt(len(profiles))
    return bool((np.abs(profiles.mean(0)) > 4 * np.maximum(error, 1e-6)).any())
