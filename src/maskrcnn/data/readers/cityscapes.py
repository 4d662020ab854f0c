"""Cityscapes as it is downloaded, turned into COCO's form once; the result is kept in the cache folder.

The folder holds ``leftImg8bit/{split}/{city}/…_leftImg8bit.png`` and
``gtFine/{split}/{city}/…_gtFine_instanceIds.png``. A pixel of the latter, 16 bits, is 1000 times its label
plus the number of the instance, or the bare label: of stuff, or of things too crowded to tell apart.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int, UInt16
from PIL import Image
from rich.console import Console
from rich.progress import track

from maskrcnn.files import cache_folder, write_json
from maskrcnn.masks.rle import compress

Entry = dict[str, Any]
Pair = tuple[Path, Path]  # a picture and its annotation

# The classes that the benchmark of instances judges, by their labels.
CLASSES = {
    24: "person",
    25: "rider",
    26: "car",
    27: "truck",
    28: "bus",
    31: "train",
    32: "motorcycle",
    33: "bicycle",
}
# Bare labels that count neither for nor against a detection. Single caravans (29…) and trailers (30…) are
# not among them: the benchmark compares whole pixel values, so only groups of these are ignored.
IGNORED = (0, 1, 2, 3, 4, 5, 6, 9, 10, 14, 15, 16, 18, 29, 30)
_LAST_LABEL = 33
_PICTURE, _ANNOTATION = "_leftImg8bit.png", "_gtFine_instanceIds.png"
_FORM = 1  # part of the cache's key: one more with every change of what `coco_form` returns


def has_split(data: Path, split: str) -> bool:
    """Say whether a folder has both halves of a split of Cityscapes."""
    return all((data / half / split).is_dir() for half in ("leftImg8bit", "gtFine"))


def cached(data: Path, split: str) -> tuple[Path, Path]:
    """Return a split's annotation file in COCO's form and its folder of pictures, as `find_split` does.

    The file is made when it is first asked for, and again when a file of the split is added, goes or changes.
    Raises ValueError as `coco_form` does, and where the cache folder cannot be written to.
    """
    folder = cache_folder() / "cityscapes"
    file = folder / f"{split}_{_fingerprint(data, split)}.json"
    if not file.is_file():
        form = coco_form(data, split)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with TemporaryDirectory(dir=folder) as own:  # trainings that start together do not share a draft
                write_json(Path(own) / file.name, form)
                (Path(own) / file.name).replace(file)
        except OSError as error:
            raise ValueError(
                f"{folder}: cannot keep the annotations of {data} there ({error}): "
                "name another folder in MASKRCNN_CACHE"
            ) from error
    return file, data / "leftImg8bit" / split


def coco_form(data: Path, split: str) -> dict[str, Any]:
    """Return a split as COCO's annotation file would have it, in file pixels and run lengths.

    An instance is an annotation; the pixels of a class without instances are one with ``iscrowd`` 1. Each
    entry of "images" has, beyond COCO's fields, "void": the pixels that the benchmark ignores. Pictures are
    numbered in the order of their names, which are relative to ``leftImg8bit/{split}``.

    Raises ValueError, in a sentence that names the file, for a picture without annotation, an annotation
    without picture, sizes that differ, and files that are no 16-bit PNG or hold a label that there is not.
    """
    images: list[Entry] = []
    annotations: list[Entry] = []
    pairs = _pairs(data, split)
    for id_, (picture, file) in enumerate(_with_progress(pairs, f"reading Cityscapes, {split}, once"), 1):
        runs = _runs(_read_annotation(file, picture), file)
        height, width = runs.size_hw
        name, void = f"{picture.parent.name}/{picture.name}", runs.mask(np.isin(runs.values, IGNORED))
        images.append({"id": id_, "file_name": name, "height": height, "width": width, "void": void})
        values = np.unique(runs.values)
        for value, label in zip(values.tolist(), _labels(values).tolist(), strict=True):
            if label in CLASSES:
                ids = {"id": len(annotations) + 1, "image_id": id_, "category_id": label}
                annotations.append(ids | _annotation(runs, value))
    categories = [{"id": label, "name": name} for label, name in CLASSES.items()]
    return {"images": images, "annotations": annotations, "categories": categories}


def _with_progress(pairs: list[Pair], title: str) -> Iterable[Pair]:
    shown = Console(stderr=True)
    return track(pairs, title, console=shown, disable=not shown.is_terminal)


def _pairs(data: Path, split: str) -> list[Pair]:
    """Return each picture of a split with its annotation, in the order of their names.

    What is missing is a ValueError: a FileNotFoundError would mean that there is no such split.
    """
    folder, truth = data / "leftImg8bit" / split, data / "gtFine" / split
    pictures = sorted(path for path in folder.glob(f"*/*{_PICTURE}") if path.is_file())
    files = [truth / path.parent.name / path.name.replace(_PICTURE, _ANNOTATION) for path in pictures]
    present = {path for path in truth.glob(f"*/*{_ANNOTATION}") if path.is_file()}
    if not pictures:
        raise ValueError(f"{folder}: no pictures; expected CITY/…{_PICTURE} in it")
    if missing := [file for file in files if file not in present]:
        raise ValueError(
            f"{missing[0]}: no such file; {len(missing)} of {len(files)} pictures in {folder} lack their "
            "annotation: unpack gtFine beside leftImg8bit"
        )
    if lonely := sorted(present - set(files)):
        raise ValueError(
            f"{lonely[0]}: {len(lonely)} of {len(present)} annotations in {truth} lack their picture in "
            f"{folder}: unpack leftImg8bit beside gtFine"
        )
    return list(zip(pictures, files, strict=True))


def _fingerprint(data: Path, split: str) -> str:
    listed = []
    for path in (path for pair in _pairs(data, split) for path in pair):
        stat = path.stat()
        listed.append((str(path.relative_to(data)), stat.st_size, stat.st_mtime_ns))
    content = json.dumps([_FORM, str(data.resolve()), split, listed])
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _read_annotation(file: Path, picture: Path) -> UInt16[np.ndarray, "H W"]:
    """Return the pixels of an annotation, after a look at the size of its picture."""
    with _opened(picture) as image:
        wide, high = image.size
    with _opened(file) as image:
        width, height = image.size
        if image.mode != "I" and not image.mode.startswith("I;16"):  # older Pillows say "I"
            raise ValueError(f"{file}: pixels of mode {image.mode}, where grey of 16 bits was expected")
        if (width, height) != (wide, high):
            raise ValueError(
                f"{file}: {width} by {height} pixels large, but its picture {picture} is {wide} by {high}"
            )
        return _decoded(image, file)


def _opened(path: Path) -> Image.Image:
    try:
        return Image.open(path, formats=("PNG",))
    except Exception as error:  # a broken file can break a decoder anywhere
        raise ValueError(f"{path}: cannot be read as a PNG picture: {error}") from error


def _decoded(image: Image.Image, path: Path) -> UInt16[np.ndarray, "H W"]:
    try:
        return np.array(image).astype(np.uint16)  # to the machine's byte order
    except Exception as error:
        raise ValueError(f"{path}: cannot be read as a PNG picture: {error}") from error


class _Runs(NamedTuple):
    """A picture as runs of equal values down its columns; no run goes on in the next column."""

    values: UInt16[np.ndarray, " runs"]
    starts: Int[np.ndarray, " runs"]  # the first pixel, counted down the columns
    stops: Int[np.ndarray, " runs"]
    size_hw: tuple[int, int]

    def mask(self, inside: Bool[np.ndarray, " runs"]) -> Entry:
        """Return COCO's compressed run lengths of some of the runs."""
        turns = self.starts[np.diff(inside, prepend=False)]
        counts = np.diff(turns, prepend=0, append=self.size_hw[0] * self.size_hw[1])
        return {"size": list(self.size_hw), "counts": compress(counts)}


def _runs(pixels: UInt16[np.ndarray, "H W"], file: Path) -> _Runs:
    height, width = pixels.shape
    columns = pixels.T.ravel()
    changes = columns[1:] != columns[:-1]
    changes[height - 1 :: height] = True
    starts = np.r_[0, np.flatnonzero(changes) + 1]
    runs = _Runs(columns[starts], starts, np.append(starts[1:], columns.size), (height, width))
    unknown = runs.values[_labels(runs.values) > _LAST_LABEL]
    if len(unknown):
        raise ValueError(
            f"{file}: a pixel is {unknown[0]}, where a label of Cityscapes, 0 … {_LAST_LABEL}, or "
            "1000 times a label plus an instance's number was expected"
        )
    return runs


def _labels(values: UInt16[np.ndarray, " n"]) -> UInt16[np.ndarray, " n"]:
    return np.where(values >= 1000, values // 1000, values)


def _annotation(runs: _Runs, value: int) -> Entry:
    inside = runs.values == value
    starts, stops, height = runs.starts[inside], runs.stops[inside], runs.size_hw[0]
    x, y = int(starts[0]) // height, int((starts % height).min())
    right, bottom = int(starts[-1]) // height + 1, int(((stops - 1) % height).max()) + 1
    return {
        "iscrowd": int(value < 1000),
        "bbox": [x, y, right - x, bottom - y],
        "area": int((stops - starts).sum()),
        "segmentation": runs.mask(inside),
    }
