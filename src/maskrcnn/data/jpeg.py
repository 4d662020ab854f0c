"""This module decodes a JPEG file that will be resized at 1/2, 1/4 or 1/8 of its size: in less time."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from jaxtyping import UInt8
from PIL import ExifTags, Image
from torch import Tensor

# EXIF orientations that exchange rows and columns, mirror the picture, or turn it upside down
_SIDEWAYS, _MIRRORED, _UPSIDE_DOWN = {5, 6, 7, 8}, {2, 3, 6, 7}, {3, 4, 7, 8}

Size = tuple[int, int]
N = TypeVar("N", int, float)


def decode_shrunk(
    image: Image.Image, resize: Callable[[Size], Size], decode: Callable[[Image.Image], Tensor]
) -> tuple[UInt8[Tensor, "C H W"], Size, Size, tuple[float, float, float, float]]:
    """Return the fields of `maskrcnn.data.pictures.Picture` of an open JPEG file; sizes are rows, columns.

    `resize` returns the new size from that of the upright file; what is decoded is never smaller. `decode`
    returns the upright pixels of an image.
    """
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    file_hw = _turned(image.size, orientation)[::-1]
    target_hw = resize(file_hw)
    drafted = image.draft(None, _turned(target_hw[::-1], orientation))
    stored = drafted[1][2:] if drafted else image.size
    upright_hw = _turned(image.size, orientation)[::-1]
    pixels = decode(image)
    assert pixels.shape[-2:] == upright_hw, "Pillow applied the orientation of a JPEG before we did"
    width, height = _turned(stored, orientation)
    # Pixels beyond the file's right and lower edge are on the other side in a mirror image
    x1 = pixels.shape[-1] - width if orientation in _MIRRORED else 0.0
    y1 = pixels.shape[-2] - height if orientation in _UPSIDE_DOWN else 0.0
    return pixels, file_hw, target_hw, (x1, y1, x1 + width, y1 + height)


def _turned(size: tuple[N, N], orientation: int) -> tuple[N, N]:
    return size[::-1] if orientation in _SIDEWAYS else size
