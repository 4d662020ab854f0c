"""Reader of Cityscapes' own layout: its annotations are converted to COCO's form once and cached.

The folder has ``leftImg8bit/{split}/{city}/…_leftImg8bit.png`` and
``gtFine/{split}/{city}/…_gtFine_instanceIds.png``. A pixel of the latter has 16 bits: 1000 times its label
plus the number of the instance, or the label alone for stuff and for groups that are not separated.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int, UInt16
from PIL import Image
from rich.console import Console
from rich.progress import track

from maskrcnn.data.categories import Entry
from maskrcnn.data.dataset import PackedDataset
from maskrcnn.data.readers.coco import read_coco
from maskrcnn.files import cache_folder, reading, write_json
from maskrcnn.masks.rle import compress

Pair = tuple[Path, Path]  # a picture and its annotation

# The classes of the instance segmentation benchmark, by their labels.
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
# Labels without instance number whose pixels the benchmark ignores. It compares whole pixel values, so groups
# of caravans (29) and trailers (30) are ignored, but single ones (29000 …) are not.
IGNORED = (0, 1, 2, 3, 4, 5, 6, 9, 10, 14, 15, 16, 18, 29, 30)
_LAST_LABEL = 33
_PICTURE, _ANNOTATION = "_leftImg8bit.png", "_gtFine_instanceIds.png"
_VERSION = 1  # part of the cache key; to be increased with every change of `coco_form`


def has_split(data: Path, split: str) -> bool:
    """Return whether a folder has pictures and annotations of a split of Cityscapes."""
    with reading(data):
        return all((data / half / split).is_dir() for half in ("leftImg8bit", "gtFine"))


def read_cityscapes(data: Path, split: str) -> PackedDataset:
    """Read a split; its annotations are converted at the first call, and again if one of its files changes.

    Raises ValueError as `coco_form` does, and if the cache folder is not writable.
    """
    return read_coco(cached(data, split), data / "leftImg8bit" / split)


def cached(data: Path, split: str) -> Path:
    """Return the path of a split's annotations in COCO's form. Raises as `read_cityscapes`."""
    folder = cache_folder() / "cityscapes"
    with reading(data):
        file = folder / f"{split}_{_fingerprint(data, split)}.json"
    if not file.is_file():
        form = coco_form(data, split)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with TemporaryDirectory(dir=folder) as private:  # processes that start together do not share it
                write_json(Path(private) / file.name, form)
                (Path(private) / file.name).replace(file)
        except OSError as error:
            raise ValueError(
                f"{folder}: the annotations of {data} cannot be cached there ({error}): set MASKRCNN_CACHE "
                "to another folder"
            ) from error
    return file


def coco_form(data: Path, split: str) -> dict[str, Any]:
    """Convert a split to the content of a COCO annotation file, with masks as run lengths.

    Each instance is an annotation; pixels of a class without instance number are one annotation with
    ``iscrowd`` 1. Each entry of "images" has a further field "void": the mask that the benchmark ignores.
    Pictures are numbered in the order of their names, which are relative to ``leftImg8bit/{split}``.

    Raises ValueError that names the file for a picture without annotation, an annotation without picture,
    sizes that differ, annotations that are not 16-bit PNG files, and unknown labels.
    """
    images: list[Entry] = []
    annotations: list[Entry] = []
    pairs = _with_progress(_pairs(data, split), f"converting Cityscapes, {split}")
    for id_, (picture, file) in enumerate(pairs, 1):
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
    console = Console(stderr=True)
    return track(pairs, title, console=console, disable=not console.is_terminal)


def _pairs(data: Path, split: str) -> list[Pair]:
    """Return each picture of a split with its annotation, in the order of their names.

    Raises ValueError for missing files, because FileNotFoundError would mean that there is no such split.
    """
    folder, truth = data / "leftImg8bit" / split, data / "gtFine" / split
    pictures = sorted(path for path in folder.glob(f"*/*{_PICTURE}") if path.is_file())
    files = [truth / path.parent.name / path.name.replace(_PICTURE, _ANNOTATION) for path in pictures]
    present = {path for path in truth.glob(f"*/*{_ANNOTATION}") if path.is_file()}
    if not pictures:
        raise ValueError(f"{folder}: no pictures; expected CITY/…{_PICTURE} in it")
    if missing := [file for file in files if file not in present]:
        raise ValueError(
            f"{missing[0]}: no such file; {len(missing)} of {len(files)} pictures in {folder} have no "
            "annotation: unpack gtFine beside leftImg8bit"
        )
    if unmatched := sorted(present - set(files)):
        raise ValueError(
            f"{unmatched[0]}: {len(unmatched)} of {len(present)} annotations in {truth} have no picture in "
            f"{folder}: unpack leftImg8bit beside gtFine"
        )
    return list(zip(pictures, files, strict=True))


def _fingerprint(data: Path, split: str) -> str:
    """Return the cache key of a split: it changes when one of its files does."""
    files = []
    for path in (path for pair in _pairs(data, split) for path in pair):
        stat = path.stat()
        files.append((str(path.relative_to(data)), stat.st_size, stat.st_mtime_ns))
    content = json.dumps([_VERSION, str(data.resolve()), split, files])
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _read_annotation(file: Path, picture: Path) -> UInt16[np.ndarray, "H W"]:
    """Return the pixels of an annotation. Raises ValueError if its size is not that of its picture."""
    with _naming(picture), Image.open(picture, formats=("PNG",)) as image:
        picture_size = image.size
    with _naming(file), Image.open(file, formats=("PNG",)) as image:
        size, mode, pixels = image.size, image.mode, np.array(image)
    if mode != "I" and not mode.startswith("I;16"):  # which of them depends on the version of Pillow
        raise ValueError(f"{file}: pixels of mode {mode}, where 16-bit grey values were expected")
    if size != picture_size:
        sizes = [f"{width} by {height}" for width, height in (size, picture_size)]
        raise ValueError(f"{file} has {sizes[0]} pixels, but its picture {picture} has {sizes[1]}")
    return pixels.astype(np.uint16)  # to the machine's byte order


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Raise every error as a ValueError that names the file."""
    try:
        yield
    except Exception as error:  # a broken file can raise any exception in the decoder
        raise ValueError(f"{path}: cannot be read as a PNG picture: {error}") from error


class _Runs(NamedTuple):
    """A picture as runs of equal values down its columns; every column starts a new run."""

    values: UInt16[np.ndarray, " runs"]
    starts: Int[np.ndarray, " runs"]  # index of the first pixel, counted down the columns
    stops: Int[np.ndarray, " runs"]
    size_hw: tuple[int, int]

    def mask(self, inside: Bool[np.ndarray, " runs"]) -> Entry:
        """Return the mask of the selected runs as COCO's compressed run lengths."""
        changes = self.starts[np.diff(inside, prepend=False)]
        counts = np.diff(changes, prepend=0, append=self.size_hw[0] * self.size_hw[1])
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
            f"{file}: a pixel has the value {unknown[0]}; expected a label of Cityscapes, 0 … {_LAST_LABEL}, "
            "or 1000 times a label plus the number of the instance"
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
