import json

import numpy as np
from pycocotools import mask as coco

from maskrcnn.results.coco import to_coco
from maskrcnn.results.result import Result
from maskrcnn.types import Metadata


def _result(**changes: object) -> Result:
    fields = {
        "boxes": np.array([[2, 3, 12, 7]], np.float32),
        "scores": np.array([0.75], np.float32),
        "labels": np.array([2]),
        "size_hw": (30, 40),
        "metadata": Metadata(("cat", "dog", "giraffe"), (3, 7, 90)),
        "mask_probs": np.ones((1, 28, 28), np.float32),
        "keypoints": np.array([[[3.5, 4.5, 6.0], [0.5, 1.0, -2.0]]], np.float32),
    }
    return Result(**{**fields, **changes})


def test_coco_results_by_hand() -> None:
    result = _result()
    [entry] = json.loads(json.dumps(to_coco(result, 17)))
    assert entry.pop("segmentation") == {"size": [30, 40], "counts": result.rle()[0]["counts"]}
    assert entry == {
        "image_id": 17,
        "category_id": 90,
        "bbox": [2.0, 3.0, 10.0, 4.0],
        "score": 0.75,
        "keypoints": [3.0, 4.0, 6.0, 0.0, 0.5, -2.0],
    }
    assert coco.area(result.rle()[0]) == 40


def test_boxes_alone() -> None:
    [entry] = to_coco(_result(mask_probs=None, keypoints=None), 1)
    assert set(entry) == {"image_id", "category_id", "bbox", "score"}


def test_no_objects() -> None:
    assert to_coco(_result().above(2.0), 1) == []
