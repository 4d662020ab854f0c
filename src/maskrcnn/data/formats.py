"""The formats of the picture files that are opened, and why a file could not be."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from PIL import Image

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


@cache
def register_formats() -> None:
    """Make Pillow know all formats that are installed; once, as it takes time."""
    Image.init()
    if "HEIF" not in Image.OPEN and find_spec("pillow_heif"):
        import_module("pillow_heif").register_heif_opener()


def unknown_format(path: Path) -> str:
    """Return in one line why Pillow does not recognise the format of a file."""
    with path.open("rb") as file:
        head = file.read(12)
    if head[4:8] == b"ftyp" and head[8:] in (b"heic", b"heix", b"hevc", b"mif1", b"msf1"):
        return "it is in HEIF format, which needs another package (pip install pillow-heif)"
    installed = ", ".join(name for name in FORMATS if name in Image.OPEN)
    return f"it is in none of the supported formats ({installed})"


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
