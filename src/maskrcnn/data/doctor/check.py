"""The doctor: reads all splits of a data set and reports what is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from maskrcnn.data import folder
from maskrcnn.data.doctor.annotations import check_annotations, check_ids
from maskrcnn.data.doctor.findings import Report, Where, finding
from maskrcnn.data.doctor.pictures import check_files
from maskrcnn.data.doctor.raw import RawSplit, load
from maskrcnn.data.doctor.splits import check_between, check_categories, check_images
from maskrcnn.data.readers import cityscapes
from maskrcnn.files import reading

SPLITS: tuple[folder.Split, ...] = get_args(folder.Split)


def check(data: str | Path) -> Report:
    """Check the splits of a data set that a training would read.

    Faults of the data are findings. Raises FileNotFoundError, with the layouts that are supported, if the
    folder has no split, and ValueError for a data set that is not in COCO's format.
    """
    report = Report()
    splits = open_splits(Path(data), report)
    for split in splits:
        report.extend(check_ids(split))
        report.extend(check_images(split))
        report.extend(check_categories(split))
        report.extend(check_annotations(split))
    report.extend(check_between(splits))
    report.extend(check_files(splits))
    return report


def open_splits(data: Path, report: Report) -> list[RawSplit]:
    """Load the annotation files of a data set; what stops this goes into `report`."""
    splits, missing = [], []
    for name in SPLITS:
        files = folder.coco_files(data, name, folder.KINDS)
        if files is None:
            missing.append(name)
            report.extend(
                finding("split without pictures", Where(str(file)), f"there is no folder {images}")
                for file, images in _without_pictures(data, name)
            )
            continue
        split, findings = load(name, *files)
        report.extend(findings)
        splits += [split] if split else []
    if len(missing) == len(SPLITS):
        if any(cityscapes.has_split(data, name) for name in SPLITS):
            raise ValueError(f"{data}: in Cityscapes' layout; only COCO's format is checked")
        if not report.kinds:
            folder.read_split(data, "train")  # raises the sentence with the layouts
    elif "val" in missing and not report.kinds:
        report.extend([finding("no validation split", Where(str(data)), "there is no val split")])
    elif "train" in missing and not report.kinds:
        folder.read_split(data, "train")
    return splits


def _without_pictures(data: Path, name: folder.Split) -> list[tuple[Path, Path]]:
    """Return the first annotation file of a split, with the folder that it lacks."""
    with reading(data):
        layouts = [pair for pair in folder.coco_layouts(data, name, folder.KINDS) if pair[0].is_file()]
    return layouts[:1]
