"""This module finds the picture files in folders and glob patterns, and their sizes."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from PIL import ExifTags, Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from maskrcnn.data.formats import SUFFIXES
from maskrcnn.data.pictures import SizeHW, open_picture
from maskrcnn.files import reading

_MARK = ("Software", "maskrcnn overlay")
_MARK_WITHIN = 100  # bytes from the beginning of a PNG file
_EXIF_KEYS = {"exif", "Raw profile type exif", "xmp"}  # of `Image.info`
_TAIL = 1024  # bytes at the end of a file, where the mark of its end is searched for
_END_MARKS = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}


def overlay_mark() -> PngInfo:
    """Return the text by which `find_pictures` recognises a PNG file as a drawing of results."""
    mark = PngInfo()
    mark.add_text(*_MARK)
    return mark


def find_pictures(patterns: Iterable[str | Path]) -> list[Path]:
    """List the pictures in files, folders (at any depth) and glob patterns, each once.

    A file that is named itself is taken whatever its suffix; in folders and globs the suffix decides, and
    overlays of earlier predictions are left out, with a warning. The pictures of one pattern are sorted.
    Raises FileNotFoundError that names a pattern without pictures, and
    ValueError for a folder that cannot be read.
    """
    pictures: dict[Path, None] = {}
    for pattern in patterns:
        with reading(Path(pattern)):
            matches = _match(Path(pattern)) if str(pattern) else []
        if not matches:
            raise FileNotFoundError(
                f"{pattern}: no such picture, nor a folder or a pattern with pictures"
                f" (files ending in {', '.join(sorted(SUFFIXES))})"
            )
        pictures.update(dict.fromkeys(matches))
    return list(pictures)


class Header(NamedTuple):
    """What the header of a picture file says."""

    stored_hw: SizeHW
    upright_hw: SizeHW  # as a viewer shows the picture
    is_turned: bool  # EXIF says that the picture is stored turned or mirrored


def read_header(path: Path) -> Header:
    """Return the header of a picture file, which is not decoded. Raises as `open_picture` does."""
    with open_picture(path) as image:
        return header_of(image)


def header_of(image: Image.Image) -> Header:
    """Return the header of a picture that `open_picture` has opened."""
    stored = image.size[::-1]
    if image.format == "PNG" and _EXIF_KEYS.isdisjoint(image.info):  # Pillow would decode it to search on
        return Header(stored, stored, is_turned=False)
    if image.getexif().get(ExifTags.Base.Orientation, 1) in (0, 1):
        return Header(stored, stored, is_turned=False)
    # Decoded: Pillow turns the size of a TIFF file by itself, at another moment than others'
    return Header(stored, ImageOps.exif_transpose(image).size[::-1], is_turned=True)


def picture_fault(path: Path) -> str:
    """Return why a picture cannot be read, as `checked_header` does; empty where nothing is against it."""
    header = checked_header(path)
    return header if isinstance(header, str) else ""


def checked_header(path: Path) -> Header | str:
    """Return the header of a picture that can be read, or why it cannot, naming the file.

    Only the header is read, and the end of the file. A JPEG or PNG file that lacks the mark of its end may be
    cut off: it is decoded to find out.
    """
    try:
        with open_picture(path) as image:
            header = header_of(image)
            if (mark := _END_MARKS.get(image.format or "")) and mark not in _last_bytes(path):
                image.load()
    except (OSError, ValueError) as error:
        return str(error)
    return header


def _last_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL))
        return file.read()


def _match(pattern: Path) -> list[Path]:
    if pattern.is_file():
        return [pattern]
    if pattern.is_dir():
        candidates = _files(pattern)
    else:
        candidates = Path(pattern.anchor).glob(str(pattern.relative_to(pattern.anchor)))
    pictures = sorted(path for path in candidates if path.suffix.lower() in SUFFIXES and path.is_file())
    overlays = {path for path in pictures if path.suffix.lower() == ".png" and _is_overlay(path)}
    if overlays:
        warnings.warn(
            f"{pattern}: {len(overlays):,} overlays of earlier predictions are left out", stacklevel=3
        )
    return [path for path in pictures if path not in overlays]


def _is_overlay(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return "\0".join(_MARK).encode() in file.read(_MARK_WITHIN)
    except OSError:  # is reported when the picture is read
        return False


def _files(folder: Path) -> Iterator[Path]:
    """Yield the files at any depth. Raises OSError for a folder that cannot be listed; `rglob` skips it."""

    def refuse(error: OSError) -> None:
        raise error

    for parent, _, names in os.walk(folder, onerror=refuse):
        yield from (Path(parent, name) for name in names)
