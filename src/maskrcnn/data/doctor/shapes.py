"""Boxes and masks of one raw annotation: their extent, and which form a box has."""

from __future__ import annotations

from typing import Any

import numpy as np

from maskrcnn.data.categories import Entry
from maskrcnn.data.doctor.raw import to_bbox, to_numbers
from maskrcnn.data.readers.coco_masks import without_pairs
from maskrcnn.masks.rle import rle_counts

_CROSSING_POINTS = 400  # longer rings are not searched for crossings, which takes quadratic time
_SLACK = 2.0  # pixels by which box and mask may differ

Extent = tuple[float, float, float, float]  # x1, y1, x2, y2


def is_flat(segmentation: Any) -> bool:
    """Return whether a polygon is one list of numbers rather than a list of such lists."""
    return isinstance(segmentation, list) and len(segmentation) >= 6 and to_numbers(segmentation) is not None


def rings_of(segmentation: Any) -> list[np.ndarray]:
    """Return the rings that can be read, each (points, 2), also those of a flat polygon."""
    if not isinstance(segmentation, list):
        return []
    lists = [segmentation] if is_flat(segmentation) else without_pairs(segmentation)[0]
    numbers = [to_numbers(ring) for ring in lists]
    return [np.array(ring).reshape(-1, 2) for ring in numbers if ring and len(ring) % 2 == 0]


def ring_area(ring: np.ndarray) -> float:
    """Return the area of a ring in px²."""
    with np.errstate(over="ignore", invalid="ignore"):
        x, y = (ring - ring[:1]).T  # the first point is 0, and with it the last term of the sum
        return abs(float(np.dot(x[:-1], y[1:]) - np.dot(y[:-1], x[1:]))) / 2


def crosses_itself(ring: np.ndarray) -> bool:
    """Return whether two edges of a ring cross within both."""
    if not 4 <= len(ring) <= _CROSSING_POINTS:
        return False
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        step = np.concatenate([ring[1:], ring[:1]]) - ring
        gap = ring[None] - ring[:, None]
        cross = step[:, None, 0] * step[None, :, 1] - step[:, None, 1] * step[None, :, 0]
        first = (gap[..., 0] * step[None, :, 1] - gap[..., 1] * step[None, :, 0]) / cross
        second = (gap[..., 0] * step[:, None, 1] - gap[..., 1] * step[:, None, 0]) / cross
    inside = (first > 1e-6) & (first < 1 - 1e-6) & (second > 1e-6) & (second < 1 - 1e-6)
    return bool((inside & (cross != 0)).any())


def mask_area(annotation: Entry) -> float | None:
    """Return the area of the mask in px², None without a mask that can be read."""
    segmentation = annotation.get("segmentation")
    if isinstance(segmentation, dict):
        counts = _counts(segmentation)
        return None if counts is None else float(counts[1::2].sum())
    rings = [ring for ring in rings_of(segmentation) if len(ring) >= 3]
    return sum(map(ring_area, rings)) if rings else None


def mask_extent(annotation: Entry) -> Extent | None:
    """Return the box around the mask, None without a mask that can be read."""
    segmentation = annotation.get("segmentation")
    if isinstance(segmentation, dict):
        return _rle_extent(segmentation)
    rings = [ring for ring in rings_of(segmentation) if len(ring) >= 3]
    if not rings:
        return None
    points = np.concatenate(rings)
    (x1, y1), (x2, y2) = points.min(0).tolist(), points.max(0).tolist()
    return x1, y1, x2, y2


def _counts(rle: Entry) -> np.ndarray | None:
    try:
        return rle_counts(rle)
    except (ValueError, TypeError, KeyError, OverflowError, AttributeError):
        return None


def _rle_extent(rle: Entry) -> Extent | None:
    counts = _counts(rle)
    if counts is None:
        return None
    height, stops = int(rle["size"][0]), counts.cumsum()
    first, last = (stops - counts)[1::2], stops[1::2] - 1
    first, last = first[last >= first], last[last >= first]
    if not len(first):
        return None
    within = first // height == last // height  # a run over several columns touches the lower and upper edge
    y1 = int((first % height).min()) if within.all() else 0
    y2 = int((last % height).max()) + 1 if within.all() else height
    return float(first.min() // height), float(y1), float(last.max() // height + 1), float(y2)


def fits(first: Extent, second: Extent) -> bool:
    """Return whether two boxes agree, up to 2 pixels or a tenth of the larger side."""
    side = max(second[2] - second[0], second[3] - second[1])
    return max(abs(a - b) for a, b in zip(first, second, strict=True)) <= max(_SLACK, 0.1 * side)


def as_extent(bbox: list[float]) -> Extent:
    """Return x, y, width, height as corners."""
    x, y, width, height = bbox
    return x, y, x + width, y + height


def is_relative(bbox: list[float], size_hw: tuple[int, int] | None) -> bool:
    """Return whether a box is in fractions of the picture."""
    if size_hw is None or max(size_hw) < 8:
        return False
    fractions = any(value != int(value) for value in bbox)
    return fractions and min(bbox) >= 0 and max(as_extent(bbox)) <= 1.001


def looks_like_corners(annotation: Entry, size_hw: tuple[int, int] | None) -> bool | None:
    """Return whether a box is x1, y1, x2, y2: True or False if mask or picture tell, else None."""
    bbox = to_bbox(annotation.get("bbox"))
    if bbox is None or isinstance(annotation.get("bbox"), dict):
        return None
    corners, ordered = (bbox[0], bbox[1], bbox[2], bbox[3]), bbox[2] > bbox[0] and bbox[3] > bbox[1]
    extent = mask_extent(annotation)
    if extent is not None:
        right, wrong = fits(as_extent(bbox), extent), ordered and fits(corners, extent)
        return None if right == wrong else wrong
    if size_hw is None:
        return None
    height, width = size_hw
    if not ordered:
        return False
    exceeds = bbox[0] + bbox[2] > width + _SLACK or bbox[1] + bbox[3] > height + _SLACK
    return True if exceeds and bbox[2] <= width and bbox[3] <= height else None
