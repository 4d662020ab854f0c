"""Which detection is of which object: COCO's matching, of one picture."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int

NOTHING = -1  # what a detection is matched with that is of no object
RECALLS = np.linspace(0, 1, 101)  # where COCO reads precision


def match(
    ious: Float[np.ndarray, "D G"],
    crowd: Bool[np.ndarray, " G"],
    optional: Bool[np.ndarray, " G"],
    thresholds: Float[np.ndarray, " T"],
) -> Int[np.ndarray, "T D"]:
    """Return the object of each detection, surest first, at each threshold of IoU; or `NOTHING`.

    Each takes what it overlaps most, the last of equals, of the objects that are free and asked for, and only
    where there is none, of the `optional` ones; a crowd stays free. All thresholds go side by side.
    """
    rows, least = np.arange(len(thresholds)), np.minimum(thresholds, 1 - 1e-10)
    matched = np.full((len(thresholds), len(ious)), NOTHING)
    free = np.ones((len(thresholds), len(crowd)), bool)
    for d in np.flatnonzero((ious >= least.min()).any(axis=1)):
        fits = free & (ious[d] >= least[:, None])
        asked = fits & ~optional
        choice = np.where(asked.any(axis=1, keepdims=True), asked, fits)
        best = len(crowd) - 1 - np.argmax(np.where(choice, ious[d], -1)[:, ::-1], axis=1)
        hit = choice[rows, best]
        matched[hit, d] = best[hit]
        free[rows, best] &= ~hit | crowd[best]
    return matched
