"""Which errors the detections of an image contain: their types, and which classes are confused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from maskrcnn.evaluation import matching
from maskrcnn.evaluation.coco_format import Entry
from maskrcnn.evaluation.image_matches import MIN_IOU, ImageMatches
from maskrcnn.evaluation.matching import IGNORED, UNMATCHED

BACKGROUND_IOU = 0.1  # a detection with less overlap belongs to no object (TIDE's background threshold)

ERROR_TYPES = {
    "localisation": "the class is right, but the IoU with the object is only 0.1 to 0.5",
    "class": "the IoU with an object is at least 0.5, but the object has another class",
    "both": "class and position are wrong: the IoU with an object of another class is 0.1 to 0.5",
    "duplicate": "another detection of the same object has a higher score",
    "background": "no object is there: every IoU is below 0.1",
    "missed": "an object that no detection found, not even with a wrong class or position",
}


class Errors(NamedTuple):
    """The error type of each detection of an image, None where it is right, and which objects are missed."""

    types: list[str | None]
    missed: Bool[np.ndarray, " G"]

    def counts(self) -> Counter[str]:
        """Return the number of errors of each type that occurs."""
        counts = Counter(error for error in self.types if error)
        counts["missed"] = int(self.missed.sum())
        return +counts


def classify_errors(image: ImageMatches) -> Errors:
    """Return the type of each wrong detection, and the missed objects: see `ERROR_TYPES`.

    The types are TIDE's (Bolya et al., ECCV 2020, section 2.2), but counted, not weighted by the AP that each
    costs. Where several apply, the first of duplicate, class, localisation, both and background counts. An
    object is not missed if a detection with an error of class or localisation belongs to it.
    """
    matches = image.match()
    wrong = matches == UNMATCHED
    same_class = image.labels[:, None] == image.gt_labels
    ious = np.where(image.crowd, 0, image.ious)
    own, other = np.where(same_class, ious, 0), np.where(same_class, 0, ious)
    applies = {
        "duplicate": own.max(1, initial=0) >= MIN_IOU,
        "class": other.max(1, initial=0) >= MIN_IOU,
        "localisation": own.max(1, initial=0) >= BACKGROUND_IOU,
        "both": other.max(1, initial=0) >= BACKGROUND_IOU,
    }
    types = np.select(list(applies.values()), list(applies), "background")
    detected = [matches]
    if ious.size:
        detected += [
            own[wrong & (types == "localisation")].argmax(1),
            other[wrong & (types == "class")].argmax(1),
        ]
    missed = ~image.crowd & ~np.isin(np.arange(len(image.crowd)), np.concatenate(detected))
    return Errors([str(error) if w else None for error, w in zip(types, wrong, strict=True)], missed)


def confusion_matrix(images: Sequence[ImageMatches], num_classes: int) -> Int[np.ndarray, "K1 K1"]:
    """Count pairs of predicted class (row) and class of the object (column).

    The last column counts detections without an object, the last row missed objects. Objects are matched
    with detections of their own class first, and the rest on both sides regardless of class, so that the
    diagonal counts the right detections.
    """
    counts = np.zeros((num_classes + 1, num_classes + 1), int)
    for image in images:
        matches, no_crowd = image.match(), np.zeros(len(image.crowd), bool)
        taken = np.isin(np.arange(len(image.crowd)), matches)
        unmatched = (matches == UNMATCHED)[:, None] & ~(taken | image.crowd)
        ious = np.where(unmatched, image.ious, 0)
        [others] = matching.match(ious, no_crowd, no_crowd, np.array([MIN_IOU]))
        matches = np.where(matches == UNMATCHED, others, matches)
        counted = matches != IGNORED
        columns = np.append(image.gt_labels, num_classes)[
            matches[counted]
        ]  # UNMATCHED, -1, reads the last one
        np.add.at(counts, (image.labels[counted], columns), 1)
        missed = ~np.isin(np.arange(len(image.crowd)), matches) & ~image.crowd
        np.add.at(counts, (num_classes, image.gt_labels[missed]), 1)
    return counts


def count_truncated_images(
    detections: Sequence[Entry], max_detections: int, capacity: int | None = None
) -> int:
    """Count the images in which a limit dropped detections, or may have dropped some.

    These are images with `capacity` detections, the maximum that the network returns (None: equal to
    `max_detections`), and images with more than `max_detections` of one class, of which the evaluation counts
    no more.
    """
    per_image = Counter(detection["image_id"] for detection in detections)
    per_class = Counter((detection["image_id"], detection["category_id"]) for detection in detections)
    full = {image for image, count in per_image.items() if count >= (capacity or max_detections)}
    return len(full | {image for (image, _), count in per_class.items() if count > max_detections})
