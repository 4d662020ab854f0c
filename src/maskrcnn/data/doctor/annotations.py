"""Checks of single annotations: types, ids, boxes and masks."""

from __future__ import annotations

import marshal
from collections.abc import Iterator
from typing import Any

import numpy as np

from maskrcnn.data.categories import Entry
from maskrcnn.data.doctor.findings import Finding, finding, plain_text
from maskrcnn.data.doctor.raw import RawSplit, size_of, to_bbox, to_integer, to_key, to_number, to_numbers
from maskrcnn.data.doctor.shapes import (
    as_extent,
    crosses_itself,
    fits,
    is_flat,
    is_relative,
    looks_like_corners,
    mask_area,
    mask_extent,
    ring_area,
)
from maskrcnn.data.readers.coco_masks import without_pairs
from maskrcnn.masks.rle import rle_counts
from maskrcnn.messages import counted

TRAINING_SIZE = 800, 1333  # the shorter side, and the most for the longer one
_OUTSIDE = 0.1  # part of a box's side that may lie outside without a finding

Size = tuple[int, int]
Fault = tuple[str, str]  # kind and message


def check_annotations(split: RawSplit) -> Iterator[Finding]:
    """Yield what is wrong with each annotation of a split."""
    images = split.images_by_key()
    categories = {to_key(category.get("id")) for category in split.categories}
    num_keypoints = {to_key(c.get("id")): _count(c.get("keypoints")) for c in split.categories}
    for annotation in split.annotations:
        image = images.get(to_key(annotation.get("image_id")))
        size = None if image is None else size_of(image)
        faults = [
            *_reference(annotation, "image_id", "image", image is not None),
            *_reference(
                annotation, "category_id", "category", to_key(annotation.get("category_id")) in categories
            ),
            *_scalars(annotation),
            *_box(annotation, size),
            *_mask(annotation, size),
            *_keypoints(annotation, num_keypoints.get(to_key(annotation.get("category_id")), 0)),
        ]
        where = split.at(image, annotation)
        yield from (finding(kind, where, message) for kind, message in faults)


def _count(values: Any) -> int:
    return len(values) if isinstance(values, list) else 0


def _reference(annotation: Entry, key: str, what: str, listed: bool) -> Iterator[Fault]:
    value = annotation.get(key)
    if value is None:
        yield "missing value", f"{key!r} is missing"
    elif not listed:
        yield f"unknown {what} id", f"{key!r} is {plain_text(value)}, which the file does not list"
    elif type(value) is not int and to_integer(value) is not None:
        yield "value type", f"{key!r} is {plain_text(value)!r}, of type {type(value).__name__}"


def _scalars(annotation: Entry) -> Iterator[Fault]:
    for key in ("area", "iscrowd"):
        value = annotation.get(key)
        number = to_number(int(value) if isinstance(value, bool) else value)
        if value is None:
            yield "missing default", f"{key!r} is missing"
        elif isinstance(value, str | list | dict | bool) and (key == "area" or not isinstance(value, bool)):
            yield "value type", f"{key!r} is {plain_text(value)!r}, of type {type(value).__name__}"
        elif number is None or number < 0 or (key == "iscrowd" and number not in (0, 1)):
            yield "value type", f"{key!r} is {plain_text(value)}"
    if annotation.get("iscrowd") in (1, "1", True) and to_number(annotation.get("area")) == 0:
        yield "crowd without area", "'iscrowd' is 1, but the area is 0"


def _box(annotation: Entry, size: Size | None) -> Iterator[Fault]:
    value, bbox = annotation.get("bbox"), to_bbox(annotation.get("bbox"))
    if value is None or value == []:
        yield "missing box", f"'bbox' is {'empty' if value == [] else 'missing'}"
        return
    if bbox is None:
        yield "missing box", f"'bbox' is {plain_text(value)}, where four numbers were expected"
        return
    if isinstance(value, dict) or any(isinstance(number, str) for number in value):
        yield "value type", f"'bbox' is {plain_text(value)}, where a list of four numbers was expected"
    if min(bbox[2:]) < 0:
        yield "negative box", f"'bbox' is {plain_text(value)}, with a negative width or height"
    elif is_relative(bbox, size):
        yield "relative box", f"'bbox' is {plain_text(value)}, all within 0 … 1"
    elif looks_like_corners(annotation, size):
        yield "corner box", f"'bbox' is {plain_text(value)}, which fits as x1, y1, x2, y2 only"
    elif min(bbox[2:]) == 0:
        yield "empty box", f"'bbox' is {plain_text(value)}, without an area"
    else:
        yield from _place(annotation, bbox, size)


def _place(annotation: Entry, bbox: list[float], size: Size | None) -> Iterator[Fault]:
    x1, y1, x2, y2 = box = as_extent(bbox)
    if size is not None:
        height, width = size
        beyond = max(max(-x1, x2 - width) / bbox[2], max(-y1, y2 - height) / bbox[3])
        if beyond > _OUTSIDE and max(-x1, x2 - width, -y1, y2 - height) > 2:
            text = f"'bbox' is {plain_text(annotation['bbox'])}, but the picture has {width}x{height} pixels"
            yield "box outside", text
    extent = mask_extent(annotation)
    crowd = annotation.get("iscrowd") in (1, "1", True)
    if extent is not None and not crowd and not fits(box, extent):
        around = [round(value, 1) for value in (*extent[:2], extent[2] - extent[0], extent[3] - extent[1])]
        yield (
            "box and mask differ",
            f"'bbox' is {plain_text(annotation['bbox'])}, the box around the mask is {around}",
        )


def _mask(annotation: Entry, size: Size | None) -> Iterator[Fault]:
    segmentation = annotation.get("segmentation")
    if isinstance(segmentation, dict):
        yield from _run_lengths(segmentation, size)
    elif isinstance(segmentation, list) and segmentation:
        if is_flat(segmentation):
            yield "flat polygon", f"'segmentation' is one list of {len(segmentation)} numbers"
        rings, pairs = without_pairs([segmentation] if is_flat(segmentation) else segmentation)
        if pairs:
            yield "polygon of pairs", f"{counted(pairs, 'polygon')} of pairs [x, y]"
        yield from _polygons(rings, size)
    elif segmentation in (None, []):
        yield "object without mask", "'segmentation' is empty"
    else:
        yield "polygon", f"'segmentation' is {plain_text(segmentation)}"
    area = mask_area(annotation)
    if area is not None and size is not None and area > 0:
        scale = min(TRAINING_SIZE[0] / min(size), TRAINING_SIZE[1] / max(size))
        if area * scale**2 < 1:
            yield (
                "tiny mask",
                f"the mask has {area:.3g} px², {area * scale**2:.2g} px² at a training size of"
                f" {TRAINING_SIZE[0]}/{TRAINING_SIZE[1]}",
            )


def _run_lengths(rle: Entry, size: Size | None) -> Iterator[Fault]:
    stated = rle.get("size")
    if not isinstance(stated, list) or len(stated) != 2 or any(type(side) is not int for side in stated):
        yield "run lengths", f"their size is {plain_text(stated)}, where [height, width] was expected"
        return
    if size is not None and tuple(stated) != size:
        swapped = ": height and width are exchanged" if tuple(stated) == size[::-1] else ""
        yield "run lengths size", f"their size is {stated}, but the picture has {list(size)}{swapped}"
    try:
        counts = rle_counts(rle)
    except (ValueError, TypeError, KeyError, OverflowError, AttributeError) as error:
        yield "run lengths", str(error) if isinstance(error, ValueError) else "'counts' is missing or invalid"
        return
    if not counts[1::2].any():
        yield "run lengths", "the mask has no pixel"


def _polygons(rings: list[Any], size: Size | None) -> Iterator[Fault]:
    for number, values in enumerate(rings):
        numbers = to_numbers(values)
        if numbers is None or len(numbers) % 2:
            reason = f"has {len(numbers)} numbers, an odd count" if numbers else "is not a list of numbers"
            yield "polygon", f"polygon {number} {reason}"
            continue
        if str in map(type, values):
            yield "value type", f"polygon {number} has numbers of type str"
        if len(numbers) < 6:
            yield "short polygon", f"polygon {number} has {len(numbers) // 2} points"
            continue
        ring = np.array(numbers).reshape(-1, 2)
        if ring_area(ring) == 0:
            yield "polygon without area", f"the {len(ring)} points of polygon {number} lie on a line"
        elif crosses_itself(ring):
            yield "self-crossing polygon", f"polygon {number} crosses itself"
        if size is not None and ((ring < -max(size)).any() or (ring > [2 * size[1], 2 * size[0]]).any()):
            yield "polygon outside", f"polygon {number} is far outside the picture"


def _keypoints(annotation: Entry, count: int) -> Iterator[Fault]:
    value = annotation.get("keypoints")
    if not count or not value:
        return
    numbers = to_numbers(value)
    if numbers is None or len(numbers) != 3 * count:
        given = f"{len(numbers)} numbers" if numbers is not None else "no list of numbers"
        yield "keypoints", f"'keypoints' has {given}, {count} times x, y, visibility were expected"
    elif not set(numbers[2::3]) <= {0.0, 1.0, 2.0}:
        yield "keypoints", "a keypoint's visibility is not 0, 1 or 2"


def check_ids(split: RawSplit) -> Iterator[Finding]:
    """Yield ids that occur twice, that are no integers, and annotations that occur twice."""
    lists = {"image": split.images, "category": split.categories, "annotation": split.annotations}
    for what, entries in lists.items():
        seen: set[int | str] = set()
        for entry in entries:
            where = split.at(annotation=entry) if what == "annotation" else split.at(entry)
            id_, key = entry.get("id"), to_key(entry.get("id"))
            if id_ is None:
                if what != "annotation":  # annotations are counted by the reader
                    yield finding("missing value", where, f"the {what} has no 'id'")
                continue
            if what != "annotation":
                yield from _id_type(id_, where, what)
            if key in seen:
                yield finding(
                    f"duplicate {what} id", where, f"the {what} id {plain_text(id_)} occurs more than once"
                )
            seen.add(key)
    yield from _twice(split)


def _id_type(id_: Any, where: Any, what: str) -> Iterator[Finding]:
    if isinstance(id_, int) and not isinstance(id_, bool) and to_integer(id_) is not None:
        return
    kind = "value type" if to_integer(id_) is not None else "invalid id"
    if kind == "invalid id" and ((isinstance(id_, str) and id_) or type(id_) is int):
        kind = "name as id"
    text = f"the {what} id is {plain_text(id_)!r}, of type {type(id_).__name__}"
    yield finding(kind, where, text)


def _twice(split: RawSplit) -> Iterator[Finding]:
    seen: set[int] = set()
    for annotation in split.annotations:
        bbox = to_bbox(annotation.get("bbox"))
        content = (
            to_key(annotation.get("image_id")),
            to_key(annotation.get("category_id")),
            str(bbox),
            _content_hash(annotation.get("segmentation")),
        )
        key = hash(content)
        if key in seen and (bbox or annotation.get("segmentation")):
            yield finding(
                "duplicate annotation",
                split.at(annotation=annotation),
                "another annotation of the picture has the same class, box and mask",
            )
        seen.add(key)


def _content_hash(value: Any) -> int:
    try:
        return hash(marshal.dumps(value, 2))  # version 2: equal values give equal bytes
    except (ValueError, RecursionError):
        return id(value)
