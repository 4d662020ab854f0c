"""The doctor: reads all splits of a data set and reports what is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from maskrcnn.data.doctor.annotations import check_annotations, check_ids
from maskrcnn.data.doctor.findings import Report, Where, finding
from maskrcnn.data.doctor.pictures import check_headers, check_pixels
from maskrcnn.data.doctor.raw import RawSplit, load
from maskrcnn.data.doctor.splits import check_between, check_categories, check_images
from maskrcnn.data.folder import annotation_files
from maskrcnn.data.readers import cityscapes


def check(data: str | Path) -> Report:
    """Check the splits of a data set that a training would read, every picture decoded.

    Faults of the data are findings. Raises FileNotFoundError, with the layouts that are supported, if the
    folder has no split, and ValueError for a data set that is not in COCO's format.
    """
    return check_splits(open_splits(Path(data), report := Report()), report)


def check_splits(splits: Sequence[RawSplit], report: Report) -> Report:
    """Check splits that `open_splits` has loaded; return `report` with their findings."""
    _check_annotations(splits, report)
    report.extend(check_pixels(splits))
    return report


def check_quickly(data: str | Path) -> Report:
    """Check annotations and headers of pictures, in seconds for 100,000 annotations; raises as `check`."""
    report = Report()
    _check_annotations(open_splits(Path(data), report), report)
    return report


def _check_annotations(splits: Sequence[RawSplit], report: Report) -> None:
    for split in splits:
        report.extend(check_ids(split))
        report.extend(check_images(split))
        report.extend(check_categories(split))
        report.extend(check_annotations(split))
    report.extend(check_between(splits))
    report.extend(check_headers(splits))


def open_splits(data: Path, report: Report) -> list[RawSplit]:
    """Load the annotation files of a data set; what stops this goes into `report`."""
    if not data.is_dir():
        raise FileNotFoundError(f"{data}: no such folder; expected the folder of a data set")
    if any(cityscapes.has_split(data, name) for name in ("train", "val")):
        raise ValueError(f"{data}: in Cityscapes' layout; only COCO's format is checked")
    splits, files = [], annotation_files(data)
    for name, (file, pictures) in files.items():
        if not pictures.is_dir():
            problem = f"there is no folder {pictures}"
            report.extend([finding("split without pictures", Where(str(file)), problem)])
            continue
        split, findings = load(name, file, pictures)
        report.extend(findings)
        splits += [split] if split else []
    if "val" not in files:
        report.extend([finding("no validation split", Where(str(data)), "there is no val split")])
    return splits
