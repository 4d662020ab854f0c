"""LVIS' average precision of boxes and masks, over a long tail of classes.

LVIS (Gupta et al., CVPR 2019, section 3) is federated: in each picture only some classes were looked for. A
class counts in the pictures where it is annotated and in those whose `neg_category_ids` name it, for there is
none of it in them; in all others its detections are neither right nor wrong. Where
`not_exhaustive_category_ids` name a class, not all of its objects are annotated, and a detection that matches
none is not wrong.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from maskrcnn.evaluation.coco import Metrics, judge, precision_of, summaries, summary

_MAX_DETECTIONS = 300  # in a picture, of all classes together
_GROUPS = {"APr": "r", "APc": "c", "APf": "f"}  # in up to 10, up to 100 and more pictures of the training set


def lvis_metrics(
    truth: dict[str, Any], detections: Sequence[dict[str, Any]], kinds: Iterable[str] = ("bbox", "segm")
) -> Metrics:
    """Judge detections in COCO's result format by a truth in LVIS' annotation format; both stay as they are.

    Returns ``{kind: {"AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf", "per_class"}}``, in
    percent; None stands where there is nothing to find. The 300 surest detections of a picture count.

    Raises ValueError for a truth that does not say what LVIS' files say of pictures and classes, and for
    detections and kinds as `coco_metrics` does.
    """
    check_lvis(truth)
    counted = _searched_for(truth, _surest(detections))
    return {kind: _judged(kind, truth, counted) for kind in kinds}


def check_lvis(truth: dict[str, Any]) -> None:
    """Raise ValueError where a truth does not say what LVIS' files say of pictures and classes."""
    for image in truth["images"]:
        for field in ("neg_category_ids", "not_exhaustive_category_ids"):
            if field not in image:
                raise ValueError(
                    f"picture {image['id']} has no '{field}', without which LVIS' AP cannot be computed: "
                    "take the annotations from LVIS' own file (lvis_v1_val.json), not from COCO's"
                )
    for category in truth["categories"]:
        if category.get("frequency") not in _GROUPS.values():
            raise ValueError(
                f"class {category['id']} '{category['name']}' needs a 'frequency' of r, c or f, not "
                f"{category.get('frequency')!r}: take it from LVIS' own file (lvis_v1_val.json)"
            )


def _surest(detections: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    by_picture = defaultdict(list)
    for detection in detections:
        by_picture[detection["image_id"]].append(detection)
    ranked = (sorted(found, key=lambda one: one["score"], reverse=True) for found in by_picture.values())
    return [detection for found in ranked for detection in found[:_MAX_DETECTIONS]]


def _searched_for(truth: dict[str, Any], detections: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Leave out the detections of classes that nobody looked for in their pictures.

    faster-coco-eval (1.8.0) does so too, but not before it fails at pictures that have no others. Detections
    in pictures that the truth does not list stay, for `judge` to refuse them.
    """
    searched = {image["id"]: set(image["neg_category_ids"]) for image in truth["images"]}
    for annotation in truth["annotations"]:
        searched.setdefault(annotation["image_id"], set()).add(annotation["category_id"])
    return [
        one for one in detections if one["category_id"] in searched.get(one["image_id"], {one["category_id"]})
    ]


def _judged(kind: str, truth: dict[str, Any], detections: Sequence[dict[str, Any]]) -> dict[str, Any]:
    precision = precision_of(judge(kind, truth, detections, _MAX_DETECTIONS, lvis_style=True))
    categories = sorted(truth["categories"], key=lambda category: category["id"])
    members = {
        name: [k for k, category in enumerate(categories) if category["frequency"] == letter]
        for name, letter in _GROUPS.items()
    }
    groups = {name: summary(precision[:, :, of])["AP"] for name, of in members.items()}
    return {**summaries(truth, precision), **groups}
