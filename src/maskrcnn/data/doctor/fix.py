"""Repairs of annotation files: a copy is written, and every change is counted and named."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.text import Text

from maskrcnn.data.categories import Entry
from maskrcnn.data.doctor.check import open_splits
from maskrcnn.data.doctor.findings import Report, plain_text
from maskrcnn.data.doctor.raw import (
    LISTS,
    RawSplit,
    size_of,
    to_bbox,
    to_integer,
    to_key,
    to_number,
    to_numbers,
)
from maskrcnn.data.doctor.shapes import is_flat, looks_like_corners, mask_area, mask_extent
from maskrcnn.data.file_names import name_problem
from maskrcnn.data.picture_files import Header, checked_header
from maskrcnn.data.readers.coco_masks import without_pairs
from maskrcnn.files import read_json, write_json
from maskrcnn.masks.rle import rle_counts


@dataclass
class Repair:
    """What was changed in one file."""

    source: Path
    target: Path
    changes: Counter[str] = field(default_factory=Counter)
    left_out: list[str] = field(default_factory=list)  # annotation, picture and reason

    def table(self) -> Group:
        """Return the changes for the terminal."""
        lines = [f"{self.target}, repaired from {self.source}:"]
        lines += [f"  {count} {what}" for what, count in self.changes.items()]
        lines += [f"  left out {text}" for text in self.left_out]
        lines += [] if self.changes or self.left_out else ["  nothing to change"]
        return Group(*map(Text, lines))


def fix(data: Path, output: Path) -> list[Repair]:
    """Write repaired copies of the annotation files into `output`, at the same places as in `data`.

    Pictures are not copied. Raises ValueError if a copy would replace its source.
    """
    repairs = []
    for split in open_splits(data, Report()):
        target = output / split.file.relative_to(data)
        if target.resolve() == split.file.resolve():
            raise ValueError(f"--fix {output}: it would replace {split.file}; choose another folder")
        repair = Repair(split.file, target)
        content = repaired(split, repair)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            write_json(target, content)
        except ValueError:
            raise ValueError(f"{split.file}: a value that is not a finite number cannot be written") from None
        repairs.append(repair)
    return repairs


def repaired(split: RawSplit, repair: Repair) -> Entry:
    """Return the repaired content of an annotation file."""
    content = dict(read_json(split.file))
    images = [_mend_integers(image, ("id", "height", "width"), repair) for image in split.images]
    categories = [_mend_integers(category, ("id",), repair) for category in split.categories]
    for entry in images:
        _mend_size(entry, split.folder, repair)
    _renumber(images, "image", repair)
    image_ids, category_ids = (
        _number_names(images, "image", repair),
        _number_names(categories, "category", repair),
    )
    by_key = {to_key(image.get("id")): image for image in images}
    known = {to_key(category.get("id")) for category in categories}
    corners = all_corners(split)
    annotations = []
    for original in split.annotations:
        annotation = _mend_annotation(original, corners, repair)
        for key, ids in (("image_id", image_ids), ("category_id", category_ids)):
            annotation[key] = ids.get(to_key(annotation.get(key)), annotation.get(key))
        image = by_key.get(to_key(annotation.get("image_id")))
        reason = unusable(annotation, image, known)
        if reason:
            id_, image_id = plain_text(original.get("id")), plain_text(original.get("image_id"))
            repair.left_out.append(f"annotation {id_} of image {image_id}: {reason}")
        else:
            annotations.append(annotation)
    _renumber(annotations, "annotation", repair)
    return content | dict(zip(LISTS, (images, annotations, categories), strict=True))


def all_corners(split: RawSplit) -> bool:
    """Return whether all boxes of a file are clearly x1, y1, x2, y2."""
    images = split.images_by_key()
    told: Counter[bool | None] = Counter()
    for annotation in split.annotations:
        bbox, image = to_bbox(annotation.get("bbox")), images.get(to_key(annotation.get("image_id")))
        if bbox is None or image is None:
            continue
        if bbox[2] < bbox[0] or bbox[3] < bbox[1]:
            return False
        told[looks_like_corners(annotation, size_of(image))] += 1
    return not told[False] and told[True] > 0 and told[True] >= told[None]


def _mend_integers(entry: Entry, keys: Iterable[str], repair: Repair) -> Entry:
    mended = dict(entry)
    for key in keys:
        value = entry.get(key)
        integer = to_integer(value)
        if value is not None and type(value) is not int and integer is not None:
            mended[key] = integer
            repair.changes[f"values of {key!r} made integers"] += 1
    return mended


def _mend_size(image: Entry, folder: Path, repair: Repair) -> None:
    name = image.get("file_name")
    if not isinstance(name, str) or name_problem(name.replace("\\", "/")):
        return
    if image.get("height") is None or image.get("width") is None:
        path = folder / name.replace("\\", "/")
        if isinstance(header := checked_header(path), Header):
            image["height"], image["width"] = header.upright_hw
            repair.changes["sizes read from the picture"] += 1


def _mend_annotation(original: Entry, corners: bool, repair: Repair) -> Entry:
    annotation = _mend_integers(original, ("id", "image_id", "category_id"), repair)
    _mend_mask(annotation, repair)
    _mend_box(annotation, corners, repair)
    _mend_scalars(annotation, repair)
    return annotation


def _mend_mask(annotation: Entry, repair: Repair) -> None:
    segmentation = annotation.get("segmentation")
    if segmentation is None:
        annotation["segmentation"] = []
    if not isinstance(segmentation, list):
        return
    if is_flat(segmentation):
        segmentation = [segmentation]
        repair.changes["flat polygons made one ring"] += 1
    segmentation, pairs = without_pairs(segmentation)
    if pairs:
        repair.changes["polygons of pairs made x, y, x, y, …"] += pairs
    rings = []
    for ring in segmentation:
        numbers = to_numbers(ring)
        if numbers is not None and len(numbers) % 2 == 0 and len(numbers) < 6 and len(segmentation) > 1:
            repair.changes["polygons of fewer than 3 points removed"] += 1
            continue
        if numbers is not None and numbers != ring:
            repair.changes["polygons with strings made numbers"] += 1
        rings.append(ring if numbers is None or numbers == ring else numbers)
    annotation["segmentation"] = rings


def _mend_box(annotation: Entry, corners: bool, repair: Repair) -> None:
    value, bbox = annotation.get("bbox"), to_bbox(annotation.get("bbox"))
    if bbox is None and (extent := mask_extent(annotation)) is not None:
        x1, y1, x2, y2 = extent
        annotation["bbox"] = [x1, y1, x2 - x1, y2 - y1]
        repair.changes["boxes derived from the mask"] += 1
        return
    if bbox is None:
        return
    if bbox != value:
        annotation["bbox"] = bbox
        repair.changes["boxes made lists of numbers"] += 1
    if corners:
        annotation["bbox"] = [bbox[0], bbox[1], bbox[2] - bbox[0], bbox[3] - bbox[1]]
        repair.changes["boxes of corners made x, y, width, height"] += 1


def _mend_scalars(annotation: Entry, repair: Repair) -> None:
    area, crowd = annotation.get("area"), annotation.get("iscrowd")
    area = area[0] if isinstance(area, list) and len(area) == 1 else area
    number = to_number(area)
    if number is None or number < 0:
        computed, bbox = mask_area(annotation), to_bbox(annotation.get("bbox"))
        number = computed if computed is not None else math.prod(bbox[2:]) if bbox else 0.0
        repair.changes["areas computed"] += 1
    elif number != annotation.get("area"):
        repair.changes["values of 'area' made numbers"] += 1
    annotation["area"] = number
    flag = int(crowd) if isinstance(crowd, bool) else to_integer(crowd)
    if crowd is None:
        annotation["iscrowd"] = 0
        repair.changes["values of 'iscrowd' set to 0"] += 1
    elif type(crowd) is not int and flag is not None:
        annotation["iscrowd"] = flag
        repair.changes["values of 'iscrowd' made integers"] += 1


def _renumber(entries: list[Entry], what: str, repair: Repair) -> None:
    seen: set[int | str] = set()
    free = 1 + max((id_ for entry in entries if (id_ := to_integer(entry.get("id"))) is not None), default=0)
    for entry in entries:
        key = to_key(entry.get("id"))
        if key in seen or (what == "annotation" and type(entry.get("id")) is not int):
            entry["id"] = key = free
            free += 1
            repair.changes[f"{what} ids renumbered"] += 1
        seen.add(key)


def _number_names(entries: list[Entry], what: str, repair: Repair) -> dict[int | str, int]:
    """Number the entries whose ids are texts or too large for 64 bits; return the new ids by the old keys."""
    numbers = [to_integer(entry.get("id")) for entry in entries]
    free = 1 + max((number for number in numbers if number is not None), default=0)
    renamed: dict[int | str, int] = {}
    for entry, number in zip(entries, numbers, strict=True):
        if number is None and entry.get("id") is not None:
            renamed[to_key(entry["id"])] = entry["id"] = free
            free += 1
            repair.changes[f"{what} ids that are no integers of 64 bits renumbered"] += 1
    return renamed


def unusable(annotation: Entry, image: Entry | None, known: set[int | str]) -> str:
    """Return why an annotation cannot be used; empty if it can."""
    if image is None:
        return "the file does not list its picture"
    if to_key(annotation.get("category_id")) not in known:
        return "the file does not list its category"
    bbox = annotation.get("bbox")
    if to_numbers(bbox) is None or len(bbox) != 4 or min(bbox[2:]) < 0:  # type: ignore[arg-type, index]
        return "it has no box x, y, width, height ≥ 0"
    if annotation["iscrowd"] not in (0, 1):
        return "'iscrowd' is neither 0 nor 1"
    return _unusable_mask(annotation.get("segmentation"), size_of(image))


def _unusable_mask(segmentation: Any, size: tuple[int, int] | None) -> str:
    if isinstance(segmentation, dict):
        try:
            rle_counts(segmentation)
            fits = size is None or list(segmentation["size"]) == list(size)
        except (ValueError, TypeError, KeyError, OverflowError, AttributeError):
            return "its run lengths are not valid"
        return "" if fits else "its run lengths have another size than the picture"
    if not isinstance(segmentation, list):
        return "its mask is neither polygons nor run lengths"
    rings = [to_numbers(ring) for ring in segmentation]
    if any(ring is None or len(ring) % 2 for ring in rings):
        return "a polygon is not a list of x, y, x, y, …"
    return "a polygon has fewer than 3 points" if any(len(ring or ()) < 6 for ring in rings) else ""
