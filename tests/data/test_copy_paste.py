import math
import pickle
from functools import partial

import numpy as np
import pytest
import torch

from maskrcnn.data.copy_paste import copy_paste, draw_shift, paste, uncovered, whole_objects
from maskrcnn.data.targets import ImageTargets, MaskCrop


def crop(mask, flipped=False, scale=1):
    """The crop of a mask (H, W) whose pixels are `scale` to one of the network's, stored mirrored or not."""
    rows, columns = mask.any(1).nonzero()[0], mask.any(0).nonzero()[0]
    pixels = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(np.uint8)
    affine = (float(scale), -float(columns[0]), float(scale), -float(rows[0]))
    if flipped:
        pixels, affine = pixels[:, ::-1], (-affine[0], pixels.shape[1] - affine[1], *affine[2:])
    return MaskCrop(np.ascontiguousarray(pixels), affine)


def targets(masks, boxes=None, keypoints=None, **more):
    """The objects of masks (H, W); an object without a mask is None, and has a box."""
    if boxes is None:
        boxes = [bounds(mask) for mask in masks]
    return ImageTargets(
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        labels=more.get("labels", np.arange(len(masks))),
        crowd=np.array(more.get("crowd", [False] * len(masks)), bool),
        crops=[None if mask is None else crop(mask) for mask in masks],
        keypoints=None if keypoints is None else np.array(keypoints, np.float32),
    )


def bounds(mask):
    rows, columns = mask.any(1).nonzero()[0], mask.any(0).nonzero()[0]
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


def rectangle(size_hw, x1, y1, x2, y2):
    mask = np.zeros(size_hw, bool)
    mask[y1:y2, x1:x2] = True
    return mask


def image(size_hw, value):
    return torch.full((1, *size_hw), value, dtype=torch.uint8)


def dense(one, size_hw):
    """The pixels whose centres the mask covers, each looked up in the crop."""
    mask, (sx, tx, sy, ty) = np.zeros(size_hw, bool), one.affine
    for y, x in np.argwhere(~mask).tolist():
        row, column = math.floor(sy * (y + 0.5) + ty), math.floor(sx * (x + 0.5) + tx)
        inside = 0 <= row < one.pixels.shape[0] and 0 <= column < one.pixels.shape[1]
        mask[y, x] = inside and one.pixels[row, column] > 0
    return mask


SIZE = (6, 8)


def test_a_paste_by_hand():
    mine = [rectangle(SIZE, 1, 1, 5, 3), rectangle(SIZE, 6, 4, 7, 5)]
    square = targets([rectangle(SIZE, 4, 2, 6, 4)], labels=np.array([9]))
    before = image(SIZE, 10)
    pixels, got = paste((before, targets(mine)), (image(SIZE, 200), square), (-1, -1))
    assert (before == 10).all()
    # the square goes to columns 3 and 4, rows 1 and 2: half of the first object
    assert pixels[0].tolist() == [
        [10, 10, 10, 10, 10, 10, 10, 10],
        [10, 10, 10, 200, 200, 10, 10, 10],
        [10, 10, 10, 200, 200, 10, 10, 10],
        [10, 10, 10, 10, 10, 10, 10, 10],
        [10, 10, 10, 10, 10, 10, 10, 10],
        [10, 10, 10, 10, 10, 10, 10, 10],
    ]
    assert got.labels.tolist() == [0, 1, 9] and not got.crowd.any() and got.keypoints is None
    assert got.boxes.tolist() == [[1, 1, 3, 3], [6, 4, 7, 5], [3, 1, 5, 3]]
    assert got.crops[0].pixels.tolist() == [[1, 1], [1, 1]] and got.crops[0].affine == (1, -1, 1, -1)
    assert got.crops[2].pixels.tolist() == [[1, 1], [1, 1]] and got.crops[2].affine == (1, -3, 1, -1)


@pytest.mark.parametrize("seed", range(12))
def test_masks_are_the_pixels_that_show_their_objects(seed):
    """Each object is painted in a colour of its own: what still has it after the paste is the mask."""
    generator = np.random.default_rng(seed)
    pictures, colour = [], 1
    for height, width in ((40, 56), generator.integers(30, 60, 2).tolist()):
        pixels = torch.zeros(1, height, width, dtype=torch.uint8)
        boxes, crops = [], []
        for _ in range(8):
            scale = int(generator.integers(1, 3))  # pixels of the file to one of the network's
            h, w = generator.integers(4, 14, 2) * scale
            y, x = generator.integers(0, scale * np.array([height, width]) - (h, w))
            mask = np.zeros((scale * height, scale * width), bool)
            mask[y : y + h, x : x + w] = generator.random((h, w)) < 0.8
            mask[y + h // 2] |= mask[y + h // 2 - 1]
            one = crop(mask, flipped=bool(generator.integers(2)), scale=scale)
            shown = torch.from_numpy(dense(one, (height, width)))
            if (pixels[0][shown] > 0).any():
                continue
            pixels[0][shown] = colour + len(crops)
            crops.append(one)
            boxes.append(np.array(bounds(mask)) / scale)
        made = targets([None] * len(crops), boxes, labels=colour + np.arange(len(crops)))
        pictures.append((pixels, made._replace(crops=crops)))
        colour += len(crops)
    target, source = pictures
    pixels, got = copy_paste(1.0)(target, lambda: source, generator)
    added = len(got.labels) - np.isin(got.labels, target[1].labels).sum()
    assert 0 < added <= len(source[1].labels) and len(set(got.labels.tolist())) == len(got.labels)
    for box, label, one in zip(got.boxes, got.labels, got.crops, strict=True):
        painted = pixels[0].numpy() == label
        assert np.array_equal(dense(one, painted.shape), painted)
        assert np.abs(box - bounds(painted)).max() <= 1
    for label in set(np.unique(pixels)) - {0} - set(got.labels.tolist()):  # left out: a remainder
        assert (pixels == label).sum() < 0.1 * (target[0] == label).sum()
    background = ~np.isin(pixels[0], source[1].labels)
    assert torch.equal(pixels[0][background], target[0][0][background])


def test_an_object_that_loses_nearly_all_goes():
    size_hw = (4, 32)
    masks = [
        rectangle(size_hw, 0, 0, 10, 1),
        rectangle(size_hw, 11, 0, 22, 1),
        rectangle(size_hw, 23, 2, 25, 4),
    ]
    pasted = np.zeros(size_hw, bool)
    pasted[0, :9], pasted[0, 12:22] = True, True
    got = uncovered(targets(masks), pasted)
    assert got.labels.tolist() == [0, 2]  # 1 of 10 pixels is left, and 1 of 11
    assert got.boxes.tolist() == [[9, 0, 10, 1], [23, 2, 25, 4]]
    assert got.crops[0].pixels.tolist() == [[1]] and got.crops[0].affine == (1, -9, 1, 0)
    whole = targets(masks).crops[2]
    assert np.array_equal(got.crops[1].pixels, whole.pixels) and got.crops[1].affine == whole.affine


def test_an_object_without_a_mask_counts_as_its_box():
    pasted = rectangle(SIZE, 0, 0, 3, 6)
    boxes = [[1, 1, 6, 3], [0.5, 4, 2, 6], [2.7, 0, 3.1, 0.3], [5, 5, 5.2, 5.2]]
    got = uncovered(targets([None] * 4, boxes), pasted)
    # the third touches the pixels 2 and 3 of the first row: one of them is left
    assert got.labels.tolist() == [0, 2, 3] and got.crops == [None, None, None]
    assert got.boxes == pytest.approx(np.array([[3, 1, 6, 3], [3, 0, 4, 1], [5, 5, 5.2, 5.2]]))


def test_crowds_and_objects_that_a_border_cuts_are_not_pasted():
    boxes = [[1, 1, 7, 5], [0.9, 2, 4, 4], [2, 0.9, 4, 4], [2, 2, 7.1, 4], [2, 2, 4, 5.1], [2, 2, 4, 4]]
    made = targets([rectangle(SIZE, 2, 2, 4, 4)] * 6, boxes, crowd=[False] * 5 + [True])
    assert whole_objects(made, SIZE).tolist() == [0]
    assert whole_objects(made._replace(crops=[None] * 6), SIZE).tolist() == []
    target = image(SIZE, 10), targets([rectangle(SIZE, 0, 0, 1, 1)])
    none = made._replace(crowd=np.ones(6, bool))
    pixels, got = copy_paste(1.0)(target, lambda: (image(SIZE, 200), none), np.random.default_rng(0))
    assert (pixels == 10).all() and got.labels.tolist() == [0]


def test_what_the_border_of_the_target_would_cut_is_not_pasted():
    masks = [rectangle((20, 20), 2, 2, 5, 5), rectangle((20, 20), 9, 3, 12, 5)]
    pixels, got = paste((image(SIZE, 10), targets([])), (image((20, 20), 200), targets(masks)), (0, -2))
    assert got.labels.tolist() == [0] and got.boxes.tolist() == [[0, 2, 3, 5]]
    assert (pixels == 200).sum() == 9  # the other would reach from column 7 to 10


def test_an_object_between_the_centres_of_pixels_is_not_pasted():
    thin = targets([rectangle((60, 80), 20, 11, 60, 14)])  # at a tenth: 1.1 … 1.4, no centre of a row
    thin.crops[0] = crop(rectangle((60, 80), 20, 11, 60, 14), scale=10)
    thin.boxes[0] /= 10
    pixels, got = paste((image(SIZE, 10), targets([])), (image(SIZE, 200), thin), (1, 0))
    assert (pixels == 10).all() and len(got.labels) == 0


def test_keypoints_move_along_and_are_hidden_below():
    mine = targets(
        [rectangle(SIZE, 0, 0, 8, 3)], keypoints=[[[3.5, 1.5, 2], [7.5, 1.5, 2], [3.5, 2.5, 1], [0, 0, 0]]]
    )
    theirs = targets(
        [rectangle(SIZE, 3, 0, 5, 2)], keypoints=[[[3.5, 0.5, 2], [4.5, 1.5, 1], [0.5, 5.5, 2], [0, 0, 0]]]
    )
    _, got = paste((image(SIZE, 10), mine), (image(SIZE, 200), theirs), (1, 0))
    assert got.keypoints.tolist() == [
        [[3.5, 1.5, 1], [7.5, 1.5, 2], [3.5, 2.5, 1], [0, 0, 0]],
        [[3.5, 1.5, 2], [4.5, 2.5, 1], [0, 0, 0], [0, 0, 0]],  # the third left the picture
    ]
    assert mine.keypoints[0, 0, 2] == 2


def test_objects_move_together_to_anywhere_in_the_picture():
    boxes = np.array([[2.5, 1, 4, 3], [3, 2, 5.5, 4]], np.float32)  # together 2.5, 1, 5.5, 4
    shifts = {draw_shift(boxes, (6, 8), np.random.default_rng(seed)) for seed in range(200)}
    assert shifts == {(dy, dx) for dy in range(-1, 3) for dx in range(-2, 3)}
    narrow = {draw_shift(boxes, (6, 2), np.random.default_rng(seed))[1] for seed in range(50)}
    assert narrow == {-4, -3, -2}  # they begin at 0 or left of it, and end at 2 or right of it


def test_the_other_picture_is_read_only_where_it_is_pasted():
    target = image(SIZE, 10), targets([])
    source = image(SIZE, 200), targets([rectangle(SIZE, 2, 2, 4, 4)] * 3)
    reads = []
    mix = pickle.loads(pickle.dumps(copy_paste(0.3)))  # as it reaches spawned workers
    counts = []
    for seed in range(300):
        _, got = mix(target, partial(lambda n: reads.append(n) or source, seed), np.random.default_rng(seed))
        counts.append(len(got.labels))
    assert len(reads) == np.count_nonzero(counts) and 60 <= len(reads) <= 120
    assert {1, 2, 3} == set(counts) - {0}  # a random number of the objects
