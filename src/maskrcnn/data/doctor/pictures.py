"""Checks of picture files: readable, of the stated size, and each only once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageOps

from maskrcnn.data.categories import Entry
from maskrcnn.data.doctor.findings import Finding, finding, plain_text
from maskrcnn.data.doctor.raw import RawSplit, size_of
from maskrcnn.data.file_names import name_problem
from maskrcnn.data.pictures import open_picture

_THUMBNAIL = 16  # pixels a side
_NEAR = 6  # bits of 256 in which near duplicates may differ
_NEAR_GREY = 6  # mean difference of their thumbnails, of 255
_CONTRAST = 8  # standard deviation of grey below which pictures are too plain to compare
_NARROW = 0.1  # part of the range of values that a picture should use


class Look(NamedTuple):
    """What is remembered of a picture, to find it again."""

    split: RawSplit
    image: Entry
    digest: bytes
    bits: np.ndarray | None  # None of a plain picture
    thumbnail: np.ndarray


class _Opened(NamedTuple):
    stored_hw: tuple[int, int]
    upright_hw: tuple[int, int]
    turned: bool
    largest: int | None  # value of a picture with more than 8 bits
    spread: tuple[int, int]  # the 1st and 99th percentile of grey, of a thumbnail
    thumbnail: np.ndarray


def check_files(splits: Sequence[RawSplit]) -> Iterator[Finding]:
    """Yield what is wrong with the picture files, each decoded once, and which of them are alike."""
    looks: list[Look] = []
    for split in splits:
        seen: set[str] = set()
        for image in split.images:
            name = image.get("file_name")
            if not isinstance(name, str) or name_problem(name.replace("\\", "/")) or name in seen:
                continue
            seen.add(name)
            yield from _check_file(split, image, split.folder / name.replace("\\", "/"), looks)
    yield from _alike(looks)


def _check_file(split: RawSplit, image: Entry, path: Path, looks: list[Look]) -> Iterator[Finding]:
    where = split.at(image)
    try:
        opened = _open(path)
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").digest()
    except FileNotFoundError:
        yield finding("missing picture", where, f"{plain_text(image['file_name'])} is not in {split.folder}")
        return
    except (ValueError, OSError) as error:
        kind = "truncated picture" if "truncated" in str(error) else "unreadable picture"
        yield finding(kind, where, str(error))
        return
    yield from (finding(kind, where, text) for kind, text in _size_faults(image, opened))
    yield from (finding(kind, where, text) for kind, text in _grey_faults(opened))
    looks.append(Look(split, image, digest, _bits(opened.thumbnail), opened.thumbnail))


def upright_size(path: Path) -> tuple[int, int] | None:
    """Return height and width of a picture as a viewer shows it, None if it cannot be read."""
    try:
        return _open(path).upright_hw
    except (ValueError, OSError):
        return None


def _open(path: Path) -> _Opened:
    with open_picture(path) as image:
        stored = image.size[::-1]
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) not in (0, 1)
        upright = ImageOps.exif_transpose(image)
        largest, grey = None, upright
        if upright.mode.startswith("I"):
            pixels = np.array(upright).astype(np.int64)
            largest = int(pixels.max())
            grey = Image.fromarray((pixels * 255 // max(largest, 1)).clip(0, 255).astype(np.uint8))
        grey = grey.convert("L")
        small = grey.resize((_THUMBNAIL + 1, _THUMBNAIL), Image.Resampling.BOX)
        low, high = np.percentile(np.array(grey.resize((64, 64))), (1, 99)).astype(int).tolist()
        thumbnail = np.array(small).astype(np.int16)
        return _Opened(stored, upright.size[::-1], turned, largest, (low, high), thumbnail)


def _size_faults(image: Entry, opened: _Opened) -> Iterator[tuple[str, str]]:
    size = size_of(image)
    height, width = opened.upright_hw
    if size is None:
        return
    if size == opened.upright_hw:
        if opened.turned and opened.stored_hw == opened.upright_hw:
            yield (
                "turned picture",
                f"{plain_text(image['file_name'])} is stored turned, says EXIF",
            )
        return
    stated = f"the file has {width}x{height} pixels (width x height), the entry {size[1]}x{size[0]}"
    if opened.turned and size == opened.stored_hw:
        yield "picture orientation", f"{stated}: it is stored turned, and EXIF says how it is shown"
    elif size == opened.upright_hw[::-1]:
        yield "picture size", f"{stated}: height and width are exchanged"
    else:
        yield "picture size", stated


def _grey_faults(opened: _Opened) -> Iterator[tuple[str, str]]:
    if opened.largest is not None:
        yield "grey levels", f"16 bits, values up to {opened.largest}"
    low, high = opened.spread
    if high - low < _NARROW * 255:
        yield "grey levels", f"most values lie between {low} and {high} of 255"


def _bits(thumbnail: np.ndarray) -> np.ndarray | None:
    """Return 256 bits, whether each pixel is brighter than its left neighbour; None of a plain picture."""
    if thumbnail.std() < _CONTRAST:
        return None
    return (thumbnail[:, 1:] > thumbnail[:, :-1]).ravel()


def _alike(looks: Sequence[Look]) -> Iterator[Finding]:
    first: dict[bytes, Look] = {}
    for look in looks:
        if look.digest in first:
            yield _pair("duplicate picture", "picture in both splits", first[look.digest], look, "equals")
        first.setdefault(look.digest, look)
    yield from _near([look for look in first.values() if look.bits is not None])


def _near(looks: Sequence[Look]) -> Iterator[Finding]:
    if not looks:
        return
    bits = np.packbits(np.stack([look.bits for look in looks if look.bits is not None]), 1)
    for i in range(1, len(looks)):
        differing = (
            np.bitwise_count(bits[:i] ^ bits[i]).sum(1)
            if hasattr(np, "bitwise_count")
            else (np.unpackbits(bits[:i] ^ bits[i], 1).sum(1))
        )
        for j in np.flatnonzero(differing <= _NEAR).tolist():
            if np.abs(looks[i].thumbnail - looks[j].thumbnail).mean() <= _NEAR_GREY:
                yield _pair(
                    "near duplicate picture", "near duplicate in both splits", looks[j], looks[i], "is like"
                )
                break


def _pair(within: str, between: str, one: Look, other: Look, verb: str) -> Finding:
    same = one.split is other.split
    text = f"{plain_text(other.image['file_name'])} {verb} {plain_text(one.image['file_name'])}"
    where = other.split.at(other.image)
    return finding(within if same else between, where, text if same else f"{text} of {one.split.name}")
