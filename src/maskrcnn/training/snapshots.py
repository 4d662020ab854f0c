"""A few validation pictures, drawn at each evaluation and kept in the run: they show how it improves."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from maskrcnn.evaluation.coco_format import Entry, sorted_categories
from maskrcnn.evaluation.errors import Errors
from maskrcnn.evaluation.image_matches import match_images
from maskrcnn.evaluation.run import Evaluation
from maskrcnn.evaluation.side_by_side import draw_truth, side_by_side
from maskrcnn.files import replacing, write_json
from maskrcnn.predict.predictor import DEFAULT_SCORE

FOLDER = "pictures"  # of a run
_PICTURES = 4
_EVALUATIONS = 6  # kept, at about equal distances
_LONG_SIDE = 360  # px
_NAMES = "names.json"


class Snapshot(NamedTuple):
    """A validation picture with its ground truth, and with the detections after some steps."""

    name: str
    truth: Image.Image
    detections: Image.Image


class Kept(NamedTuple):
    """The files of a picture; `detections` are by step, in order."""

    name: str
    truth: Path
    detections: dict[int, Path]


def draw_snapshots(
    evaluation: Evaluation, paths: Mapping[int, Path], thresholds: Mapping[int, float]
) -> list[Snapshot]:
    """Draw up to 4 pictures, of those with objects, always the same ones of a data set.

    `paths` are by image id, `thresholds` of the score by category id (others: 0.5). The drawings are those of
    `side_by_side`, without the types of errors. Raises as `read_picture` does.
    """
    truth = _part(evaluation.truth, _chosen(evaluation.truth))
    listed = {image["id"] for image in truth["images"]}
    detections = [entry for entry in evaluation.detections if entry["image_id"] in listed]
    by_masks = "segm" in evaluation.metrics
    matches = match_images(truth, detections, by_masks=by_masks, max_detections=evaluation.max_detections)
    lowest = np.array([thresholds.get(entry["id"], DEFAULT_SCORE) for entry in sorted_categories(truth)])
    snapshots = []
    for whole in matches:
        path, image = paths[whole.image_id], whole.above(lowest)
        objects = draw_truth(path, image, truth, by_masks=by_masks, long_side=_LONG_SIDE)
        untyped = Errors([None] * len(image.scores), np.zeros(len(image.crowd), bool))  # less text
        _, drawn = side_by_side(
            path, image, untyped, truth, detections, by_masks=by_masks, long_side=_LONG_SIDE
        )
        snapshots.append(Snapshot(path.name, objects, drawn))
    return snapshots


def _chosen(truth: Entry) -> set[int]:
    """Return the ids of images at equal distances, of those with objects if there are any."""
    with_objects = {entry["image_id"] for entry in truth["annotations"]}
    ids = [image["id"] for image in truth["images"]]
    ids = [id_ for id_ in ids if id_ in with_objects] or ids
    return {ids[number * len(ids) // _PICTURES] for number in range(_PICTURES)} if ids else set()


def _part(truth: Entry, ids: set[int]) -> Entry:
    """Return the ground truth of some images."""
    return {
        "images": [image for image in truth["images"] if image["id"] in ids],
        "annotations": [entry for entry in truth["annotations"] if entry["image_id"] in ids],
        "categories": truth["categories"],
    }


def keep_snapshots(folder: Path, snapshots: Sequence[Snapshot], step: int) -> None:
    """Write the drawings after `step` steps as JPEG files, and delete those of evaluations too many."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / _NAMES, [snapshot.name for snapshot in snapshots])
    for number, snapshot in enumerate(snapshots):
        _write(folder / f"{number}-truth.jpg", snapshot.truth)
        _write(folder / f"{number}-{step}.jpg", snapshot.detections)
    steps = {step for _, step in _files(folder)}
    _delete(folder, steps.difference(spread(sorted(steps), _EVALUATIONS)))


def forget_after(folder: Path, step: int) -> None:
    """Delete the drawings of later steps, which a run that was killed after its last save has left."""
    _delete(folder, (later for _, later in _files(folder) if later > step))


def read_snapshots(folder: Path) -> list[Kept]:
    """Return the pictures that `keep_snapshots` wrote; none where there are none."""
    names = []
    with suppress(OSError, ValueError, RecursionError):
        names = json.loads((folder / _NAMES).read_text(encoding="utf-8"))
    files = sorted(_files(folder), key=lambda place: place[1])
    return [
        Kept(
            str(name),
            folder / f"{number}-truth.jpg",
            {step: folder / f"{number}-{step}.jpg" for slot, step in files if slot == number},
        )
        for number, name in enumerate(names if isinstance(names, list) else [])
        if (folder / f"{number}-truth.jpg").is_file()
    ]


def spread(steps: Sequence[int], most: int) -> list[int]:
    """Return at most `most` of some steps: the first, the last, and others at about equal distances.

    Steps are left out one by one, always the one between the closest neighbours, so that those kept earlier
    and a further step are spread out again.
    """
    kept = list(steps)
    while len(kept) > most:
        gaps = [after - before for before, after in zip(kept, kept[2:], strict=False)]
        del kept[1 + gaps.index(min(gaps))]
    return kept


def _files(folder: Path) -> list[tuple[int, int]]:
    """Return number and step of each drawing of detections."""
    names = [re.fullmatch(r"(\d+)-(\d+)\.jpg", path.name, re.ASCII) for path in folder.glob("*.jpg")]
    return [(int(name[1]), int(name[2])) for name in names if name]


def _delete(folder: Path, steps: Iterable[int]) -> None:
    for step in steps:
        for path in folder.glob(f"*-{step}.jpg"):
            path.unlink(missing_ok=True)


def _write(path: Path, image: Image.Image) -> None:
    with replacing(path) as unfinished:
        image.save(unfinished, format="JPEG", quality=80)
