"""Layouts of data set folders: with splits (ours, COCO's, Roboflow's, Cityscapes') and without."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from maskrcnn.data.dataset import PackedDataset
from maskrcnn.data.readers import cityscapes
from maskrcnn.data.readers.coco import first_file_name, read_coco
from maskrcnn.files import reading

Split = Literal["train", "val", "test"]
KINDS = ("instances", "person_keypoints")


def read_split(data: str | Path, split: Split, kinds: tuple[str, ...] = KINDS) -> PackedDataset:
    """Read the annotations of a split of the data set in folder `data`.

    `kinds` are the prefixes of COCO's annotation files, preferred first: COCO keeps keypoints in files of
    their own, ``person_keypoints_*.json``.

    Raises FileNotFoundError, with the layouts that are supported, if the folder has no such split, and what
    the reader raises: ValueError for annotations that are not valid, FileNotFoundError for missing pictures.
    """
    data = Path(data)
    if files := _coco_files(data, split, kinds):
        return read_coco(*files)
    if cityscapes.has_split(data, split):
        return cityscapes.read_cityscapes(data, split)
    if not data.is_dir():
        raise FileNotFoundError(f"{data}: no such folder; expected the folder of a data set")
    if files := _coco_files(data, split, kinds, pictures=False):
        folders = dict.fromkeys(f"{folder}/" for _, folder in _coco_layouts(data, split, kinds))
        raise FileNotFoundError(f"{files[0]}: no folder of its pictures; looked for {', '.join(folders)}")
    raise FileNotFoundError(
        f"{data}: no {split!r} split; looked for annotations/{'|'.join(kinds)}_{split}.json with pictures in"
        f" {split}/ (or {split}2017, {split}2014, images/{split}…, images/), for Roboflow's"
        f" {'valid' if split == 'val' else split}/_annotations.coco.json, and for Cityscapes'"
        f" leftImg8bit/{split}/ with gtFine/{split}/; the folder has {_contents(data)}"
    )


def has_split(data: str | Path, split: Split) -> bool:
    """Return whether the folder has annotations of a split in a layout that `read_split` supports."""
    data = Path(data)
    found = _coco_files(data, split, KINDS, pictures=False)
    return found is not None or cityscapes.has_split(data, split)


def has_one_export(data: str | Path) -> bool:
    """Return whether the folder has annotations of all its pictures in one file (see `read_one_export`)."""
    return _one_export(Path(data)) is not None


def read_whole(data: str | Path, kinds: tuple[str, ...] = KINDS) -> PackedDataset:
    """Read the pictures to train on: the training split, or one file for all. Raises as these do."""
    if not has_split(data, "train") and has_one_export(data):
        return read_one_export(data)
    return read_split(data, "train", kinds)


def annotation_files(data: Path) -> dict[str, tuple[Path, Path]]:
    """Return the annotation file and the folder of pictures of each split; of "all" where there are none.

    Raises FileNotFoundError where there is no annotation file in COCO's format.
    """
    splits: tuple[Split, ...] = ("train", "val", "test")
    files: dict[str, tuple[Path, Path]] = {}
    for split in splits:
        found = _coco_files(data, split, KINDS) or _coco_files(data, split, KINDS, pictures=False)
        if found:
            files[split] = found
    return files or {"all": _export_and_folder(data)}


def read_one_export(data: str | Path) -> PackedDataset:
    """Read a folder that has one annotation file in COCO's format and no splits, as annotation tools export.

    The file is the only JSON file in the folder or in its ``annotations/``. Its pictures lie in the folder
    itself, in ``images/`` or ``data/``, or in a folder in ``images/`` that is named as the file is (CVAT's
    ``instances_default.json`` with ``images/default/``).

    Raises FileNotFoundError where the folder has no such file or its pictures are not there, and what the
    reader raises.
    """
    return read_coco(*_export_and_folder(Path(data)))


def _export_and_folder(data: Path) -> tuple[Path, Path]:
    if not (file := _one_export(data)):
        raise FileNotFoundError(
            f"{data}: no annotation file, or several; expected one JSON file in COCO's format in it or in "
            f"annotations/; the folder has {_contents(data)}"
        )
    name = first_file_name(file)
    folders = (data / "images" / file.stem.removeprefix("instances_"), data / "images", data / "data", data)
    with reading(data):
        folder = next((folder for folder in folders if (folder / name).is_file()), None)
    if folder is None:
        places = ", ".join(f"{folder}/" for folder in folders)
        raise FileNotFoundError(f"{file}: its first picture, {name}, is in none of {places}")
    return file, folder


def _one_export(data: Path) -> Path | None:
    with reading(data):
        files = sorted(file for folder in (data, data / "annotations") for file in folder.glob("*.json"))
    return files[0] if len(files) == 1 else None


def _coco_files(
    data: Path, split: Split, kinds: tuple[str, ...], *, pictures: bool = True
) -> tuple[Path, Path] | None:
    """Return the annotation file and the image folder of a split, or None.

    With ``pictures=False`` the folder need not exist.
    """
    candidates = _coco_layouts(data, split, kinds)
    with reading(data):
        return next(
            (
                (file, folder)
                for file, folder in candidates
                if file.is_file() and (folder.is_dir() or not pictures)
            ),
            None,
        )


def _coco_layouts(data: Path, split: Split, kinds: tuple[str, ...]) -> Iterator[tuple[Path, Path]]:
    """Yield annotation files and folders, preferred first; a folder for all splits comes after its own."""
    for kind in kinds:
        for name in (split, f"{split}2017", f"{split}2014"):
            file = data / "annotations" / f"{kind}_{name}.json"
            for folder in (name, f"images/{name}", "images", name.replace(split, "train")):
                yield file, data / folder
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
