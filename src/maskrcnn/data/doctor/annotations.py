"""Checks of one annotation file in COCO's format, on its raw content: nothing is repaired before."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

from maskrcnn.data.doctor.findings import Finding, Kind
from maskrcnn.masks.rle import rle_counts

Entry = dict[str, Any]

_SHORT, _LONG = 800, 1333  # sides of pictures in a usual training
_CAP = 100  # detections of a picture in a usual training

NOT_AN_OBJECT = Kind("entry that is no object", "error", "write each entry as {…}")
TEXT = Kind("number written as a text or fraction", "warning", "write it as a whole number; it is read so")
NO_NUMBER = Kind("id or size that is no whole number of 64 bits", "error", "number the entries from 1")
TWICE = Kind("id that occurs more than once", "error", "number the entries from 1")
UNKNOWN = Kind("unknown picture or category", "error", "remove the annotation, or list what it refers to")
FLAG = Kind("iscrowd that is neither 0 nor 1", "error", "write 0, or 1 for a crowd region")
NO_BOX = Kind("no box", "warning", "none needed beside a mask: the box is taken from it")
BAD_BOX = Kind("box that is not x, y, width, height", "error", "write four numbers, width and height ≥ 0")
EMPTY_BOX = Kind("box without area", "warning", "remove the annotation; training leaves it out")
OUTSIDE = Kind("box that leaves its picture", "warning", "clip it to the picture; training does")
CORNERS = Kind("boxes that are corners", "error", "write x, y, width, height in place of x1, y1, x2, y2")
RELATIVE = Kind("boxes relative to the picture", "error", "multiply by the picture's width and height")
MISFIT = Kind("box that does not fit its mask", "warning", "take the box from the mask")
FLAT = Kind("polygon that is not in a list", "warning", "put [ ] around it; it is read so")
SHORT_RING = Kind("polygon of fewer than 3 points", "error", "remove it")
ODD_RING = Kind("polygon that is not x, y, x, y, …", "error", "write pairs of numbers")
CROSSING = Kind("polygon that crosses itself", "note", "draw its outline anew; it is filled by even and odd")
RLE = Kind("run lengths that do not fit their picture", "error", "write size as [height, width] and all runs")
NO_MASK = Kind("object without a mask", "note", "draw masks, or train a recipe that ends in _box")
VANISHING = Kind("mask of less than a pixel in training", "warning", "remove it, or train on larger pictures")
SAME = Kind("annotation that another one repeats", "warning", "remove one of them")
EMPTY_PICTURES = Kind("picture without objects", "note", "none needed: it teaches the background")
ALL_CROWD = Kind("picture with crowd regions alone", "warning", "set iscrowd to 0 where it is one object")
NO_EXAMPLE = Kind("class without examples", "warning", "label some, or remove the category")
MANY = Kind("more objects than a network detects by default", "note", "a plan raises boxes.max_detections")
NAMES = Kind("class names that differ by case or spaces alone", "warning", "make one category of them")
NO_NAME = Kind("category without a name", "error", "give it one")
KEYPOINTS = Kind("keypoints that differ between categories", "error", "give all categories the same names")


def check_annotations(place: str, content: Entry) -> Iterator[Finding]:
    """Yield the findings in one file; `place` names it."""
    lists = {}
    for key in ("categories", "images", "annotations"):
        lists[key] = [entry for entry in content[key] if isinstance(entry, dict)]
        for index, entry in enumerate(content[key]):
            if not isinstance(entry, dict):
                yield Finding(NOT_AN_OBJECT, f"{place}: {key}[{index}]", repr(entry)[:60])
        yield from _check_ids(place, key, lists[key])
    images = {number(image.get("id")): image for image in lists["images"]}
    categories = {number(category.get("id")): category for category in lists["categories"]}
    for image_id, image in images.items():
        for side in ("height", "width"):
            if (value := image.get(side)) is not None:
                yield from _check_number(f"{place}: image {image_id}", side, value)
    yield from _check_categories(place, lists["categories"])
    for annotation in lists["annotations"]:
        where = f"{place}: annotation {annotation.get('id')} of image {annotation.get('image_id')}"
        yield from _check_annotation(where, annotation, images, categories)
    yield from _check_boxes_together(place, lists["annotations"], images)
    yield from _check_repeats(place, lists["annotations"])
    yield from _check_pictures(place, lists["annotations"], images)
    used = Counter(number(annotation.get("category_id")) for annotation in lists["annotations"])
    for id_, category in categories.items():
        if not used[id_]:
            yield Finding(NO_EXAMPLE, f"{place}: category {id_}", str(category.get("name"))[:60])


def number(value: Any) -> int | None:
    """Return the whole number that a value stands for, None where it stands for none."""
    try:
        if isinstance(value, bool) or value is None or float(value) != int(float(value)):
            return None
        return int(value) if not isinstance(value, str) else int(float(value))
    except (TypeError, ValueError, OverflowError):
        return None


def _check_number(where: str, key: str, value: Any) -> Iterator[Finding]:
    known = number(value)
    if known is None or not -(2**63) <= known < 2**63:
        yield Finding(NO_NUMBER, where, f"{key} is {value!r:.60}")
    elif not isinstance(value, int):
        yield Finding(TEXT, where, f"{key} is {value!r:.60}")


def _check_ids(place: str, key: str, entries: list[Entry]) -> Iterator[Finding]:
    for index, entry in enumerate(entries):
        if key != "annotations" or "id" in entry:
            yield from _check_number(f"{place}: {key}[{index}]", "id", entry.get("id"))
    counts = Counter(number(entry.get("id")) for entry in entries)
    for id_, count in counts.items():
        if id_ is not None and count > 1:
            kind = TWICE if key != "annotations" else TWICE._replace(severity="warning")
            yield Finding(kind, f"{place}: {key}", f"id {id_} occurs {count} times")


def _check_categories(place: str, categories: list[Entry]) -> Iterator[Finding]:
    names: dict[str, list[str]] = {}
    schemes = set()
    for category in categories:
        if not isinstance(category.get("name"), str) or not category["name"].strip():
            yield Finding(NO_NAME, f"{place}: category {category.get('id')}", "")
            continue
        name = category["name"]
        names.setdefault(" ".join(name.split()).casefold(), []).append(name)
        if isinstance(keypoints := category.get("keypoints"), list) and keypoints:
            schemes.add(tuple(map(str, keypoints)))
    for spellings in names.values():
        if len(spellings) > 1:
            yield Finding(NAMES, place, ", ".join(map(repr, spellings[:4])))
    if len(schemes) > 1:
        yield Finding(KEYPOINTS, place, f"{len(schemes)} lists of keypoints")


def _check_annotation(
    where: str, annotation: Entry, images: dict[int | None, Entry], categories: dict[int | None, Entry]
) -> Iterator[Finding]:
    for key, known in (("image_id", images), ("category_id", categories)):
        value = annotation.get(key)
        yield from _check_number(where, key, value)
        if number(value) is not None and number(value) not in known:
            yield Finding(UNKNOWN, where, f"{key} {value}")
    if annotation.get("iscrowd") not in (None, 0, 1, "0", "1"):
        yield Finding(FLAG, where, f"{annotation['iscrowd']!r:.60}")
    image = images.get(number(annotation.get("image_id")), {})
    height, width = number(image.get("height")), number(image.get("width"))
    box, mask = annotation.get("bbox"), annotation.get("segmentation")
    values = numbers(box)
    if not box:
        yield Finding(NO_BOX if mask else BAD_BOX, where, "")
    elif values is None or len(values) != 4 or min(values[2:]) < 0:
        yield Finding(BAD_BOX, where, f"{box!r:.60}")
    else:
        if values[2] * values[3] == 0:
            yield Finding(EMPTY_BOX, where, f"{box!r:.60}")
        if height and width:
            x, y, w, h = values
            if x < -1 or y < -1 or x + w > width + 1 or y + h > height + 1:
                yield Finding(OUTSIDE, where, f"{box!r:.60} in {width} x {height}")
    extent = None
    if isinstance(mask, dict):
        yield from _check_runs(where, mask, height, width)
    elif isinstance(mask, list) and mask:
        yield from _check_rings(where, mask)
        extent = _extent(mask)
    elif mask:
        yield Finding(ODD_RING, where, f"segmentation is {mask!r:.40}")
    else:
        yield Finding(NO_MASK, where, "")
    if extent is not None and values is not None and len(values) == 4 and min(values[2:]) > 0:
        yield from _check_fit(where, values, extent)
    if extent is not None and height and width:
        scale = min(_SHORT / min(height, width), _LONG / max(height, width))
        if extent[2] * scale < 1 or extent[3] * scale < 1:
            yield Finding(VANISHING, where, f"{extent[2]:.2g} x {extent[3]:.2g} px")


def numbers(values: Any) -> list[float] | None:
    """Return a list of finite numbers as such, None for anything else."""
    try:
        array = np.asarray(values, np.float64)
    except (TypeError, ValueError, OverflowError):
        return None
    return array.tolist() if array.ndim == 1 and np.isfinite(array).all() else None


def _check_runs(where: str, mask: Entry, height: int | None, width: int | None) -> Iterator[Finding]:
    try:
        size = list(mask["size"])
        if height and width and size != [height, width]:
            yield Finding(RLE, where, f"size {size} in a picture of {height} x {width}")
        rle_counts(mask)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        yield Finding(RLE, where, str(error)[:80])


def _rings(mask: list) -> list:
    return [mask] if not any(isinstance(ring, list) for ring in mask) else mask


def _check_rings(where: str, mask: list) -> Iterator[Finding]:
    rings = _rings(mask)
    if rings is not mask and len(rings) == 1 and rings[0] is mask:
        yield Finding(FLAT, where, "")
    for ring in rings:
        values = numbers(ring)
        if values is None or len(values) % 2:
            yield Finding(ODD_RING, where, f"{ring!r:.60}")
        elif len(values) < 6:
            yield Finding(SHORT_RING, where, f"{len(values) // 2} points")
        elif len(values) <= 400 and crosses_itself(np.array(values).reshape(-1, 2)):
            yield Finding(CROSSING, where, f"{len(values) // 2} points")


def crosses_itself(points: np.ndarray) -> bool:
    """Return whether two sides of a closed polygon cross, touching ends aside."""
    start, end = points, np.roll(points, -1, 0)

    def side(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
        return (b[..., 0] - a[..., 0]) * (c[..., 1] - a[..., 1]) - (b[..., 1] - a[..., 1]) * (
            c[..., 0] - a[..., 0]
        )

    a, b, c, d = start[:, None], end[:, None], start[None], end[None]
    apart = (side(a, b, c) * side(a, b, d) < 0) & (side(c, d, a) * side(c, d, b) < 0)
    return bool(apart.any())


def _extent(mask: list) -> tuple[float, float, float, float] | None:
    """Return x, y, width, height of the polygons that can be read."""
    rings = [values for ring in _rings(mask) if (values := numbers(ring)) and len(values) % 2 == 0]
    if not rings:
        return None
    points = np.concatenate([np.array(values).reshape(-1, 2) for values in rings])
    low, high = points.min(0), points.max(0)
    return (*low.tolist(), *(high - low).tolist())


def _check_fit(where: str, box: list[float], extent: tuple[float, ...]) -> Iterator[Finding]:
    shared = math.prod(
        max(0.0, min(box[i] + box[i + 2], extent[i] + extent[i + 2]) - max(box[i], extent[i])) for i in (0, 1)
    )
    union = box[2] * box[3] + extent[2] * extent[3] - shared
    if extent[2] > 2 and extent[3] > 2 and shared < 0.5 * union:
        yield Finding(MISFIT, where, f"IoU {shared / union:.2f}")


def _check_boxes_together(
    place: str, annotations: list[Entry], images: dict[int | None, Entry]
) -> Iterator[Finding]:
    """Say where all boxes of a file have another meaning, rather than each alone."""
    boxes, extents = [], []
    for annotation in annotations:
        values, mask = numbers(annotation.get("bbox")), annotation.get("segmentation")
        if values and len(values) == 4:
            boxes.append(values)
            extents.append(_extent(mask) if isinstance(mask, list) and mask else None)
    if not boxes:
        return
    if max(map(max, boxes)) <= 1.0 and len(boxes) > 1:
        yield Finding(RELATIVE, place, f"all {len(boxes)} boxes lie in 0 … 1")
        return
    pairs = [(box, extent) for box, extent in zip(boxes, extents, strict=True) if extent]
    corners = [
        abs(box[2] - (extent[0] + extent[2])) + abs(box[3] - (extent[1] + extent[3])) < 4
        and abs(box[0] - extent[0]) + abs(box[1] - extent[1]) < 4
        and extent[0] + extent[1] > 4
        for box, extent in pairs
    ]
    if pairs and sum(corners) > 0.9 * len(pairs):
        yield Finding(CORNERS, place, f"{sum(corners)} of {len(pairs)} boxes")


def _check_repeats(place: str, annotations: list[Entry]) -> Iterator[Finding]:
    seen: dict[str, Any] = {}
    for annotation in annotations:
        fields = ("image_id", "category_id", "bbox", "segmentation")
        key = repr([annotation.get(field) for field in fields])
        if key in seen:
            where = f"{place}: annotation {annotation.get('id')} of image {annotation.get('image_id')}"
            yield Finding(SAME, where, f"as {seen[key]}")
        seen.setdefault(key, annotation.get("id"))


def _check_pictures(
    place: str, annotations: list[Entry], images: dict[int | None, Entry]
) -> Iterator[Finding]:
    objects, crowds = Counter[int | None](), Counter[int | None]()
    for annotation in annotations:
        is_crowd = annotation.get("iscrowd") in (1, "1")
        (crowds if is_crowd else objects)[number(annotation.get("image_id"))] += 1
    for image_id, image in images.items():
        where = f"{place}: image {image_id}"
        if not objects[image_id] and not crowds[image_id]:
            yield Finding(EMPTY_PICTURES, where, str(image.get("file_name"))[:60])
        elif not objects[image_id]:
            yield Finding(ALL_CROWD, where, f"{crowds[image_id]} regions")
        elif objects[image_id] > _CAP:
            yield Finding(MANY, where, f"{objects[image_id]} objects, {_CAP} are detected")
