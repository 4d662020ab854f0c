import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pycocotools import mask as coco
from torch import Tensor

from maskrcnn.results.result import Result, paste, paste_dense
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


def test_boxes_alone() -> None:
    result = _result(mask_probs=None, keypoints=None)
    with pytest.raises(ValueError, match="has no mask branch"):
        _ = result.masks
    with pytest.raises(ValueError, match="has no mask branch"):
        result.crop(0)


def test_nothing_found() -> None:
    nothing = _result().above(2.0)
    assert nothing.masks.shape == (0, 30, 40)
    assert nothing.rle() == nothing.polygons() == nothing.names == []
    assert nothing.table() == "no objects"


def test_the_table_has_a_line_for_each_object() -> None:
    lines = _result().table().splitlines()
    assert len(lines) == 6
    assert lines[3].split()[:2] == ["giraffe", "0.500"]
    assert len({len(line) for line in lines}) == 1


def test_shapes_that_disagree_are_refused_in_tests() -> None:
    with pytest.raises(Exception, match="scores"):
        _result(scores=np.zeros(3, np.float32))


def _grid_sampled(probs: Tensor, boxes: Tensor, height: int, width: int) -> Tensor:
    """Return the mask of each box sampled at every pixel's centre, as Detectron2 writes it."""
    x1, y1, x2, y2 = boxes.T[..., None]
    gx = (torch.arange(width) + 0.5 - x1) / (x2 - x1) * 2 - 1
    gy = (torch.arange(height) + 0.5 - y1) / (y2 - y1) * 2 - 1
    grid = torch.stack(torch.broadcast_tensors(gx[:, None], gy[:, :, None]), -1)
    return F.grid_sample(probs[:, None], grid, align_corners=False)[:, 0]


BOXES = torch.tensor(
    [
        [3.2, 5.7, 20.9, 17.1],
        [0.0, 0.0, 40.0, 30.0],
        [-5.5, -3.0, 10.0, 44.0],
        [12.5, 8.5, 13.5, 9.5],
        [7.1, 7.1, 7.3, 7.4],
        [33.0, 25.5, 90.0, 31.0],
        [50.0, 50.0, 60.0, 60.0],
    ]
)


def test_pasting_equals_grid_sample() -> None:
    probs = torch.rand(len(BOXES), 28, 28)
    want = _grid_sampled(probs, BOXES, 30, 40)
    for (crop, (y0, x0)), dense, box in zip(paste(probs, BOXES, (30, 40)), want, BOXES, strict=True):
        torch.testing.assert_close(
            crop, dense[y0 : y0 + crop.shape[0], x0 : x0 + crop.shape[1]], atol=1e-5, rtol=0
        )
        centres_x, centres_y = torch.arange(40) + 0.5, torch.arange(30) + 0.5
        assert crop.shape[1] == int(((centres_x >= box[0]) & (centres_x <= box[2])).sum())
        assert crop.shape[0] == int(((centres_y >= box[1]) & (centres_y <= box[3])).sum())
    assert torch.equal(paste_dense(probs, BOXES, (30, 40)), want >= 0.5)
    assert torch.equal(
        paste_dense(probs.round(), BOXES, (30, 40)), _grid_sampled(probs.round(), BOXES, 30, 40) >= 0.5
    )


def test_a_box_without_area_pastes_nothing() -> None:
    [(crop, _)] = paste(torch.ones(1, 28, 28), torch.tensor([[5.5, 2.0, 5.5, 9.0]]), (10, 10))
    assert crop.numel() == 0
    assert paste_dense(torch.ones(0, 28, 28), torch.zeros(0, 4), (10, 11)).shape == (0, 10, 11)
