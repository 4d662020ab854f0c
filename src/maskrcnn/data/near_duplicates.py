"""Near duplicates: pictures that show the same scene, stored again, resized or taken a moment later."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int16
from PIL import Image

from maskrcnn.data.pictures import open_picture

_SIDE = 16  # pixels, of a thumbnail
_CORRELATION = 0.98  # of the grey values of near duplicates, at least
_GREY = 6  # mean difference of these, of 255, at most
_CONTRAST = 8  # standard deviation of grey below which pictures are too plain to compare

Thumbnail = Int16[np.ndarray, "16 16"]


def thumbnail(grey: Image.Image) -> Thumbnail | None:
    """Return a grey picture as 16 x 16 values, by which near duplicates are found.

    None for a picture that is too plain to tell it from others.
    """
    small = np.asarray(grey.resize((_SIDE, _SIDE), Image.Resampling.BOX)).astype(np.int16)
    return small if small.std() >= _CONTRAST else None


def read_thumbnail(path: Path) -> Thumbnail | None:
    """Return the thumbnail of a file; None as `thumbnail` does, and where the file cannot be read.

    A JPEG file is decoded at a fraction of its size.
    """
    try:
        with open_picture(path) as image:
            image.draft("L", (8 * _SIDE, 8 * _SIDE))
            return thumbnail(image.convert("L"))
    except (OSError, ValueError):
        return None


def near_duplicates(thumbnails: Sequence[Thumbnail | None]) -> Iterator[tuple[int, int]]:
    """Yield the index of each picture that is like an earlier one, after the index of the first such.

    The grey values of their thumbnails are correlated by 0.98 at least, and differ by 6 of 255 at most.
    """
    numbers = [number for number, one in enumerate(thumbnails) if one is not None]
    if not numbers:
        return
    grey = np.stack([one.ravel() for one in thumbnails if one is not None]).astype(np.float32)
    normed = grey - grey.mean(1, keepdims=True)
    normed /= np.linalg.norm(normed, axis=1, keepdims=True)
    for index in range(1, len(grey)):
        for earlier in np.flatnonzero(normed[:index] @ normed[index] >= _CORRELATION).tolist():
            if np.abs(grey[earlier] - grey[index]).mean() <= _GREY:
                yield numbers[earlier], numbers[index]
                break
