"""Layouts of data set folders: ours, COCO's own folder names, Roboflow's, and Cityscapes'."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from maskrcnn.data.dataset import PackedDataset
from maskrcnn.data.readers import cityscapes
from maskrcnn.data.readers.coco import read_coco
from maskrcnn.files import reading

Split = Literal["train", "val"]
KINDS = ("instances", "person_keypoints")


def read_split(data: str | Path, split: Split, kinds: tuple[str, ...] = KINDS) -> PackedDataset:
    """Read the annotations of a split of the data set in folder `data`.

    `kinds` are the prefixes of COCO's annotation files, preferred first: COCO keeps keypoints in files of
    their own, ``person_keypoints_*.json``.

    Raises FileNotFoundError, with the layouts that are supported, if the folder has no such split, and what
    the reader raises: ValueError for annotations that are not valid, FileNotFoundError for missing pictures.
    """
    data = Path(data)
    if files := coco_files(data, split, kinds):
        return read_coco(*files)
    if cityscapes.has_split(data, split):
        return cityscapes.read_cityscapes(data, split)
    if not data.is_dir():
        raise FileNotFoundError(f"{data}: no such folder; expected the folder of a data set")
    raise FileNotFoundError(
        f"{data}: no {split!r} split; looked for annotations/{'|'.join(kinds)}_{split}.json with pictures in"
        f" {split}/ (or {split}2017, {split}2014, images/{split}…), for Roboflow's"
        f" {split if split == 'train' else 'valid'}/_annotations.coco.json, and for Cityscapes'"
        f" leftImg8bit/{split}/ with gtFine/{split}/; the folder has {_contents(data)}"
    )


def has_split(data: str | Path, split: Split) -> bool:
    """Return whether the folder has a split in a layout that `read_split` supports."""
    data = Path(data)
    return coco_files(data, split, KINDS) is not None or cityscapes.has_split(data, split)


def coco_files(data: Path, split: Split, kinds: tuple[str, ...]) -> tuple[Path, Path] | None:
    """Return the annotation file and the image folder of a split, or None."""
    candidates = coco_layouts(data, split, kinds)
    with reading(data):
        return next(
            ((file, images) for file, images in candidates if file.is_file() and images.is_dir()), None
        )


def coco_layouts(data: Path, split: Split, kinds: tuple[str, ...]) -> Iterator[tuple[Path, Path]]:
    """Yield the supported annotation files and image folders of a split, preferred first."""
    for kind in kinds:
        for name in (split, f"{split}2017", f"{split}2014"):
            file = data / "annotations" / f"{kind}_{name}.json"
            yield file, data / name
            yield file, data / "images" / name
    for name in (split, "valid") if split == "val" else (split,):
        yield data / name / "_annotations.coco.json", data / name


def _contents(data: Path) -> str:
    """Return the first entries of a folder and of its annotations folder, for a message."""
    with reading(data):
        entries = sorted(
            path for folder in (data, data / "annotations") if folder.is_dir() for path in folder.iterdir()
        )
    names = [f"{path.relative_to(data)}{'/' if path.is_dir() else ''}" for path in entries[:12]]
    return ", ".join([*names, "…"] if len(entries) > len(names) else names) or "nothing"
