"""Checks of picture files: readable, of the stated size, and each only once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from maskrcnn.data.categories import Entry
from maskrcnn.data.doctor.findings import Finding, finding, plain_text
from maskrcnn.data.doctor.raw import RawSplit, size_of
from maskrcnn.data.file_names import name_problem
from maskrcnn.data.near_duplicates import Thumbnail, near_duplicates, thumbnail
from maskrcnn.data.picture_files import Header, checked_header, picture_fault
from maskrcnn.data.pictures import open_picture

_NARROW = 0.1  # part of the range of values that a picture should use


class Look(NamedTuple):
    """What is remembered of a picture, to find it again."""

    split: RawSplit
    image: Entry
    digest: bytes
    thumbnail: Thumbnail | None


def check_headers(splits: Sequence[RawSplit]) -> Iterator[Finding]:
    """Yield what is wrong with the picture files, as far as it is seen without decoding them."""
    for split, image, path in _files(splits):
        where = split.at(image)
        if not path.exists():
            text = f"{plain_text(image['file_name'])} is not in {split.folder}"
            yield finding("missing picture", where, text)
        elif isinstance(header := checked_header(path), str):
            yield finding(_kind_of(header, path), where, header)
        else:
            yield from (finding(kind, where, text) for kind, text in _size_faults(image, header))


def check_pixels(splits: Sequence[RawSplit]) -> Iterator[Finding]:
    """Yield what is wrong with the pixels of pictures that `check_headers` accepts, and which are alike."""
    looks: list[Look] = []
    for split, image, path in _files(splits):
        if picture_fault(path):
            continue
        try:
            pixels = _decode(path)
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").digest()
        except (ValueError, OSError) as error:
            yield finding(_kind_of(str(error), path), split.at(image), str(error))
            continue
        yield from (finding("grey levels", split.at(image), text) for text in _grey_faults(pixels))
        looks.append(Look(split, image, digest, thumbnail(pixels.grey)))
    yield from _alike(looks)


def _kind_of(fault: str, path: Path) -> str:
    return "truncated picture" if "truncated" in fault.removeprefix(str(path)) else "unreadable picture"


def _files(splits: Sequence[RawSplit]) -> Iterator[tuple[RawSplit, Entry, Path]]:
    """Yield the pictures whose names can be used, each file of a split once, with their paths."""
    for split in splits:
        seen: set[str] = set()
        for image in split.images:
            name = image.get("file_name")
            if isinstance(name, str) and not name_problem(name.replace("\\", "/")) and name not in seen:
                seen.add(name)
                yield split, image, split.folder / name.replace("\\", "/")


def _size_faults(image: Entry, header: Header) -> Iterator[tuple[str, str]]:
    size = size_of(image)
    height, width = header.upright_hw
    if size is None:
        return
    if size == header.upright_hw:
        if header.is_turned and header.stored_hw == header.upright_hw:
            yield "turned picture", f"{plain_text(image['file_name'])} is stored turned, says EXIF"
        return
    stated = f"the file has {width}x{height} pixels (width x height), the entry {size[1]}x{size[0]}"
    if header.is_turned and size == header.stored_hw:
        yield "picture orientation", f"{stated}: it is stored turned, and EXIF says how it is shown"
    elif size == header.upright_hw[::-1]:
        yield "picture size", f"{stated}: height and width are exchanged"
    else:
        yield "picture size", stated


class _Pixels(NamedTuple):
    grey: Image.Image
    largest: int | None  # value of a picture with more than 8 bits


def _decode(path: Path) -> _Pixels:
    with open_picture(path) as image:
        if not image.mode.startswith("I"):
            return _Pixels(image.convert("L"), None)
        values = np.array(image).astype(np.int64)
        largest = int(values.max())
        scaled = (values * 255 // max(largest, 1)).clip(0, 255).astype(np.uint8)
        return _Pixels(Image.fromarray(scaled), largest)


def _grey_faults(pixels: _Pixels) -> Iterator[str]:
    if pixels.largest is not None:
        yield f"16 bits, values up to {pixels.largest}"
    low, high = np.percentile(np.array(pixels.grey.resize((64, 64))), (1, 99)).astype(int).tolist()
    if high - low < _NARROW * 255:
        yield f"most values lie between {low} and {high} of 255"


def _alike(looks: Sequence[Look]) -> Iterator[Finding]:
    first: dict[bytes, Look] = {}
    for look in looks:
        if look.digest in first:
            yield _pair("duplicate picture", "picture in both splits", first[look.digest], look, "equals")
        first.setdefault(look.digest, look)
    different = list(first.values())
    for one, other in near_duplicates([look.thumbnail for look in different]):
        kinds = "near duplicate picture", "near duplicate in both splits"
        yield _pair(*kinds, different[one], different[other], "is like")


def _pair(within: str, between: str, one: Look, other: Look, verb: str) -> Finding:
    same = one.split is other.split
    text = f"{plain_text(other.image['file_name'])} {verb} {plain_text(one.image['file_name'])}"
    where = other.split.at(other.image)
    return finding(within if same else between, where, text if same else f"{text} of {one.split.name}")
