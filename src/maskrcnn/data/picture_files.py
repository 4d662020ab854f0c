"""Picture files: which formats are opened, how they are found, and why one cannot be read."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from maskrcnn.files import reading

# The only formats that are opened, with the suffixes by which `find_pictures` recognises them. Pillow itself
# goes by content and opens all that it can: an EPS file, by starting Ghostscript, even if it is named a.jpg.
FORMATS = {
    "JPEG": (".jpg", ".jpeg"),  # also MPO, which phones write
    "PNG": (".png",),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
    "AVIF": (".avif",),  # if this Pillow can
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "HEIF": (".heic", ".heif"),  # if pillow-heif is installed
}
SUFFIXES = frozenset(suffix for suffixes in FORMATS.values() for suffix in suffixes)


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


@contextmanager
def open_picture(path: Path) -> Iterator[Image.Image]:
    """Open a picture file in one of `FORMATS`.

    Every error, also one raised while it is open, becomes a sentence that names the file: FileNotFoundError
    if it is missing, ValueError otherwise.
    """
    with reading(path):
        exists, is_file, is_folder = path.exists(), path.is_file(), path.is_dir()
        is_empty = is_file and path.stat().st_size == 0
    if is_folder:
        raise ValueError(f"{path}: a folder, where a picture was expected")
    if not exists:
        raise FileNotFoundError(f"{path}: no such picture")
    if is_empty or not is_file:
        raise ValueError(f"{path}: {'an empty' if is_empty else 'not a regular'} file")
    try:
        # Not by name: Pillow 13 would map uncompressed TIFF files into memory, in the wrong shape if sideways
        with path.open("rb") as file, Image.open(file, formats=_installed_formats()) as image:
            yield image
    except Exception as error:  # a damaged file can raise any exception in a decoder
        reason = _unknown_format(path) if isinstance(error, UnidentifiedImageError) else reason_of(error)
        raise ValueError(f"{path}: cannot be read as a picture: {reason}") from error


def _installed_formats() -> tuple[str, ...]:
    Image.init()  # registers Pillow's formats, once
    _register_heif()
    return tuple(name for name in FORMATS if name in Image.OPEN)


@cache
def _register_heif() -> None:
    if "HEIF" not in Image.OPEN and find_spec("pillow_heif"):
        import_module("pillow_heif").register_heif_opener()


def _unknown_format(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(12)
    if head[4:8] == b"ftyp" and head[8:] in (b"heic", b"heix", b"hevc", b"mif1", b"msf1"):
        return "it is in HEIF format, which needs another package (pip install pillow-heif)"
    return f"it is in none of the supported formats ({', '.join(_installed_formats())})"


def reason_of(error: Exception) -> str:
    """Return in one line why a picture could not be decoded."""
    if isinstance(error, Image.DecompressionBombError):
        return (
            "it has more pixels than Pillow's limit against decompression bombs;"
            " for files that you trust, raise PIL.Image.MAX_IMAGE_PIXELS"
        )
    if isinstance(error, MemoryError):
        return "there is not enough memory to decode it"
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__
