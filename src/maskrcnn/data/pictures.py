"""This module turns a picture of any kind into a uint8 tensor: upright as a viewer shows it, 0 … 255."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from maskrcnn.data.formats import FORMATS, reason_of, register_formats, unknown_format
from maskrcnn.data.jpeg import decode_shrunk
from maskrcnn.data.values import to_uint8

Source = str | Path | np.ndarray | Image.Image | Tensor

SizeHW = tuple[int, int]


class Picture(NamedTuple):
    """A decoded picture that is to be resized to `target_hw`."""

    image: UInt8[Tensor, "C H W"]
    file_hw: SizeHW  # upright
    target_hw: SizeHW
    # x1, y1, x2, y2 of the file's edges in `image`: a JPEG decoded at a smaller size can end within a pixel
    extent: tuple[float, float, float, float]


def read_picture(source: Source, channels: int = 3, white: int | None = None) -> UInt8[Tensor, "C H W"]:
    """Read a file, a Pillow image, an array (H, W) or (H, W, C), or a tensor (H, W) or (C, H, W).

    EXIF orientation is applied. Transparent pixels are blended with white. Of several frames the first is
    read. 8-bit values are not changed; bool becomes 0 and 255; floats must lie in 0 … 1. With 1 channel,
    colours are converted to luma; with 3, grey is repeated; any other number of channels must be the
    picture's own.

    Of 16-bit values, `white` and above become 255: equal values stay equal in all pictures that are read with
    the same `white`. Without it, the smallest of `values.WHITES` that contains the picture's values is taken:
    microscopes and X-ray cameras store 12 bits in 16-bit files, which would become 16 levels of grey.

    Raises FileNotFoundError for a missing file, and ValueError that names the file if it is not readable, not
    in one of `FORMATS`, damaged, larger than Pillow's limit against decompression bombs, or if it does not
    fit `channels`.
    """
    return read_to_resize(source, lambda size_hw: size_hw, channels, white).image


def read_to_resize(
    source: Source, resize: Callable[[SizeHW], SizeHW], channels: int = 3, white: int | None = None
) -> Picture:
    """Read a picture that will be resized; `resize` returns its new size from that of the upright file.

    A JPEG file that will shrink is decoded at 1/2, 1/4 or 1/8 of its size, in a fraction of the time, but
    never below the new size. Everything else, errors included, is as in `read_picture`.
    """

    def decode(image: Image.Image) -> Tensor:
        return _to_picture(_upright_array(image), channels, white)

    if isinstance(source, str | Path):
        with open_picture(Path(source)) as image:
            if image.format in ("JPEG", "MPO"):
                return Picture(*decode_shrunk(image, resize, decode))
            return _whole(decode(image), resize)
    return _whole(_to_picture(as_array(source), channels, white), resize)


@contextmanager
def open_picture(path: Path) -> Iterator[Image.Image]:
    """Open a picture file in one of `FORMATS`.

    Every error, also one raised while it is open, becomes a sentence that names the file: FileNotFoundError
    if it is missing, ValueError otherwise.
    """
    try:
        status = path.stat() if path.exists() else None
    except FileNotFoundError:  # deleted between the two
        status = None
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror or error}") from error
    if status is None:
        raise FileNotFoundError(f"{path}: no such picture")
    if stat.S_ISDIR(status.st_mode):
        raise ValueError(f"{path}: a folder, where a picture was expected")
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{path}: not a regular file")
    if not status.st_size:
        raise ValueError(f"{path}: an empty file")
    try:
        # Not by name: Pillow 13 would map uncompressed TIFF files into memory, in the wrong shape if sideways
        register_formats()
        formats = [name for name in FORMATS if name in Image.OPEN]
        with path.open("rb") as file, Image.open(file, formats=formats) as image:
            yield image
    except Exception as error:  # a damaged file can raise any exception in a decoder
        reason = unknown_format(path) if isinstance(error, UnidentifiedImageError) else reason_of(error)
        raise ValueError(f"{path}: cannot be read as a picture: {reason}") from error


def _whole(image: Tensor, resize: Callable[[SizeHW], SizeHW]) -> Picture:
    height, width = image.shape[-2:]
    return Picture(image, (height, width), resize((height, width)), (0.0, 0.0, width, height))


def as_array(source: np.ndarray | Image.Image | Tensor) -> np.ndarray:
    """Return the pixels (H, W) or (H, W, C) of a picture that is no file.

    Raises ValueError for any other type.
    """
    if isinstance(source, Image.Image):
        try:
            return _upright_array(source)
        except OSError as error:  # opened, but not decoded until now
            name = getattr(source, "filename", "") or "a Pillow image"
            raise ValueError(f"{name}: cannot be read as a picture: {reason_of(error)}") from error
    if isinstance(source, Tensor):
        pixels = source.detach().cpu().numpy()
        return pixels.transpose(1, 2, 0) if pixels.ndim == 3 else pixels
    if isinstance(source, np.ndarray):
        return source
    kinds = "a path, a Pillow image, a numpy array or a tensor"
    raise ValueError(f"a picture is {kinds}, but this one is of type {type(source).__name__}")


def _upright_array(image: Image.Image) -> np.ndarray:
    """Decode, and apply the orientation unless decoding did: Pillow turns TIFF files itself."""
    return _to_array(ImageOps.exif_transpose(image))


def _to_array(image: Image.Image) -> np.ndarray:
    """Return the pixels as (H, W) or (H, W, C), in the bits in which they are stored."""
    if image.mode == "I":  # Pillow widens 16 bits to 32; there is no convention for white beyond 16 bits
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


def _to_picture(pixels: np.ndarray, channels: int, white: int | None) -> UInt8[Tensor, "C H W"]:
    if pixels.ndim not in (2, 3) or 0 in pixels.shape:
        raise ValueError(
            f"an array of shape {pixels.shape}, where a picture (H, W) or (H, W, C) was expected"
        )
    # A copy, because the caller can still write to the original
    pixels = pixels.copy() if pixels.dtype == np.uint8 else to_uint8(pixels, white)
    pixels = pixels if pixels.ndim == 3 else pixels[:, :, None]
    picture = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)
    return _to_channels(picture, channels)


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
