import numpy as np
import torch

from maskrcnn.data.batch import collate
from maskrcnn.data.targets import ImageTargets, MaskCrop


def truth(count, crops=None, joints=None):
    return ImageTargets(
        boxes=np.arange(count * 4, dtype=np.float32).reshape(-1, 4),
        labels=np.arange(count),
        crowd=np.arange(count) % 2 == 1,
        crops=crops or [None] * count,
        keypoints=None if joints is None else np.ones((count, joints, 3), np.float32),
    )


def image(height, width):
    return torch.full((3, height, width), 7, dtype=torch.uint8)


def test_objects_stand_in_slots():
    _, targets = collate([(image(8, 8), truth(0)), (image(8, 8), truth(9))], stride=8)
    assert targets.boxes.shape == (2, 16, 4)
    assert targets.valid.sum(1).tolist() == [0, 9] and targets.valid[1, :9].all()
    assert targets.boxes[1, 8].tolist() == [32, 33, 34, 35] and targets.labels[1, :9].tolist() == list(
        range(9)
    )
    assert targets.crowd.sum(1).tolist() == [0, 4] and targets.crowd[1, 1]
    empty = targets.boxes[~targets.valid]
    assert (empty[:, 2:] > empty[:, :2]).all()  # of some size, so that no logarithm of theirs is infinite
    assert targets.keypoints is None


def test_a_batch_without_objects():
    _, targets = collate([(image(8, 8), truth(0, joints=2))], stride=8)
    assert targets.boxes.shape == (1, 8, 4) and not targets.valid.any()
    assert targets.keypoints.shape == (1, 8, 2, 3) and len(targets.masks.pixels) > 0


def test_masks_lie_one_after_another_in_the_table():
    crops = [
        MaskCrop(np.array([[1, 0, 1], [0, 1, 1]], np.uint8), (2.0, -1.0, -0.5, 3.0)),
        None,
        MaskCrop(np.array([[1], [0]], np.uint8), (1.0, 0.0, 1.0, 0.0)),
    ]
    _, targets = collate([(image(8, 8), truth(1)), (image(8, 8), truth(3, crops))], stride=8)
    table = targets.masks
    assert (
        table.sizes_hw[1, :4].tolist() == [[2, 3], [0, 0], [2, 1], [0, 0]] and (table.sizes_hw[0] == 0).all()
    )
    assert table.affine[1, 0].tolist() == [2, -1, -0.5, 3]
    for slot, crop in enumerate(crops):
        if crop is not None:
            height, width = table.sizes_hw[1, slot].tolist()
            start = int(table.starts[1, slot])
            read = table.pixels[start : start + height * width].view(height, width)
            assert np.array_equal(read, crop.pixels)
