"""COCO's average precision (AP) of boxes, masks, boundaries and keypoints, over all classes and for each.

Values equal those of pycocotools, in percent, as papers print them; None stands for pycocotools' -1, where
there is no object. Everything is in pixels of the image file and in the data set's own category ids.

"boundary" is boundary AP (Cheng et al., "Boundary IoU", CVPR 2021). The overlap of two masks is the minimum
of their IoU and their boundary IoU, which compares only the pixels that are closer to the outlines than 2 %
of the image's diagonal. These are few pixels of a large mask, so mask AP hardly depends on its outline.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from maskrcnn.evaluation.coco_format import (
    Entry,
    area,
    box_polygon,
    check_entries,
    image_sizes,
    sorted_categories,
    valid_segmentation,
    with_small_ids,
)
from maskrcnn.messages import first_few, nearest

Metrics = dict[str, dict[str, Any]]

# What can be evaluated, and the field of an entry that holds it
FIELDS = {"bbox": "bbox", "segm": "segmentation", "boundary": "segmentation", "keypoints": "keypoints"}
_AREA_RANGES = [[0, 1e10], [0, 32**2], [32**2, 96**2], [96**2, 1e10]]  # all, small, medium, large, in px²
_MAX_KEYPOINT_DETECTIONS = 20  # COCO's limit per image for people
_DEFAULT_SIGMA = 0.067  # the mean of COCO's 17 keypoint sigmas, for other keypoints


def coco_metrics(
    truth: Entry,
    detections: Sequence[Entry],
    kinds: Iterable[str] = ("bbox", "segm"),
    max_detections: int = 100,
) -> Metrics:
    """Compute COCO's metrics of detections. The arguments are not modified.

    Returns ``{kind: {"AP", "AP50", "AP75", "APs", "APm", "APl", "per_class": {name: {"AP", …}}}}``. `kinds`
    are of "bbox", "segm", "boundary" and "keypoints". At most `max_detections` detections of each class and
    image count, those with the highest scores; of keypoints at most 20. For "segm" and "boundary" the area of
    a detection is the area of its mask, and an object without a mask counts neither as found nor as missed.

    Raises ValueError for `max_detections` below 1, for an unknown kind or one that a detection lacks, for
    entries in images that the ground truth does not list, and for scores that are not finite.
    """
    return {
        kind: summaries(truth, precision_of(run_coco_eval(kind, truth, detections, max_detections)))
        for kind in kinds
    }


def run_coco_eval(
    kind: str, truth: Entry, detections: Sequence[Entry], max_detections: int, **options: Any
) -> Any:
    """Run faster-coco-eval and return its `COCOeval_faster`; `options` are further arguments of that class.

    Raises ValueError as `coco_metrics` does.
    """
    from faster_coco_eval import COCO, COCOeval_faster

    check_max_detections(max_detections)
    _check_kind(kind, detections)
    check_entries(truth, detections)
    truth, detections = with_small_ids(truth, detections)
    coco_truth = COCO(_completed(truth, kind))
    # Only the evaluated field: if a box is there too, COCO's tools compute the size of an object from the box
    fields = ("image_id", "category_id", "score", FIELDS[kind])
    coco_detections = coco_truth.loadRes([{field: entry[field] for field in fields} for entry in detections])
    sigmas = _sigmas(truth) if kind == "keypoints" else None
    coco_eval = COCOeval_faster(coco_truth, coco_detections, kind, kpt_oks_sigmas=sigmas, **options)
    parameters = coco_eval.params
    parameters.catIds = sorted(coco_truth.getCatIds())
    parameters.areaRng, parameters.areaRngLbl = _AREA_RANGES, ["all", "small", "medium", "large"]
    is_keypoints = kind == "keypoints"
    parameters.maxDets = [min(max_detections, _MAX_KEYPOINT_DETECTIONS) if is_keypoints else max_detections]
    coco_eval.evaluate()
    coco_eval.accumulate()
    return coco_eval


def check_max_detections(max_detections: int) -> None:
    """Raise ValueError for a number below 1."""
    if max_detections < 1:
        raise ValueError(f"max_detections must be at least 1, not {max_detections}")


def _check_kind(kind: str, detections: Sequence[Entry]) -> None:
    if kind not in FIELDS:
        raise ValueError(f"'{kind}' cannot be evaluated: {nearest(kind, FIELDS)}")
    field = FIELDS[kind]
    without = [entry["image_id"] for entry in detections if field not in entry]
    if without:
        raise ValueError(
            f"'{kind}' cannot be evaluated: {len(without)} of {len(detections)} detections have no "
            f"'{field}', in images {first_few(list(dict.fromkeys(without)))}"
        )


def precision_of(coco_eval: Any) -> np.ndarray:
    """Return the precision at 10 IoUs × 101 recalls × classes in the order of their ids × 4 area ranges."""
    return np.asarray(coco_eval.eval["precision"])[..., 0]


def summaries(truth: Entry, precision: np.ndarray) -> dict[str, Any]:
    """Return the summary over all classes, and under "per_class" the summary of each class by its name."""
    names = [category["name"] for category in sorted_categories(truth)]
    per_class = {name: summary(precision[:, :, [k]]) for k, name in enumerate(names)}
    return {**summary(precision), "per_class": per_class}


def summary(precision: np.ndarray) -> dict[str, float | None]:
    """Return AP, AP50, AP75, APs, APm and APl over the given classes, without classes that have no object."""
    parts = {"AP": precision[..., 0], "AP50": precision[0, ..., 0], "AP75": precision[5, ..., 0]}
    parts |= {"APs": precision[..., 1], "APm": precision[..., 2], "APl": precision[..., 3]}
    return {name: _percent(part[part > -1]) for name, part in parts.items()}


def _percent(values: np.ndarray) -> float | None:
    return 100 * float(values.mean()) if values.size else None


def _completed(truth: Entry, kind: str) -> Entry:
    """Return a copy of the ground truth with every field that COCO's tools need and many files lack.

    Annotations are numbered from 1: the evaluator reads id 0 as "not matched" and equal ids as one object.
    """
    sizes = image_sizes(truth)
    unlabelled = [0] * (3 * _keypoint_count(truth))
    annotations = []
    for number, entry in enumerate(truth["annotations"], start=1):
        mask = valid_segmentation(entry)
        annotation = {"iscrowd": 0, **entry, "id": number, "segmentation": mask}
        if annotation.get("area") is None:
            annotation["area"] = area(annotation, sizes[entry["image_id"]])
        if kind in ("segm", "boundary") and not mask:
            annotation.update(iscrowd=1, segmentation=[box_polygon(entry["bbox"])])
        if kind == "keypoints":
            flat = entry.get("keypoints") or unlabelled
            annotation.update(keypoints=flat, num_keypoints=int(np.count_nonzero(flat[2::3])))
        annotations.append(annotation)
    images = [dict(image) for image in truth["images"]]
    return {"images": images, "annotations": annotations, "categories": truth["categories"]}


def _keypoint_count(truth: Entry) -> int:
    """Return the number of keypoints of an object, which an annotation or a category may tell."""
    in_annotations = [len(entry.get("keypoints") or ()) // 3 for entry in truth["annotations"]]
    in_categories = [len(entry.get("keypoints") or ()) for entry in truth["categories"]]
    return max([*in_annotations, *in_categories], default=0)


def _sigmas(truth: Entry) -> list[float] | None:
    count = _keypoint_count(truth)
    return None if count == 17 else [_DEFAULT_SIGMA] * count  # None: COCO's own
