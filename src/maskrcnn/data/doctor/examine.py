"""Examines a whole data set: every split, its annotations and its pictures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from maskrcnn.data.doctor.annotations import check_annotations
from maskrcnn.data.doctor.findings import Finding, Kind
from maskrcnn.data.doctor.pictures import Looked, check_pictures, check_unlisted
from maskrcnn.data.doctor.splits import check_categories, check_copies
from maskrcnn.data.folder import annotation_files
from maskrcnn.data.readers.coco import read_json

NO_FILE = Kind("annotation file that cannot be read", "error", "export it again")


def examine(data: Path) -> Iterator[Finding]:
    """Yield the findings in a data set in COCO's format.

    Raises FileNotFoundError where the folder has no annotations in a layout that is known.
    """
    contents: dict[str, dict[str, Any]] = {}
    looked: dict[str, list[Looked]] = {}
    listed = set[Path]()
    for split, (file, folder) in annotation_files(data).items():
        place = file.relative_to(data).as_posix()
        try:
            contents[split] = read_json(file)
        except ValueError as error:
            yield Finding(NO_FILE, place, str(error)[:200])
            continue
        yield from check_annotations(place, contents[split])
        looked[split] = []
        yield from check_pictures(place, folder, contents[split]["images"], looked[split], listed)
    yield from check_unlisted(str(data), listed)
    if contents:
        yield from check_categories(contents)
    yield from check_copies(looked)
