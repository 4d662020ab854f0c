"""COCO's matching of the detections of an image with its objects, and the grids that AP is averaged over."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)  # recalls at which precision is sampled

# Entries of a matching that are not the index of an object
UNMATCHED = -1  # a false positive
IGNORED = -2  # matched with an object that does not count: neither a true nor a false positive


def match(
    ious: Float[np.ndarray, "D G"],
    crowd: Bool[np.ndarray, " G"],
    ignored: Bool[np.ndarray, " G"],
    thresholds: Float[np.ndarray, " T"],
) -> Int[np.ndarray, "T D"]:
    """Match detections, in descending order of score, with objects, once for each IoU threshold.

    Returns for each detection the index of its object, `UNMATCHED`, or `IGNORED` where that object is one of
    the `ignored`, which count neither as found nor as missed. As in pycocotools, a detection takes the free
    object with the highest IoU (the last one of a tie), and an ignored object only where no other reaches
    the threshold. A `crowd` region matches any number of detections.
    """
    rows, minimum_iou = np.arange(len(thresholds)), np.minimum(thresholds, 1 - 1e-10)
    matches = np.full((len(thresholds), len(ious)), UNMATCHED)
    free = np.ones((len(thresholds), len(crowd)), bool)
    for d in np.flatnonzero((ious >= minimum_iou.min()).any(axis=1)):
        candidates = free & (ious[d] >= minimum_iou[:, None])
        counted = candidates & ~ignored
        choice = np.where(counted.any(axis=1, keepdims=True), counted, candidates)
        best = len(crowd) - 1 - np.argmax(np.where(choice, ious[d], -1)[:, ::-1], axis=1)
        hit = choice[rows, best]
        matches[hit, d] = np.where(ignored[best], IGNORED, best)[hit]
        free[rows, best] &= ~hit | crowd[best]
    return matches
