"""The detections and the objects of each image with their overlaps, and their matching by COCO's rules.

Detections are matched in descending order of score (see `matching`), so the match of a detection does not
depend on detections with lower scores, and one matching serves every score threshold. A crowd region counts
neither as found nor as missed, and a detection inside one of its own class is ignored.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from maskrcnn.evaluation import matching
from maskrcnn.evaluation.coco_format import (
    Entry,
    check_entries,
    sorted_categories,
    to_rle,
    valid_segmentation,
)

MIN_IOU = 0.5  # of a detection that counts as right


class ImageMatches(NamedTuple):
    """The detections of one image, in descending order of score, its objects, and their IoUs.

    Labels number the classes in the order of their category ids. The IoU with a crowd region is the share of
    the detection inside it. `detection_indices` and `object_indices` are positions in the list of detections
    and in the ground truth's annotations.
    """

    image_id: int
    scores: Float[np.ndarray, " D"]
    labels: Int[np.ndarray, " D"]
    gt_labels: Int[np.ndarray, " G"]
    crowd: Bool[np.ndarray, " G"]
    ious: Float[np.ndarray, "D G"]
    detection_indices: Int[np.ndarray, " D"]
    object_indices: Int[np.ndarray, " G"]

    def above(self, threshold: float | Float[np.ndarray, " K"]) -> ImageMatches:
        """Keep the detections whose score is at least `threshold`: one for all classes, or one for each."""
        kept = self.scores >= (threshold if isinstance(threshold, float) else threshold[self.labels])
        return self._replace(
            scores=self.scores[kept],
            labels=self.labels[kept],
            ious=self.ious[kept],
            detection_indices=self.detection_indices[kept],
        )

    def match(self, min_iou: float = MIN_IOU) -> Int[np.ndarray, " D"]:
        """Return for each detection the index of its object, `UNMATCHED` or `IGNORED` (see `matching`)."""
        ious = np.where(self.labels[:, None] == self.gt_labels, self.ious, 0)
        return matching.match(ious, self.crowd, self.crowd, np.array([min_iou]))[0]


def match_images(
    truth: Entry, detections: Sequence[Entry], *, by_masks: bool, max_detections: int = 100
) -> list[ImageMatches]:
    """Compute the overlaps of detections and objects in every image, as boxes or as masks.

    As in COCO's evaluation, only the `max_detections` detections of each class and image with the highest
    scores are kept, detections of classes that the ground truth does not list are dropped, and by masks an
    object without a mask is a crowd region. Raises ValueError as `check_entries` does.
    """
    check_entries(truth, detections)
    labels = {category["id"]: label for label, category in enumerate(sorted_categories(truth))}
    known = [i for i, detection in enumerate(detections) if detection["category_id"] in labels]
    known.sort(key=lambda i: -detections[i]["score"])
    detections_of = _group_by_image(detections, known)
    objects_of = _group_by_image(truth["annotations"], range(len(truth["annotations"])))
    images = []
    for image in truth["images"]:
        rows = _limit_per_class(detections, detections_of.get(image["id"], []), max_detections)
        columns = objects_of.get(image["id"], [])
        kept, objects = [detections[i] for i in rows], [truth["annotations"][i] for i in columns]
        crowd = [bool(o.get("iscrowd")) or (by_masks and not valid_segmentation(o)) for o in objects]
        images.append(
            ImageMatches(
                image_id=image["id"],
                scores=np.array([entry["score"] for entry in kept], float),
                labels=np.array([labels[entry["category_id"]] for entry in kept], int),
                gt_labels=np.array([labels[entry["category_id"]] for entry in objects], int),
                crowd=np.array(crowd, bool),
                ious=_ious(kept, objects, crowd, (image["height"], image["width"]), by_masks),
                detection_indices=np.array(rows, int),
                object_indices=np.array(columns, int),
            )
        )
    return images


def _group_by_image(entries: Sequence[Entry], indices: Sequence[int]) -> dict[int, list[int]]:
    groups: dict[int, list[int]] = {}
    for i in indices:
        groups.setdefault(entries[i]["image_id"], []).append(i)
    return groups


def _limit_per_class(detections: Sequence[Entry], indices: Sequence[int], limit: int) -> list[int]:
    """Keep the first `limit` detections of each class."""
    counts: Counter[int] = Counter()
    kept = []
    for i in indices:
        counts[detections[i]["category_id"]] += 1
        if counts[detections[i]["category_id"]] <= limit:
            kept.append(i)
    return kept


def _ious(
    detections: Sequence[Entry],
    objects: Sequence[Entry],
    crowd: Sequence[bool],
    size_hw: tuple[int, int],
    by_masks: bool,
) -> Float[np.ndarray, "D G"]:
    from faster_coco_eval import mask

    if not detections or not objects:
        return np.zeros((len(detections), len(objects)))

    def shapes(entries: Sequence[Entry]) -> Any:
        if by_masks:
            return [to_rle(entry, size_hw) for entry in entries]
        return np.array([entry["bbox"] for entry in entries], float)

    ious = mask.iou(shapes(detections), shapes(objects), [int(is_crowd) for is_crowd in crowd])
    return np.asarray(ious, float).reshape(len(detections), len(objects))


def object_counts(images: Sequence[ImageMatches], num_classes: int) -> Int[np.ndarray, " K"]:
    """Count the objects of each class, without crowd regions."""
    counts = np.zeros(num_classes, int)
    for image in images:
        counts += np.bincount(image.gt_labels[~image.crowd], minlength=num_classes)
    return counts
