"""The instance AP of the Cityscapes benchmark, equal to that of its official script.

It differs from COCO's AP. A detection is right if its IoU with an object is above a threshold, not equal to
it. Of several detections of one object, the one with the highest score is right and the others are wrong. A
wrong detection is ignored if a share of its pixels above the threshold lies on void, on a crowd region of its
class or on objects below 100 pixels. The number of detections is not limited, and precision is integrated
over recall by the trapezoidal rule.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from maskrcnn.evaluation.coco_format import Entry, check_entries
from maskrcnn.masks.rle import compress, rle_counts

# Computed as in the official script, to the last bit: IoUs of small objects are often equal to a threshold
_THRESHOLDS = np.arange(0.5, 1.0, 0.05)
_MIN_AREA = 100  # px; smaller objects are ignored


class _Overlaps(NamedTuple):
    """The detections of one class in one image, and their overlaps with the ground truth."""

    scores: Float[np.ndarray, " D"]
    ious: Float[np.ndarray, "D G"]  # with the objects that count: no crowd, not too small
    ignored: Float[np.ndarray, " D"]  # share of the detection's pixels on ignored regions


def is_cityscapes(truth: Entry) -> bool:
    """Return whether a ground truth comes from Cityscapes: its images have a mask of void pixels."""
    return any("void" in image for image in truth["images"])


def cityscapes_metrics(truth: Entry, detections: Sequence[Entry]) -> Entry:
    """Evaluate masks by a ground truth that `maskrcnn.data.readers.cityscapes.coco_form` has made.

    Returns ``{"AP", "AP50", "per_class": {name: {"AP", "AP50"}}}`` in percent; AP is the mean over the IoU
    thresholds .50:.05:.95. A class without objects has None and does not count in the mean. As in the
    official script, detections of categories that the ground truth does not list and empty masks are dropped.

    Raises ValueError for a detection in an image that the ground truth does not list, a score that is not
    finite, and a mask that is missing, damaged or not of its image's size.
    """
    check_entries(truth, detections)
    categories = {category["id"]: category["name"] for category in truth["categories"]}
    table = np.full((len(categories), len(_THRESHOLDS)), np.nan)
    for row, images in zip(table, _overlaps_by_class(truth, detections), strict=True):
        row[:] = [_average_precision(images, threshold) for threshold in _THRESHOLDS]
    per_class = {name: _summary(row[None]) for name, row in zip(categories.values(), table, strict=True)}
    return {**_summary(table), "per_class": per_class}


def _summary(table: Float[np.ndarray, "classes thresholds"]) -> dict[str, float | None]:
    return {"AP": _percent(table), "AP50": _percent(table[:, :1])}


def _percent(values: np.ndarray) -> float | None:
    values = values[~np.isnan(values)]
    return 100 * float(values.mean()) if values.size else None


def _overlaps_by_class(truth: Entry, detections: Sequence[Entry]) -> list[list[_Overlaps]]:
    """Return the overlaps in every image, for each category in the order of the ground truth."""
    sizes = {image["id"]: [image["height"], image["width"]] for image in truth["images"]}
    voids = {image["id"]: _compressed(image, sizes[image["id"]], "void") for image in truth["images"]}
    objects_of, detections_of = _grouped(truth["annotations"], sizes), _grouped(detections, sizes)
    return [
        [
            _overlaps(detections_of[image, category], objects_of[image, category], void)
            for image, void in voids.items()
        ]
        for category in (category["id"] for category in truth["categories"])
    ]


def _grouped(entries: Iterable[Entry], sizes: dict[int, list[int]]) -> dict[tuple[int, int], list[Entry]]:
    """Group entries by image and category; their masks become compressed run lengths."""
    groups: defaultdict[tuple[int, int], list[Entry]] = defaultdict(list)
    for entry in entries:
        mask = _compressed(entry, sizes[entry["image_id"]], "segmentation")
        groups[entry["image_id"], entry["category_id"]].append({**entry, "segmentation": mask})
    return groups


def _compressed(entry: Entry, size: list[int], field: str) -> Entry:
    where = f"image {entry['image_id'] if 'image_id' in entry else entry['id']}: {field!r}"
    mask = entry.get(field)
    if not isinstance(mask, dict):
        raise ValueError(f"{where} is not a mask in run lengths, which the Cityscapes evaluation needs")
    if list(mask["size"]) != size:
        raise ValueError(f"{where} has the size {list(mask['size'])}, but its image has {size}")
    try:
        return {"size": size, "counts": compress(rle_counts(mask))}
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _overlaps(detections: list[Entry], objects: list[Entry], void: Entry) -> _Overlaps:
    from faster_coco_eval import mask

    masks, regions = ([entry["segmentation"] for entry in entries] for entries in (detections, objects))
    areas, object_areas = (np.asarray(mask.area(rles), np.float64) for rles in (masks, regions))
    is_crowd = np.array([bool(entry["iscrowd"]) for entry in objects], np.bool_)
    is_small = object_areas < _MIN_AREA
    kept = areas > 0
    masks, areas = [rle for rle, keep in zip(masks, kept, strict=True) if keep], areas[kept]
    intersections = _intersections(masks, areas, [*regions, void])
    on_objects, on_void = intersections[:, :-1], intersections[:, -1]
    # A small crowd region counts twice, as in the official script
    ignored = on_void + on_objects @ (is_crowd.astype(np.float64) + is_small)
    return _Overlaps(
        scores=np.array([entry["score"] for entry in detections], np.float64)[kept],
        ious=(on_objects / (object_areas + areas[:, None] - on_objects))[:, ~is_crowd & ~is_small],
        ignored=ignored / areas,
    )


def _intersections(
    masks: list[Entry], areas: Float[np.ndarray, " D"], regions: list[Entry]
) -> Float[np.ndarray, "D G"]:
    """Return the number of pixels that each mask shares with each region."""
    from faster_coco_eval import mask

    if not masks:
        return np.zeros((0, len(regions)))
    # With a crowd region, COCO's IoU is the share of the mask's own pixels
    shares = np.asarray(mask.iou(masks, regions, [1] * len(regions)))
    return np.rint(shares.reshape(len(masks), len(regions)) * areas[:, None])


def _average_precision(images: Sequence[_Overlaps], threshold: float) -> float:
    """Return the average precision of a class; NaN if no image has an object of it."""
    objects = sum(image.ious.shape[1] for image in images)
    if not objects:
        return float("nan")
    scores = [_right_and_wrong(image, threshold) for image in images]
    right, wrong = (np.sort(np.concatenate(part)) for part in zip(*scores, strict=True))
    levels = np.unique(np.concatenate([right, wrong]))
    true_positives = len(right) - np.searchsorted(right, levels)  # with at least this score
    false_positives = len(wrong) - np.searchsorted(wrong, levels)
    precision = np.append(true_positives / (true_positives + false_positives), 1.0)
    recall = np.append(true_positives / objects, 0.0)
    return float(((precision[1:] + precision[:-1]) / 2 * (recall[:-1] - recall[1:])).sum())


def _right_and_wrong(
    image: _Overlaps, threshold: float
) -> tuple[Float[np.ndarray, " right"], Float[np.ndarray, " wrong"]]:
    """Return the scores of right and of wrong detections; ignored detections are in neither."""
    # No detection hits two objects: these share no pixel, and the lowest threshold is 0.5
    hits = image.ious > threshold
    best = np.where(hits, image.scores[:, None], -np.inf).argmax(0) if len(hits) else 0
    first = hits & (np.arange(len(hits))[:, None] == best)
    is_duplicate = (hits & ~first).any(1)
    is_false = ~hits.any(1) & (image.ignored <= threshold)
    return image.scores[first.any(1)], image.scores[is_duplicate | is_false]
