"""LVIS' average precision of boxes and masks, for many classes of which some are rare.

LVIS (Gupta et al., CVPR 2019, section 3) is federated: annotators searched each image only for some classes.
A class is evaluated in the images where it is annotated and in those whose `neg_category_ids` name it, which
contain none of it; in all other images its detections count neither as right nor as wrong. Where
`not_exhaustive_category_ids` name a class, not all of its objects are annotated, and a detection without an
object does not count as wrong.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from maskrcnn.evaluation.coco import Metrics, precision_of, run_coco_eval, summaries, summary
from maskrcnn.evaluation.coco_format import Entry, sorted_categories
from maskrcnn.messages import first_few

_MAX_DETECTIONS = 300  # per image, over all classes
_FREQUENCIES = {"APr": "r", "APc": "c", "APf": "f"}  # in up to 10, up to 100 and more training images
_IMAGE_FIELDS = ("neg_category_ids", "not_exhaustive_category_ids")


def lvis_metrics(
    truth: Entry, detections: Sequence[Entry], kinds: Iterable[str] = ("bbox", "segm")
) -> Metrics:
    """Compute LVIS' metrics of detections. The arguments are not modified.

    Returns ``{kind: {"AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf", "per_class"}}`` in
    percent, None where there is no object. The 300 detections of an image with the highest scores count.

    Raises ValueError where the ground truth lacks fields of LVIS' format, and as `coco_metrics` does.
    """
    check_lvis(truth)
    counted = _in_searched_images(truth, _highest_scores(detections))
    return {kind: _metrics(kind, truth, counted) for kind in kinds}


def check_lvis(truth: Entry) -> None:
    """Check that images and classes have LVIS' fields.

    Raises ValueError that counts what is missing and names the first few places.
    """
    missing = [
        f"'{field}' of image {image['id']}"
        for image in truth["images"]
        for field in _IMAGE_FIELDS
        if field not in image
    ]
    missing += [
        f"a 'frequency' of r, c or f for class {category['id']} '{category['name']}', which has "
        f"{category.get('frequency')!r}"
        for category in truth["categories"]
        if category.get("frequency") not in _FREQUENCIES.values()
    ]
    if missing:
        raise ValueError(
            f"LVIS' AP cannot be computed, because {len(missing)} fields are missing: {first_few(missing, 3)}"
            "; take the annotations from LVIS' own file (lvis_v1_val.json), not from COCO's"
        )


def _highest_scores(detections: Sequence[Entry]) -> list[Entry]:
    by_image = defaultdict(list)
    for detection in detections:
        by_image[detection["image_id"]].append(detection)
    ranked = (sorted(group, key=lambda entry: entry["score"], reverse=True) for group in by_image.values())
    return [detection for group in ranked for detection in group[:_MAX_DETECTIONS]]


def _in_searched_images(truth: Entry, detections: Sequence[Entry]) -> list[Entry]:
    """Drop the detections of classes that were not searched for in their images.

    faster-coco-eval (1.8.0) does so too, but fails before that in images that have no others. Detections in
    images that the ground truth does not list are kept, so that `run_coco_eval` reports them.
    """
    searched = {image["id"]: set(image["neg_category_ids"]) for image in truth["images"]}
    for annotation in truth["annotations"]:
        searched.setdefault(annotation["image_id"], set()).add(annotation["category_id"])
    return [
        entry
        for entry in detections
        if entry["image_id"] not in searched or entry["category_id"] in searched[entry["image_id"]]
    ]


def _metrics(kind: str, truth: Entry, detections: Sequence[Entry]) -> dict[str, Any]:
    precision = precision_of(run_coco_eval(kind, truth, detections, _MAX_DETECTIONS, lvis_style=True))
    frequencies = [category["frequency"] for category in sorted_categories(truth)]
    by_frequency = {
        name: summary(precision[:, :, [k for k, frequency in enumerate(frequencies) if frequency == letter]])
        for name, letter in _FREQUENCIES.items()
    }
    return {**summaries(truth, precision), **{name: part["AP"] for name, part in by_frequency.items()}}
