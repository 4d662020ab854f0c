"""Which value of 16-bit pictures is white, where many are read together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from maskrcnn.data.pictures import Source, as_array, open_picture
from maskrcnn.data.values import white_of

_SAMPLED = 256  # pictures that decide about the white of many


def common_white(sources: Sequence[Source]) -> int | None:
    """Return the white of pictures that are read together; None if none has more than 8 bits.

    It is the smallest of `WHITES` that contains the values of up to 256 pictures, taken at equal distances.
    Pictures that cannot be read are skipped: they are reported when they are needed.
    """
    step = -(-len(sources) // _SAMPLED) or 1
    largest = [value for value in map(_largest_value, sources[::step]) if value is not None]
    return white_of(max(largest)) if largest else None


def _largest_value(source: Source) -> int | None:
    """Return the largest value of a picture with more than 8 bits, None of any other."""
    try:
        if isinstance(source, str | Path):
            with open_picture(Path(source)) as image:  # not decoded
                pixels = as_array(image) if image.mode.startswith("I") else None
        else:
            pixels = None if isinstance(source, Image.Image) and source.mode[0] != "I" else as_array(source)
    except (OSError, ValueError):
        return None
    return int(pixels.max(initial=0)) if pixels is not None and pixels.dtype == np.uint16 else None
