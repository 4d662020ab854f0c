"""The result of a picture in COCO's form."""

from __future__ import annotations

from typing import Any

import numpy as np

from maskrcnn.results.result import Result


def to_coco(result: Result, image_id: int) -> list[dict[str, Any]]:
    """Return COCO's result list, one dictionary per object, with the data set's category ids.

    COCO counts keypoints from the centre of the first pixel, hence 0.5 less; their third number is the score.
    """
    low, high = result.boxes[:, :2], result.boxes[:, 2:]
    columns: dict[str, list] = {
        "category_id": [int(result.category_ids[label]) for label in result.labels],
        "bbox": np.concatenate([low, high - low], 1).tolist(),
        "score": result.scores.tolist(),
    }
    if result.mask_probs is not None:
        columns["segmentation"] = result.rle()
    if result.keypoints is not None:
        columns["keypoints"] = [points.ravel().tolist() for points in result.keypoints - [0.5, 0.5, 0]]
    return [
        {"image_id": image_id, **dict(zip(columns, row, strict=True))}
        for row in zip(*columns.values(), strict=True)
    ]
