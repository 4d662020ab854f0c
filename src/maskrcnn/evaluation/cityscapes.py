"""The average precision of instances that Cityscapes' benchmark computes: its official script's numbers.

It differs from COCO's. A detection is right where its overlap with an object is above a threshold, not at it;
of several for one object the surest is right and the others are wrong; a wrong one is forgiven where more of
it than the threshold lies on void, on a crowd of its class or on objects below 100 pixels; no number of
detections is too many; and precision is integrated over recall by the trapezoid rule.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from maskrcnn.masks.rle import compress, rle_counts

Entry = dict[str, Any]

# Computed as the official script does, to the last bit: overlaps of small objects lie exactly on a threshold.
_THRESHOLDS = np.arange(0.5, 1.0, 0.05)
_LEAST_AREA = 100  # px; smaller objects are not asked for


class _Compared(NamedTuple):
    """The detections of one class in one picture beside what the truth has there."""

    scores: Float[np.ndarray, " P"]
    ious: Float[np.ndarray, "P G"]  # with the objects to be found: no crowd, and not too small
    ignored: Float[np.ndarray, " P"]  # which share of each detection lies where nothing is judged


def is_cityscapes(truth: dict[str, Any]) -> bool:
    """Say whether a truth in COCO's form comes from Cityscapes: its pictures say which pixels are ignored."""
    return any("void" in image for image in truth["images"])


def cityscapes_metrics(truth: dict[str, Any], detections: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Judge masks in COCO's result format by a truth that `maskrcnn.data.readers.cityscapes.coco_form` made.

    Returns ``{"AP", "AP50", "per_class": {name: {"AP", "AP50"}}}`` in percent: AP is the mean over the IoU
    thresholds .50:.05:.95. None stands for a class that has no object to be found, which counts in no mean.
    Detections of categories that the truth does not list, and empty masks, are left out, as the benchmark
    does.

    Raises ValueError for a detection in a picture that the truth does not list, a score that is no finite
    number, and a mask that is missing, damaged or of another size than its picture.
    """
    categories = {category["id"]: category["name"] for category in truth["categories"]}
    table = np.full((len(categories), len(_THRESHOLDS)), np.nan)
    for row, compared in zip(table, _by_class(truth, detections), strict=True):
        row[:] = [_average_precision(compared, threshold) for threshold in _THRESHOLDS]
    per_class = {name: _summary(row[None]) for name, row in zip(categories.values(), table, strict=True)}
    return {**_summary(table), "per_class": per_class}


def _summary(table: Float[np.ndarray, "classes thresholds"]) -> dict[str, float | None]:
    return {"AP": _percent(table), "AP50": _percent(table[:, :1])}


def _percent(values: np.ndarray) -> float | None:
    known = values[~np.isnan(values)]
    return 100 * float(known.mean()) if known.size else None


def _by_class(truth: dict[str, Any], detections: Sequence[Entry]) -> list[list[_Compared]]:
    """Return, for each category of the truth in its order, the comparison in every picture."""
    sizes = {image["id"]: [image["height"], image["width"]] for image in truth["images"]}
    voids = {image["id"]: _checked(image, sizes[image["id"]], "void") for image in truth["images"]}
    objects, found = _grouped(truth["annotations"], sizes), _grouped(detections, sizes)
    return [
        [_compare(found[image, category], objects[image, category], void) for image, void in voids.items()]
        for category in (category["id"] for category in truth["categories"])
    ]


def _grouped(entries: Iterable[Entry], sizes: dict[int, list[int]]) -> dict[tuple[int, int], list[Entry]]:
    """Return entries by picture and category, their masks checked and brought into one form."""
    groups: defaultdict[tuple[int, int], list[Entry]] = defaultdict(list)
    for entry in entries:
        image = entry["image_id"]
        if image not in sizes:
            raise ValueError(f"an object or a detection is in image {image!r}, which the truth does not list")
        if not np.isfinite(entry.get("score", 0.0)):
            raise ValueError(f"a detection in image {image} has the score {entry['score']}, no finite number")
        mask = _checked(entry, sizes[image], "segmentation")
        groups[image, entry["category_id"]].append({**entry, "segmentation": mask})
    return groups


def _checked(entry: Entry, size: list[int], field: str) -> Entry:
    place = f"image {entry['image_id'] if 'image_id' in entry else entry['id']}"
    mask = entry.get(field)
    if not isinstance(mask, dict):
        raise ValueError(f"{place}: {field!r} is missing or not in run lengths; Cityscapes' masks have both")
    if list(mask["size"]) != size:
        raise ValueError(f"{place}: {field!r} is of size {list(mask['size'])}, but the picture of {size}")
    try:
        return {"size": size, "counts": compress(rle_counts(mask))}
    except ValueError as error:
        raise ValueError(f"{place}: {field!r}: {error}") from None


def _compare(found: list[Entry], objects: list[Entry], void: Entry) -> _Compared:
    from faster_coco_eval import mask

    masks, regions = ([entry["segmentation"] for entry in entries] for entries in (found, objects))
    areas, sizes = (np.asarray(mask.area(rles), np.float64) for rles in (masks, regions))
    crowd = np.array([bool(entry["iscrowd"]) for entry in objects], np.bool_)
    small = sizes < _LEAST_AREA
    taken = areas > 0
    masks, areas = [one for one, keep in zip(masks, taken, strict=True) if keep], areas[taken]
    shared = _intersections(masks, areas, [*regions, void])
    on_objects, on_void = shared[:, :-1], shared[:, -1]
    asked = ~crowd & ~small
    # A crowd that is small counts twice, as in the official script.
    ignored = on_void + on_objects @ (crowd.astype(np.float64) + small)
    return _Compared(
        scores=np.array([entry["score"] for entry in found], np.float64)[taken],
        ious=(on_objects / (sizes + areas[:, None] - on_objects))[:, asked],
        ignored=ignored / areas,
    )


def _intersections(
    masks: list[Entry], areas: Float[np.ndarray, " P"], regions: list[Entry]
) -> Float[np.ndarray, "P G"]:
    """Return how many pixels each mask shares with each region, in whole numbers."""
    from faster_coco_eval import mask

    if not masks:
        return np.zeros((0, len(regions)))
    # Against a crowd, COCO's overlap is the share of the mask's own pixels.
    shares = np.asarray(mask.iou(masks, regions, [1] * len(regions)))
    return np.rint(shares.reshape(len(masks), len(regions)) * areas[:, None])


def _average_precision(pictures: Sequence[_Compared], threshold: float) -> float:
    """Return the average precision of a class; NaN where no object was to be found."""
    asked = sum(one.ious.shape[1] for one in pictures)
    if not asked:
        return float("nan")
    judged = [_judge(one, threshold) for one in pictures]
    right, wrong = (np.sort(np.concatenate(scores)) for scores in zip(*judged, strict=True))
    levels = np.unique(np.concatenate([right, wrong]))
    true = len(right) - np.searchsorted(right, levels)  # those of at least this score
    false = len(wrong) - np.searchsorted(wrong, levels)
    precision = np.append(true / (true + false), 1.0)
    recall = np.append(true / asked, 0.0)
    return float(((precision[1:] + precision[:-1]) / 2 * (recall[:-1] - recall[1:])).sum())


def _judge(
    one: _Compared, threshold: float
) -> tuple[Float[np.ndarray, " right"], Float[np.ndarray, " wrong"]]:
    """Return the scores of right and of wrong detections; those that are forgiven are in neither."""
    hits = one.ious > threshold  # no detection hits two objects: they share no pixel, and the least is 0.5
    surest = np.where(hits, one.scores[:, None], -np.inf).argmax(0) if len(hits) else 0
    first = hits & (np.arange(len(hits))[:, None] == surest)
    doubled = (hits & ~first).any(1)
    stray = ~hits.any(1) & (one.ignored <= threshold)
    return one.scores[first.any(1)], one.scores[doubled | stray]
