"""Ground truth and detections in COCO's JSON form: what the evaluations have in common.

The ground truth is the content of an annotation file (`images`, `annotations`, `categories`), detections are
entries of COCO's list of results. All coordinates are pixels of the image file; a `bbox` is x, y, width and
height. A `segmentation` is a list of polygons, or run lengths (RLE), which may be compressed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from maskrcnn.messages import first_few

_EXACT = 2**53  # up to which whole numbers are exact in floating point

Entry = dict[str, Any]  # an annotation or a detection, or a whole ground truth


def sorted_categories(truth: Entry) -> list[Entry]:
    """Return the categories in the order of their ids, which is the order of class labels."""
    return sorted(truth["categories"], key=lambda category: category["id"])


def image_sizes(truth: Entry) -> dict[int, tuple[int, int]]:
    """Return (height, width) of each image by its id."""
    return {image["id"]: (image["height"], image["width"]) for image in truth["images"]}


def check_entries(truth: Entry, detections: Sequence[Entry]) -> None:
    """Check that every entry belongs to an image of the ground truth and that every score is a number.

    Raises ValueError that counts the wrong entries and names the first few.
    """
    listed = {image["id"] for image in truth["images"]}
    for what, entries in {"annotations": truth["annotations"], "detections": detections}.items():
        unknown = [entry["image_id"] for entry in entries if entry["image_id"] not in listed]
        if unknown:
            images = first_few(list(dict.fromkeys(unknown)))
            raise ValueError(
                f"{len(unknown)} of {len(entries)} {what} have an image_id that the ground truth does not "
                f"list: {images}"
            )
    wrong = [entry for entry in detections if not math.isfinite(entry["score"])]
    if wrong:
        scores = first_few([f"{entry['score']} in image {entry['image_id']}" for entry in wrong])
        raise ValueError(
            f"{len(wrong)} of {len(detections)} detections have a score that is not a finite number: {scores}"
        )


def with_small_ids(truth: Entry, detections: Sequence[Entry]) -> tuple[Entry, Sequence[Entry]]:
    """Number images and categories from 1, in the order of their ids, if an id is 2^53 or more.

    faster-coco-eval (1.8.0) converts ids to floating-point numbers, in which larger ones are no longer exact.
    """
    lists = {"image_id": truth["images"], "category_id": truth["categories"]}
    if all(abs(entry["id"]) < _EXACT for entries in lists.values() for entry in entries):
        return truth, detections
    numbers = {
        key: {id_: number for number, id_ in enumerate(sorted(entry["id"] for entry in entries), start=1)}
        for key, entries in lists.items()
    }

    def renumbered(entry: Entry) -> Entry:
        return entry | {key: numbers[key].get(entry[key], 0) for key in numbers}

    images, categories = (
        [entry | {"id": numbers[key][entry["id"]]} for entry in entries] for key, entries in lists.items()
    )
    annotations = [renumbered(entry) for entry in truth["annotations"]]
    small = {"images": images, "annotations": annotations, "categories": categories}
    return truth | small, [renumbered(entry) for entry in detections]


def valid_segmentation(entry: Entry) -> Any:
    """Return the entry's segmentation without polygons of fewer than 3 points; empty if it has no mask.

    Such polygons contain no pixel, but COCO's tools read 2 points as a box.
    """
    segmentation = entry.get("segmentation") or []
    if isinstance(segmentation, dict):
        return segmentation
    return [polygon for polygon in segmentation if len(polygon) >= 6]


def box_polygon(bbox: Sequence[float | int]) -> list[float | int]:
    """Return the corners of a box as a polygon, clockwise from the top left."""
    x, y, width, height = bbox
    return [x, y, x + width, y, x + width, y + height, x, y + height]


def to_rle(entry: Entry, size_hw: tuple[int, int]) -> Entry:
    """Return the entry's mask as compressed run lengths; the mask of its box if it has none."""
    from faster_coco_eval import mask

    segmentation = valid_segmentation(entry) or [box_polygon(entry["bbox"])]
    if isinstance(segmentation, list):
        return mask.merge(mask.frPyObjects(segmentation, *size_hw))
    if isinstance(segmentation["counts"], str | bytes):
        return segmentation
    return mask.frPyObjects(segmentation, *size_hw)


def area(entry: Entry, size_hw: tuple[int, int]) -> float:
    """Return the area of the entry's mask in px²; the area of its box if it has no mask."""
    from faster_coco_eval import mask

    if valid_segmentation(entry):
        return float(mask.area(to_rle(entry, size_hw)))
    return float(entry["bbox"][2] * entry["bbox"][3])
