"""Any picture a user may hold, as one uint8 tensor: upright as a viewer shows it, values 0 … 255."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor

Source = str | Path | np.ndarray | Image.Image | Tensor

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".avif"})

# EXIF orientations that exchange rows and columns, mirror the picture, or turn it upside down
_SIDEWAYS, _MIRRORED, _UPSIDE_DOWN = {5, 6, 7, 8}, {2, 3, 6, 7}, {3, 4, 7, 8}

SizeHW = tuple[int, int]
N = TypeVar("N", int, float)


class Picture(NamedTuple):
    """A picture on its way to the size `wanted_hw`: it is decoded, and not yet resized."""

    image: UInt8[Tensor, "C H W"]
    file_hw: SizeHW  # as a viewer shows it
    wanted_hw: SizeHW
    # Where the file lies in `image`, x1, y1, x2, y2: a JPEG that is decoded smaller may end within a pixel
    extent: tuple[float, float, float, float]


def read_picture(source: Source, channels: int = 3) -> UInt8[Tensor, "C H W"]:
    """Read a file, a Pillow image, an array (H, W) or (H, W, C), or a tensor (H, W) or (C, H, W).

    EXIF orientation is applied, transparent parts are laid over white, of several frames the first is taken.
    8 bits stay; bool becomes 0 and 255; 16 bits are scaled by 255 / 65535, over their full range and not the
    picture's own, so that equal values stay equal between pictures; floats must lie in 0 … 1. With 1 channel
    colours turn into luma, with 3 grey is repeated; any other number must be the picture's own.

    Raises FileNotFoundError for a missing file, and ValueError, naming the file, for one that cannot be
    decoded, has more pixels than Pillow's bound against decompression bombs, or does not fit `channels`.
    """
    return read_to_resize(source, _as_is, channels).image


def _as_is(size_hw: SizeHW) -> SizeHW:
    return size_hw


def read_to_resize(source: Source, resize: Callable[[SizeHW], SizeHW], channels: int = 3) -> Picture:
    """Read a picture that is going to have the size that `resize` makes of its own.

    A JPEG file that is going to shrink is decoded at 1/2, 1/4 or 1/8 of its size, where that is not below
    the size wanted, in a fraction of the time. All else, errors too, is as in `read_picture`.
    """
    if isinstance(source, str | Path):
        return _read_file(Path(source), resize, channels)
    image = _to_picture(_unfiled(source), channels)
    height, width = image.shape[-2:]
    return Picture(image, (height, width), resize((height, width)), (0.0, 0.0, width, height))


def _unfiled(source: np.ndarray | Image.Image | Tensor) -> np.ndarray:
    if isinstance(source, Image.Image):
        return _to_array(ImageOps.exif_transpose(source))
    if isinstance(source, Tensor):
        pixels = source.detach().cpu().numpy()
        return pixels.transpose(1, 2, 0) if pixels.ndim == 3 else pixels
    return source


def find_pictures(patterns: Iterable[str | Path]) -> list[Path]:
    """List the pictures that files, folders (searched to any depth) and glob patterns name, each once.

    A file named outright is taken whatever it is called; in folders and globs the suffix decides. What one
    pattern finds is sorted. Raises FileNotFoundError naming the pattern that finds nothing.
    """
    found: dict[Path, None] = {}
    for pattern in patterns:
        matches = _match(Path(pattern))
        if not matches:
            raise FileNotFoundError(
                f"{pattern}: no such picture, and as a folder or a pattern it holds none"
                f" (files ending in {', '.join(sorted(SUFFIXES))})"
            )
        found.update(dict.fromkeys(matches))
    return list(found)


def _match(pattern: Path) -> list[Path]:
    if pattern.is_file():
        return [pattern]
    if pattern.is_dir():
        candidates = pattern.rglob("*")
    else:
        candidates = Path(pattern.anchor).glob(str(pattern.relative_to(pattern.anchor)))
    return sorted(path for path in candidates if path.suffix.lower() in SUFFIXES and path.is_file())


def _read_file(path: Path, resize: Callable[[SizeHW], SizeHW], channels: int) -> Picture:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such picture")
    try:
        with Image.open(path) as image:
            return _decoded(image, resize, channels)
    except (
        Exception
    ) as error:  # a broken file can break a decoder anywhere; the user's question is which file
        reason = "its format is not known" if isinstance(error, UnidentifiedImageError) else error
        raise ValueError(f"{path}: cannot be read as a picture: {reason}") from error


def _decoded(image: Image.Image, resize: Callable[[SizeHW], SizeHW], channels: int) -> Picture:
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    file_hw = _turned(image.size, orientation)[::-1]
    wanted_hw = resize(file_hw)
    drafted = image.draft(None, _turned(wanted_hw[::-1], orientation))
    stored = drafted[1][2:] if drafted else image.size
    pixels = _to_picture(_to_array(ImageOps.exif_transpose(image)), channels)
    width, height = _turned(stored, orientation)
    # What a block has beyond the file's right and lower edge is on the other side in a mirror
    x1 = pixels.shape[-1] - width if orientation in _MIRRORED else 0.0
    y1 = pixels.shape[-2] - height if orientation in _UPSIDE_DOWN else 0.0
    return Picture(pixels, file_hw, wanted_hw, (x1, y1, x1 + width, y1 + height))


def _turned(size: tuple[N, N], orientation: int) -> tuple[N, N]:
    return size[::-1] if orientation in _SIDEWAYS else size


def _to_array(image: Image.Image) -> np.ndarray:
    """Pixels of a Pillow image as (H, W) or (H, W, C), in the bits they are stored in."""
    if image.mode == "I":  # Pillow widens 16 bits to 32; values beyond 16 bits have no agreed white
        pixels = np.array(image)
        if pixels.min() < 0 or pixels.max() > 65535:
            raise ValueError(f"32-bit values from {pixels.min()} to {pixels.max()}; expected 0 … 65535")
        return pixels.astype(np.uint16)
    if image.mode.startswith("I;16"):
        return np.array(image).astype(np.uint16)  # to the machine's byte order
    if image.mode == "LA" or image.has_transparency_data:
        return np.array(image.convert("RGBA"))
    if image.mode in ("1", "L", "F", "RGB"):
        return np.array(image)
    return np.array(image.convert("RGB"))


def _to_picture(pixels: np.ndarray, channels: int) -> UInt8[Tensor, "C H W"]:
    if pixels.ndim not in (2, 3) or 0 in pixels.shape:
        raise ValueError(
            f"an array of shape {pixels.shape}, where a picture (H, W) or (H, W, C) was expected"
        )
    pixels = _to_bytes(pixels)
    pixels = pixels if pixels.ndim == 3 else pixels[:, :, None]
    picture = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)
    return _to_channels(picture, channels)


def _to_bytes(pixels: np.ndarray) -> np.ndarray:
    if pixels.dtype == np.uint8:
        return pixels.copy()  # the caller may go on writing to theirs
    if pixels.dtype == np.bool_:
        return pixels.astype(np.uint8) * np.uint8(255)
    if pixels.dtype == np.uint16:
        return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if not np.issubdtype(pixels.dtype, np.floating):
        raise ValueError(f"values of type {pixels.dtype}; expected bool, uint8, uint16, or floats in 0 … 1")
    if not (pixels.min() >= 0 and pixels.max() <= 1):  # false for NaN, too
        raise ValueError(
            f"float values from {pixels.min()} to {pixels.max()}; expected 0 … 1 (divide by white)"
        )
    return np.rint(pixels * 255).astype(np.uint8)


def _to_channels(picture: Tensor, channels: int) -> Tensor:
    if len(picture) == channels:
        return picture
    if channels in (1, 3) and len(picture) == 4:
        colours, alpha = picture[:3].float(), picture[3:].float() / 255
        picture = (colours * alpha + 255 * (1 - alpha)).round().byte()
    if channels == 3 and len(picture) == 1:
        return picture.expand(3, -1, -1).contiguous()
    if channels == 1 and len(picture) == 3:
        luma = torch.tensor([0.299, 0.587, 0.114])[:, None, None]  # ITU-R BT.601, as in JPEG
        return (picture * luma).sum(0, keepdim=True).round().byte()
    if len(picture) != channels:
        raise ValueError(f"a picture of {len(picture)} channels, where {channels} were expected")
    return picture
