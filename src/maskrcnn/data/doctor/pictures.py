"""Checks of the pictures of one annotation file: are they there, whole, and as the file says?"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import ExifTags, Image

from maskrcnn.data.doctor.annotations import number
from maskrcnn.data.doctor.findings import Finding, Kind
from maskrcnn.data.file_names import file_name_within
from maskrcnn.data.pictures import open_picture
from maskrcnn.data.split import difference_hash

ABSENT = Kind("picture that is not there", "error", "put it there, or remove its entry")
NO_NAME = Kind("file name that cannot be used", "error", "write it relative to the folder of the pictures")
UNREADABLE = Kind("picture that cannot be read", "error", "replace or remove it")
SIZE = Kind("size that is not that of the picture", "error", "write the picture's own height and width")
TURNED = Kind(
    "picture that its file turns upright",
    "warning",
    "check that it was labelled upright: its size in the annotations is that before turning",
)
NO_SIZE = Kind("picture without a size", "warning", "none needed: it is read from the file")
GREYS = Kind("few grey levels", "warning", "check the export: more than 8 bits hold fewer than 16 levels")
UNLISTED = Kind("picture that the annotations do not list", "note", "list it, also without objects")


class Looked(NamedTuple):
    """What was seen of a picture that can be read."""

    place: str
    path: Path
    digest: str  # of the file
    look: int | None  # 64 bits that near duplicates share


def check_pictures(
    place: str, folder: Path, images: list[Any], looked: list[Looked], listed: set[Path]
) -> Iterator[Finding]:
    """Yield the findings in the pictures of a file, and add what was seen to `looked` and `listed`."""
    for image in images:
        if not isinstance(image, dict):
            continue
        where = f"{place}: image {image.get('id')}"
        try:
            path = folder / file_name_within(image.get("file_name"))
        except ValueError as error:
            yield Finding(NO_NAME, where, str(error)[:80])
            continue
        listed.add(path)
        if not path.is_file():
            yield Finding(ABSENT, where, path.name)
            continue
        try:
            yield from _check_picture(where, path, image)
        except (OSError, ValueError) as error:
            yield Finding(UNREADABLE, where, str(error).removeprefix(f"{path}: ")[:100])
        else:
            digest = hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
            looked.append(Looked(where, path, digest, difference_hash(path)))


def check_unlisted(place: str, listed: set[Path]) -> Iterator[Finding]:
    """Yield the files beside the listed pictures that look like pictures and that no split lists."""
    suffixes = {path.suffix.lower() for path in listed}
    for folder in sorted({path.parent for path in listed}):
        for other in sorted(folder.iterdir()) if folder.is_dir() else ():
            if other not in listed and other.suffix.lower() in suffixes:
                yield Finding(UNLISTED, place, str(other.name))


def _check_picture(where: str, path: Path, image: dict[str, Any]) -> Iterator[Finding]:
    with open_picture(path) as opened:
        width, height = opened.size
        sideways = opened.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
        opened.load()
        yield from _check_greys(where, opened)
    upright = (width, height) if sideways else (height, width)
    said = number(image.get("height")), number(image.get("width"))
    if said == (None, None):
        yield Finding(NO_SIZE, where, path.name)
    elif said != upright:
        detail = f"{said[0]} x {said[1]} in the annotations, {upright[0]} x {upright[1]} upright"
        yield Finding(TURNED if said == upright[::-1] and sideways else SIZE, where, detail)


def _check_greys(where: str, image: Image.Image) -> Iterator[Finding]:
    if not image.mode.startswith("I"):
        return
    levels = len(np.unique(np.asarray(image)))
    if 1 < levels < 16:
        yield Finding(GREYS, where, f"{levels} levels")
