"""This module finds the picture files in folders and glob patterns, and their sizes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from PIL import ImageOps

from maskrcnn.data.formats import SUFFIXES
from maskrcnn.data.pictures import SizeHW, open_picture
from maskrcnn.files import reading


def find_pictures(patterns: Iterable[str | Path]) -> list[Path]:
    """List the pictures in files, folders (at any depth) and glob patterns, each once.

    A file that is named itself is taken whatever its suffix; in folders and globs the suffix decides. The
    pictures of one pattern are sorted. Raises FileNotFoundError that names a pattern without pictures, and
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
    return sorted(path for path in candidates if path.suffix.lower() in SUFFIXES and path.is_file())


def _files(folder: Path) -> Iterator[Path]:
    """Yield the files at any depth. Raises OSError for a folder that cannot be listed; `rglob` skips it."""

    def refuse(error: OSError) -> None:
        raise error

    for parent, _, names in os.walk(folder, onerror=refuse):
        yield from (Path(parent, name) for name in names)
