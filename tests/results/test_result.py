import json

import numpy as np
import pytest
import torch
from pycocotools import mask as coco

from maskrcnn.masks.paste import paste_dense
from maskrcnn.results.result import Result
from maskrcnn.types import Metadata


def _result(n: int = 5, **changes: object) -> Result:
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 25, (n, 2))
    fields = {
        "boxes": np.concatenate([corners, corners + rng.uniform(3, 20, (n, 2))], 1).astype(np.float32),
        "scores": np.linspace(0.9, 0.1, n, dtype=np.float32),
        "labels": np.arange(n) % 3,
        "size_hw": (30, 40),
        "metadata": Metadata(("cat", "dog", "giraffe"), (3, 7, 90)),
        "mask_probs": rng.random((n, 28, 28), dtype=np.float32),
        "keypoints": rng.uniform(0, 30, (n, 4, 3)).astype(np.float32),
    }
    return Result(**{**fields, **changes})


def test_every_form_of_the_masks_is_the_same_mask() -> None:
    result = _result()
    want = paste_dense(torch.tensor(result.mask_probs), torch.tensor(result.boxes), result.size_hw).numpy()
    assert np.array_equal(result.masks, want)
    assert np.array_equal([coco.decode(rle) for rle in result.rle()], want)
    for i in range(len(result)):
        crop, (x0, y0) = result.crop(i)
        assert crop.sum() == want[i].sum()
        assert np.array_equal(crop, want[i, y0 : y0 + crop.shape[0], x0 : x0 + crop.shape[1]])
        corners = np.concatenate(result.polygons()[i])
        rows, columns = np.nonzero(want[i])
        assert corners.min(0).tolist() == [columns.min(), rows.min()]
        assert corners.max(0).tolist() == [columns.max() + 1, rows.max() + 1]


def test_choosing_objects() -> None:
    result = _result()
    assert [
        len(part) for part in (result, result.above(0.5), result.above(2.0), result.select(slice(1, 3)))
    ] == [5, 3, 0, 2]
    turned = result.select(np.array([4, 0]))
    assert turned.scores.tolist() == result.scores[[4, 0]].tolist()
    assert np.array_equal(turned.masks, result.masks[[4, 0]])
    assert np.array_equal(turned.keypoints, result.keypoints[[4, 0]])
    assert turned.names == ["dog", "cat"]
    assert turned.class_names == result.class_names


def test_coco_results_by_hand() -> None:
    result = _result(
        1,
        boxes=np.array([[2, 3, 12, 7]], np.float32),
        scores=np.array([0.75], np.float32),
        labels=np.array([2]),
        mask_probs=np.ones((1, 28, 28), np.float32),
        keypoints=np.array([[[3.5, 4.5, 6.0], [0.5, 1.0, -2.0]]], np.float32),
    )
    [found] = json.loads(json.dumps(result.to_coco(17)))
    assert found.pop("segmentation") == {"size": [30, 40], "counts": result.rle()[0]["counts"]}
    assert found == {
        "image_id": 17,
        "category_id": 90,
        "bbox": [2.0, 3.0, 10.0, 4.0],
        "score": 0.75,
        "keypoints": [3.0, 4.0, 6.0, 0.0, 0.5, -2.0],
    }
    assert coco.area(result.rle()[0]) == 40


def test_boxes_alone() -> None:
    result = _result(mask_probs=None, keypoints=None)
    assert set(result.to_coco(1)[0]) == {"image_id", "category_id", "bbox", "score"}
    with pytest.raises(ValueError, match="has no mask branch"):
        _ = result.masks
    with pytest.raises(ValueError, match="has no mask branch"):
        result.crop(0)


def test_nothing_found() -> None:
    nothing = _result().above(2.0)
    assert nothing.masks.shape == (0, 30, 40)
    assert nothing.rle() == nothing.polygons() == nothing.to_coco(1) == nothing.names == []
    assert nothing.table() == "no objects"


def test_the_table_has_a_line_for_each_object() -> None:
    lines = _result().table().splitlines()
    assert len(lines) == 6
    assert lines[3].split()[:2] == ["giraffe", "0.500"]
    assert len({len(line) for line in lines}) == 1


def test_shapes_that_disagree_are_refused_in_tests() -> None:
    with pytest.raises(Exception, match="scores"):
        _result(scores=np.zeros(3, np.float32))
