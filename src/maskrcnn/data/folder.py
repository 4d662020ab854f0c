"""Where a data set keeps a split: our own layout, COCO's own folder names, Roboflow's, or Cityscapes'."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from maskrcnn.data.readers import cityscapes

Split = Literal["train", "val"]


def find_split(
    data: str | Path, split: Split, kinds: tuple[str, ...] = ("instances", "person_keypoints")
) -> tuple[Path, Path]:
    """Find a split's annotation file and its folder of pictures.

    `kinds` are what COCO's annotation files begin with, best first: COCO itself keeps keypoints apart, in
    ``person_keypoints_*.json``. Cityscapes' annotations are turned into such a file when they are first asked
    for. Raises FileNotFoundError that says what was looked for and what is there, and ValueError for
    annotations of Cityscapes that are incomplete or cannot be read.
    """
    data = Path(data)
    if not data.is_dir():
        raise FileNotFoundError(f"{data}: no such folder; expected a data set in COCO layout")
    for file, pictures in _candidates(data, split, kinds):
        if file.is_file() and pictures.is_dir():
            return file, pictures
    if cityscapes.has_split(data, split):
        return cityscapes.cached(data, split)
    raise FileNotFoundError(
        f"{data}: no {split!r} split; looked for annotations/{'|'.join(kinds)}_{split}.json with pictures in"
        f" {split}/ (or {split}2017, {split}2014, images/{split}…), for Roboflow's"
        f" {split if split == 'train' else 'valid'}/_annotations.coco.json, and for Cityscapes'"
        f" leftImg8bit/{split}/ with gtFine/{split}/; found {_inventory(data)}"
    )


def _candidates(data: Path, split: Split, kinds: tuple[str, ...]) -> Iterator[tuple[Path, Path]]:
    for kind in kinds:
        for name in (split, f"{split}2017", f"{split}2014"):
            file = data / "annotations" / f"{kind}_{name}.json"
            yield file, data / name
            yield file, data / "images" / name
    for name in (split, "valid") if split == "val" else (split,):
        yield data / name / "_annotations.coco.json", data / name


def _inventory(data: Path) -> str:
    entries = sorted(
        path for folder in (data, data / "annotations") if folder.is_dir() for path in folder.iterdir()
    )
    names = [f"{path.relative_to(data)}{'/' if path.is_dir() else ''}" for path in entries[:12]]
    return ", ".join([*names, "…"] if len(entries) > len(names) else names) or "nothing"
