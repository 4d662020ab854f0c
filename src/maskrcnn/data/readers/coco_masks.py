"""Boxes, polygons and run lengths of COCO's annotations: checked, for they come from outside."""

from __future__ import annotations

from itertools import chain
from typing import Any

import numpy as np

from maskrcnn.data.categories import Entry
from maskrcnn.data.dataset import Mask, Polygons
from maskrcnn.masks.rle import compress, rle_counts, rle_to_crop


def read_numbers(values: Any, what: str) -> np.ndarray:
    """Return a list of finite numbers, texts of numbers included. Raises ValueError that names `what`."""
    try:
        numbers = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        numbers = np.array(np.nan)
    if numbers.ndim != 1 or not np.isfinite(numbers).all():
        raise ValueError(f"{what} is not a list of finite numbers")
    return numbers


def bbox_of(mask: Mask) -> np.ndarray:
    """Return x, y, width, height of a mask."""
    if isinstance(mask, list):
        points = np.concatenate(mask)
        low, high = points.min(0), points.max(0)
        return np.concatenate([low, high - low])
    crop, (y0, x0) = rle_to_crop(mask or {})
    return np.array([x0, y0, crop.shape[1], crop.shape[0]], np.float64)


def without_pairs(rings: list) -> tuple[list, int]:
    """Return polygons as lists x, y, x, y, …, and how many of them were lists of pairs [x, y]."""
    rings = [rings] if len(rings) >= 3 and _is_pairs(rings) else rings
    pairs = [_is_pairs(ring) for ring in rings]
    flat = [
        list(chain.from_iterable(ring)) if of_pairs else ring
        for ring, of_pairs in zip(rings, pairs, strict=True)
    ]
    return flat, sum(pairs)


def _is_pairs(ring: Any) -> bool:
    is_list = isinstance(ring, list) and len(ring) > 0 and isinstance(ring[0], list)
    return is_list and all(isinstance(point, list) and len(point) == 2 for point in ring)


def read_polygons(segmentation: list, size_hw: tuple[int, int]) -> Polygons:
    """Return the rings of at least 3 points; ValueError if there is none."""
    rings = [read_numbers(ring, f"polygon {i}") for i, ring in enumerate(segmentation)]
    limit = np.array(size_hw[::-1])
    for i, ring in enumerate(rings):
        if len(ring) % 2:
            raise ValueError(
                f"polygon {i} has {len(ring)} numbers; an even count was expected (x, y, x, y, …)"
            )
        points = ring.reshape(-1, 2)
        if (points < -limit).any() or (points > 2 * limit).any():
            raise ValueError(f"polygon {i} is outside the picture by more than the picture's size")
    valid = [ring.reshape(-1, 2) for ring in rings if len(ring) >= 6]
    if not valid:
        raise ValueError(f"polygon 0 has {len(rings[0]) // 2} points; at least 3 were expected")
    return valid


def read_rle(segmentation: Entry, size_hw: tuple[int, int]) -> Entry:
    """Check run lengths and return them in compressed form."""
    if list(segmentation["size"]) != list(size_hw):
        raise ValueError(
            f"the run lengths have the size {segmentation['size']}, but the picture has {list(size_hw)}"
            " (height, width)"
        )
    return {"size": list(size_hw), "counts": compress(rle_counts(segmentation))}
