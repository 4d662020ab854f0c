"""Precision and recall of matched detections: their curves, the best score threshold, and the scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from maskrcnn.evaluation.image_matches import MIN_IOU, ImageMatches, object_counts
from maskrcnn.evaluation.matching import IGNORED, RECALLS


class Pool(NamedTuple):
    """The detections of all images that count as right or wrong, in descending order of score."""

    scores: Float[np.ndarray, " D"]
    labels: Int[np.ndarray, " D"]
    correct: Bool[np.ndarray, " D"]
    object_counts: Int[np.ndarray, " K"]  # objects of each class that could be found


class Operating(NamedTuple):
    """Precision, recall and F1 (0 … 1) of all classes together, of the detections above a score threshold."""

    threshold: float
    precision: float
    recall: float
    f1: float


def pool(images: Sequence[ImageMatches], num_classes: int, min_iou: float = MIN_IOU) -> Pool:
    """Match the detections of every image, and pool them. Ignored detections are dropped."""
    counts = object_counts(images, num_classes)
    if not images:
        return Pool(np.zeros(0), np.zeros(0, int), np.zeros(0, bool), counts)
    matches = np.concatenate([image.match(min_iou) for image in images])
    counted = matches != IGNORED
    scores = np.concatenate([image.scores for image in images])[counted]
    labels = np.concatenate([image.labels for image in images])[counted]
    order = np.argsort(-scores, kind="stable")
    return Pool(scores[order], labels[order], (matches[counted] >= 0)[order], counts)


def precision_recall(pooled: Pool) -> Float[np.ndarray, "K 101"]:
    """Return the precision of each class at `RECALLS`, monotone as COCO makes it; NaN for absent classes.

    The mean of a row is the average precision of that class at the IoU of the matching.
    """
    curves = np.full((len(pooled.object_counts), len(RECALLS)), np.nan)
    for label in np.flatnonzero(pooled.object_counts):
        hits = pooled.correct[pooled.labels == label].cumsum()
        precision = hits / np.arange(1, len(hits) + 1)
        precision = np.maximum.accumulate(precision[::-1])[::-1]
        # Recalls that are not reached read the 0 at the end
        reached = np.searchsorted(hits / pooled.object_counts[label], RECALLS)
        curves[label] = np.append(precision, 0)[reached]
    return curves


def operating_point(pooled: Pool, threshold: float) -> Operating:
    """Return precision, recall and F1 of the detections with a score of at least `threshold`."""
    kept = int((pooled.scores >= threshold).sum())
    hits, objects = int(pooled.correct[:kept].sum()), int(pooled.object_counts.sum())
    return Operating(
        threshold, hits / max(kept, 1), hits / max(objects, 1), 2 * hits / max(kept + objects, 1)
    )


def best_threshold(pooled: Pool) -> float | None:
    """Return the score threshold with the highest F1; None if nothing is right.

    Of equals the highest is taken: for the same F1, fewer and surer detections. The threshold lies midway
    between the lowest score that it keeps and the highest that it drops (0 if it drops none), so that a
    small change of a score on other hardware or in an exported network decides nothing.
    """
    scores, correct = pooled.scores, pooled.correct
    if not correct.any():
        return None
    objects = int(pooled.object_counts.sum())
    f1 = 2 * correct.cumsum() / (np.arange(1, len(correct) + 1) + objects)
    next_scores = np.append(scores[1:], 0.0)
    is_last = np.append(scores[1:] < scores[:-1], True)  # all detections of a score are kept, or none
    best = np.where(is_last, f1, -1).argmax()
    return float((scores[best] + next_scores[best]) / 2)


def score_histogram(
    pooled: Pool, bins: int = 20
) -> tuple[Int[np.ndarray, " bins"], Int[np.ndarray, " bins"]]:
    """Count right and wrong detections in each of `bins` equal intervals of the score, 0 … 1."""
    edges = np.linspace(0, 1, bins + 1)
    return (
        np.histogram(pooled.scores[pooled.correct], edges)[0],
        np.histogram(pooled.scores[~pooled.correct], edges)[0],
    )
