"""This module finds the picture files in folders and glob patterns, and their sizes."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

from PIL import ImageOps
from PIL.PngImagePlugin import PngInfo

from maskrcnn.data.formats import SUFFIXES
from maskrcnn.data.pictures import SizeHW, open_picture
from maskrcnn.files import reading

_MARK = ("Software", "maskrcnn overlay")
_MARK_WITHIN = 100  # bytes from the beginning of a PNG file


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


def upright_size(path: Path) -> SizeHW:
    """Return the size of a picture as a viewer shows it. Raises as `open_picture` does.

    The picture is decoded: Pillow turns the size of a TIFF file by itself, at another moment than others'.
    """
    with open_picture(path) as image:
        return ImageOps.exif_transpose(image).size[::-1]


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
