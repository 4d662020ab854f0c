"""An annotation file as it is: nothing is refused, values are read leniently."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from maskrcnn.data.categories import Entry
from maskrcnn.data.doctor.findings import Finding, Where, finding, plain_text
from maskrcnn.files import read_json

_PLAIN = {int, float}
LISTS = ("images", "annotations", "categories")


def to_number(value: Any) -> float | None:
    """Return a finite number, also one written as a string; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def to_integer(value: Any) -> int | None:
    """Return an integer of 64 bits, also one written as a string or a float; None for anything else."""
    if isinstance(value, str):
        try:
            value = int(value)
        except ValueError:
            value = to_number(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, float) and not value.is_integer():
        return None
    return int(value) if -(2**63) <= value < 2**63 else None


def to_key(value: Any) -> int | str:
    """Return what two ids have in common that mean the same: 7, 7.0 and "7"."""
    integer = to_integer(value)
    return integer if integer is not None else f"{type(value).__name__} {plain_text(value)}"


def to_numbers(values: Any) -> list[float] | None:
    """Return a list of finite numbers; None for anything else."""
    if not isinstance(values, list) or (values and isinstance(values[0], list)):
        return None
    if _PLAIN.issuperset(map(type, values)):  # numbers of most files, in a fraction of the time
        with suppress(OverflowError):
            plain = np.array(values, np.float64)
            return plain.tolist() if np.isfinite(plain).all() else None
    numbers = [to_number(value) for value in values]
    return None if None in numbers else [number for number in numbers if number is not None]


def to_bbox(value: Any) -> list[float] | None:
    """Return four numbers, also from an object with x, y, width, height; None for anything else."""
    if isinstance(value, dict):
        value = [value.get(key) for key in ("x", "y", "width", "height")]
    numbers = to_numbers(value)
    return numbers if numbers is not None and len(numbers) == 4 else None


@dataclass(frozen=True)
class RawSplit:
    """One split: the entries that are objects of JSON, and the pictures by the key of their id."""

    name: str
    file: Path
    folder: Path
    images: list[Entry]
    annotations: list[Entry]
    categories: list[Entry]

    def images_by_key(self) -> dict[int | str, Entry]:
        """Return the pictures by the key of their id; the first of several."""
        by_key: dict[int | str, Entry] = {}
        for image in self.images:
            by_key.setdefault(to_key(image.get("id")), image)
        return by_key

    def by_image(self) -> dict[int | str, list[Entry]]:
        """Return the annotations of each picture, also of pictures that the file does not list."""
        groups: dict[int | str, list[Entry]] = {}
        for annotation in self.annotations:
            groups.setdefault(to_key(annotation.get("image_id")), []).append(annotation)
        return groups

    def at(self, image: Entry | None = None, annotation: Entry | None = None) -> Where:
        """Return the place of an entry."""
        image_id = None if image is None else image.get("id", "without id")
        if annotation is None:
            return Where(str(self.file), image_id)
        return Where(str(self.file), annotation.get("image_id", image_id), annotation.get("id", "without id"))


def size_of(image: Entry) -> tuple[int, int] | None:
    """Return height and width in pixels, None if they are not sizes of a picture."""
    height, width = to_integer(image.get("height")), to_integer(image.get("width"))
    if height is None or width is None or not (1 <= height < 2**31 and 1 <= width < 2**31):
        return None
    return height, width


def load(name: str, file: Path, folder: Path) -> tuple[RawSplit | None, list[Finding]]:
    """Read the file of a split; None and a finding where it is no annotation file."""
    where = Where(str(file))
    try:
        content = read_json(file)
    except (ValueError, OSError) as error:
        return None, [finding("annotation file", where, str(error))]
    if not isinstance(content, dict):
        return None, [finding("annotation file", where, "not an object with images, annotations, categories")]
    findings = list(_list_problems(content, where))
    lists = [content.get(key) for key in LISTS]
    entries = [
        [e for e in values if isinstance(e, dict)] if isinstance(values, list) else [] for values in lists
    ]
    return RawSplit(name, file, folder, *entries), findings


def _list_problems(content: Entry, where: Where) -> Iterator[Finding]:
    for key in LISTS:
        values = content.get(key)
        if not isinstance(values, list):
            yield finding("annotation file", where, f"it has no list {key!r}")
            continue
        for number, value in enumerate(values):
            if not isinstance(value, dict):
                text = f"entry {number} of {key!r} is {plain_text(value)}, where an object was expected"
                yield finding("annotation file", where, text)
