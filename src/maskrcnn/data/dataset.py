"""What a data set is."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

Polygons = list[np.ndarray]  # the rings of one object, each (points, 2)


Entry = dict[str, Any]


class Objects(NamedTuple):
    """Ground truth of one picture, in the pixels of its file."""

    boxes: Float[np.ndarray, "G 4"]
    labels: Int[np.ndarray, " G"]  # 0 … K-1
    crowd: Bool[np.ndarray, " G"]
    masks: list[
        Polygons | Entry | None
    ]  # an entry is {"size": [h, w], "counts": str}, compressed run lengths
    keypoints: Float[np.ndarray, "G J 3"] | None  # x, y, visibility
    ids: Int[
        np.ndarray, " G"
    ]  # the place in the file's list, from 1: files repeat ids, and COCO's tools lose id 0
