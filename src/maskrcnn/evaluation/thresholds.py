"""The score threshold of each class with the best F1, which `maskrcnn predict` uses."""

from __future__ import annotations

from collections.abc import Sequence

from maskrcnn.evaluation.coco_format import sorted_categories
from maskrcnn.evaluation.curves import Pool, best_threshold, pool
from maskrcnn.evaluation.image_matches import ImageMatches, match_images
from maskrcnn.evaluation.run import Evaluation

_FEWEST_OBJECTS = 5  # of a class; the threshold of fewer depends on each single object
_LOWEST, _HIGHEST = 0.05, 0.95  # beyond them a threshold shows, or hides, nearly every detection


def score_thresholds(evaluation: Evaluation, category_ids: Sequence[int]) -> tuple[float, ...]:
    """Return the score threshold with the highest F1 for each of `category_ids`; none if nothing is right.

    Detections are matched by masks if the evaluation has metrics of masks, else by boxes. See
    `best_thresholds`.
    """
    truth = evaluation.truth
    images = match_images(
        truth,
        evaluation.detections,
        by_masks="segm" in evaluation.metrics,
        max_detections=evaluation.max_detections,
    )
    return best_thresholds(images, [category["id"] for category in sorted_categories(truth)], category_ids)


def best_thresholds(
    images: Sequence[ImageMatches], label_ids: Sequence[int], category_ids: Sequence[int]
) -> tuple[float, ...]:
    """Return the score threshold with the highest F1 for each of `category_ids`; none if nothing is right.

    `label_ids` are the category ids of the labels in `images`. F1 is that of the detections whose IoU with an
    object of their class is at least 0.5; `best_threshold` decides between equals. A class with fewer than 5
    objects, or of which no detection is right, has the threshold of all classes pooled. Every threshold is
    limited to 0.05 … 0.95.
    """
    pooled = pool(images, len(label_ids))
    common = best_threshold(pooled)
    if common is None:
        return ()
    own = {id_: _own_threshold(pooled, label) for label, id_ in enumerate(label_ids)}
    chosen = (own.get(id_) for id_ in category_ids)
    return tuple(_limited(common if threshold is None else threshold) for threshold in chosen)


def _own_threshold(pooled: Pool, label: int) -> float | None:
    """Return the best threshold of one class, or None where it has too few objects or none is found."""
    if pooled.object_counts[label] < _FEWEST_OBJECTS:
        return None
    of_class = pooled.labels == label
    counts = pooled.object_counts[label : label + 1]
    return best_threshold(
        Pool(pooled.scores[of_class], pooled.labels[of_class], pooled.correct[of_class], counts)
    )


def _limited(threshold: float) -> float:
    return min(max(threshold, _LOWEST), _HIGHEST)
