"""This module turns pixels that are not uint8 into uint8: black is 0, white is 255."""

from __future__ import annotations

import numpy as np
from jaxtyping import Shaped, UInt8

WHITES = (1023, 4095, 16383, 65535)  # of pictures that use 10, 12, 14 or 16 bits


def to_uint8(pixels: Shaped[np.ndarray, "*n"], white: int | None) -> UInt8[np.ndarray, "*n"]:
    """Return values of another type as uint8: bool as 0 and 255, uint16 with `white` as 255, floats × 255.

    Without `white`, the smallest of `WHITES` that contains the values of the picture is taken. Raises
    ValueError for any other type, and for floats outside 0 … 1.
    """
    if pixels.dtype == np.bool_:
        return pixels.astype(np.uint8) * np.uint8(255)
    if pixels.dtype == np.uint16:
        white = white or white_of(int(pixels.max()))
        scaled = (pixels.astype(np.uint32) * 255 + white // 2) // white  # rounded
        return scaled.clip(max=255).astype(np.uint8)
    if not np.issubdtype(pixels.dtype, np.floating):
        raise ValueError(f"values of type {pixels.dtype}; expected bool, uint8, uint16, or floats in 0 … 1")
    if not (pixels.min() >= 0 and pixels.max() <= 1):  # false for NaN, too
        raise ValueError(
            f"float values from {pixels.min()} to {pixels.max()}; expected 0 … 1 (divide by white)"
        )
    return np.rint(pixels * 255).astype(np.uint8)


def white_of(largest: int) -> int:
    """Return the smallest of `WHITES` that is at least the value `largest`."""
    return next(white for white in WHITES if largest <= white)
