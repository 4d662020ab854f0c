import os
import pickle
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from maskrcnn.data import prepare, transforms
from maskrcnn.data.dataset import Objects
from maskrcnn.data.folder import read_split
from maskrcnn.data.pictures import Picture, read_to_resize
from maskrcnn.data.targets import to_network
from maskrcnn.data.transforms import Sample
from maskrcnn.masks.rle import crop_to_rle

SHARED = Path(os.environ.get("MASKRCNN_SHARED", Path(__file__).parents[2] / "../shared"))


def make_sample(masks, height=40, width=60, keypoints=None):
    """A picture whose red channel is the column, and green the row; boxes are the masks' own."""
    y, x = np.mgrid[:height, :width]
    image = torch.from_numpy(np.stack([x, y, x + y]).astype(np.uint8))
    boxes, sources = [], []
    for mask in masks:
        if isinstance(mask, list):
            points = np.concatenate(mask)
            boxes.append([*points.min(0), *points.max(0)])
            sources.append([ring.astype(np.float32) for ring in mask])
        else:
            rows, columns = mask.any(1).nonzero()[0], mask.any(0).nonzero()[0]
            boxes.append([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
            sources.append(crop_to_rle(mask, (0, 0), mask.shape))
    count = len(masks)
    objects = Objects(
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        labels=np.arange(count),
        crowd=np.zeros(count, bool),
        masks=sources,
        keypoints=None if keypoints is None else np.array(keypoints, np.float32),
        ids=np.arange(1, count + 1),
    )
    return Sample(image, objects, keypoint_flip=(0, 2, 1))


def apply(transform, sample, seed=0):
    return transform(sample, np.random.default_rng(seed))


def sized(resize):
    """What happens to a picture before the first transform, as a transform."""

    def follow(sample, generator):
        height, width = sample.image.shape[-2:]
        target = resize((height, width), generator)
        picture = Picture(sample.image, (height, width), target, (0.0, 0.0, width, height))
        return transforms.resized(picture, sample.objects, sample.keypoint_flip)

    return follow


def dense(crop, size_hw):
    """The mask as the network sees it: each pixel's centre looked up in the crop."""
    (height, width), (sx, tx, sy, ty) = crop.pixels.shape, crop.affine
    x = np.floor(sx * (np.arange(size_hw[1]) + 0.5) + tx).astype(int)
    y = np.floor(sy * (np.arange(size_hw[0]) + 0.5) + ty).astype(int)
    inside = ((y >= 0) & (y < height))[:, None] & ((x >= 0) & (x < width))
    return inside & (crop.pixels[y.clip(0, height - 1)[:, None], x.clip(0, width - 1)] > 0)


def blob(height=40, width=60):
    """Lopsided, so that every mirror and shift shows."""
    mask = np.zeros((height, width), bool)
    mask[5:20, 10:30], mask[12:33, 26:30], mask[8, 15:25] = True, True, False
    return mask


GEOMETRY = {
    "nothing": transforms.compose(),
    "mirror": transforms.flip_horizontal(1.0),
    "upside down": transforms.flip_vertical(1.0),
    "turn": transforms.compose(transforms.flip_vertical(1.0), transforms.flip_horizontal(1.0)),
    "window": transforms.crop((30, 31)),
    "window of mirror": transforms.compose(transforms.flip_horizontal(1.0), transforms.crop((20, 31))),
    "doubled": sized(prepare.resize(80, 1000)),
    "quarter turn": transforms.quarter_turn(1.0),
    "quarter turn of a window of a mirror": transforms.compose(
        transforms.flip_horizontal(1.0), transforms.crop((20, 31)), transforms.quarter_turn(1.0)
    ),
    "quarter turn of what is doubled, upside down and cut": transforms.compose(
        sized(prepare.resize(80, 1000)),
        transforms.flip_vertical(1.0),
        transforms.quarter_turn(1.0),
        transforms.crop((33, 47)),
    ),
    "doubled and cut": transforms.compose(sized(prepare.resize(80, 1000)), transforms.crop((33, 47))),
}


@pytest.mark.parametrize("name", GEOMETRY)
def test_a_mask_goes_where_the_pixels_go(name):
    """The mask painted into the picture itself, and carried along by the transform, is the mask we get."""
    for seed in range(8):
        mask = blob()
        sample = make_sample([mask])
        sample = sample._replace(image=torch.from_numpy(mask[None] * np.uint8(255)).expand(3, -1, -1))
        moved = apply(GEOMETRY[name], sample, seed)
        image, truth = to_network(moved)
        painted = image[0].numpy() > 127
        if not painted.any():
            assert len(truth.boxes) == 0
            continue
        assert np.array_equal(dense(truth.crops[0], painted.shape), painted)
        rows, columns = painted.any(1).nonzero()[0], painted.any(0).nonzero()[0]
        assert truth.boxes[0].tolist() == [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


@pytest.mark.parametrize("name", GEOMETRY)
def test_polygons_and_runs_of_one_mask_agree(name):
    ring = np.array([[10, 5], [30, 5], [30, 33], [26, 33], [26, 20], [10, 20]])
    mask = blob()
    mask[8, 15:25] = True
    for seed in range(5):
        moved = apply(GEOMETRY[name], make_sample([[ring], mask]), seed)
        image, truth = to_network(moved)
        assert len(truth.boxes) in (0, 2)
        if len(truth.boxes):
            polygon, runs = (dense(crop, image.shape[-2:]) for crop in truth.crops)
            assert (polygon != runs).sum() <= 0.02 * runs.sum()
            assert np.abs(truth.boxes[0] - truth.boxes[1]).max() <= 1


def test_a_random_scale_comes_on_top_of_the_sides():
    scale = transforms.random_scale(prepare.resize(20, 1000), 0.5, 2.0)
    sizes = [scale((40, 60), np.random.default_rng(seed)) for seed in range(50)]
    assert min(sizes) < (12, 18) and max(sizes) > (36, 54)
    assert all(10 <= height <= 40 and abs(width - 1.5 * height) <= 1 for height, width in sizes)


def test_coordinates_follow_the_pixels_through_a_chain():
    """Red is the file's column and green its row: the affine must lead from there to here."""
    chain = transforms.compose(
        sized(transforms.random_scale(prepare.resize(None, 60), 1.5, 2.5)),
        transforms.flip_horizontal(0.5),
        transforms.crop((50, 61)),
        transforms.flip_vertical(0.5),
    )
    for seed in range(8):
        moved = apply(chain, make_sample([]), seed)
        sx, tx, sy, ty = moved.affine
        y, x = np.mgrid[: moved.image.shape[1], : moved.image.shape[2]] + 0.5
        inner = (slice(5, -5), slice(5, -5))
        assert np.abs((x - tx) / sx - 0.5 - moved.image[0].numpy())[inner].max() < 1.01
        assert np.abs((y - ty) / sy - 0.5 - moved.image[1].numpy())[inner].max() < 1.01


def test_keypoints_change_sides_in_a_mirror_and_not_in_a_turn():
    keypoints = [[[10.5, 7.5, 2], [12.5, 8.5, 1], [0, 0, 0]]]
    sample = make_sample([blob()], keypoints=keypoints)
    expected = {
        "nothing": keypoints[0],
        "mirror": [[49.5, 7.5, 2], [0, 0, 0], [47.5, 8.5, 1]],
        "upside down": [[10.5, 32.5, 2], [0, 0, 0], [12.5, 31.5, 1]],
        "turn": [[49.5, 32.5, 2], [47.5, 31.5, 1], [0, 0, 0]],
        "quarter turn": [[7.5, 49.5, 2], [8.5, 47.5, 1], [0, 0, 0]],
    }
    for name, points in expected.items():
        _, truth = to_network(apply(GEOMETRY[name], sample))
        assert truth.keypoints[0].tolist() == points
    cut = sample._replace(image=sample.image[:, :, 11:], affine=(1.0, -11.0, 1.0, 0.0))
    assert to_network(cut)[1].keypoints[0].tolist() == [[0, 0, 0], [1.5, 8.5, 1], [0, 0, 0]]


def test_objects_that_leave_the_picture():
    masks = [np.zeros((40, 60), bool) for _ in range(3)]
    masks[0][0:10, 0:10] = True
    masks[1][20:30, 5:40], masks[1][5:30, 5:10] = True, True  # an L; its upright will be cut off
    masks[2][20:30, 30:40] = True
    sample = make_sample(masks)
    sample = sample._replace(image=sample.image[:, :, 20:], affine=(1.0, -20.0, 1.0, 0.0))
    _, truth = to_network(sample)
    assert truth.labels.tolist() == [1, 2]
    assert truth.boxes.tolist() == [
        [0, 20, 20, 30],
        [10, 20, 20, 30],
    ]  # the L's box shrinks to what is visible
    boxes_only = sample._replace(objects=sample.objects._replace(masks=[None] * 3))
    assert to_network(boxes_only)[1].boxes.tolist() == [[0, 5, 20, 30], [10, 20, 20, 30]]
    sliver = sample._replace(image=sample.image[:, :29, 19:20], affine=(0.05, -1.95, 1.0, -20.0))
    assert to_network(sliver)[1].labels.tolist() == []  # 1 / 20 of a column, 9 rows: less than 1 square pixel


def test_an_object_too_small_for_the_resolution_keeps_its_box():
    tiny = [np.array([[10, 10], [10.4, 10], [10.4, 10.4], [10, 10.4]])]
    _, truth = to_network(apply(sized(prepare.resize(10, 100)), make_sample([tiny])))
    assert truth.boxes == pytest.approx(np.array([[2.5, 2.5, 2.6, 2.6]]))
    assert truth.crops == [None]


def test_a_quarter_turn_by_hand():
    """Anticlockwise: the upper right corner becomes the upper left one."""
    mask = np.zeros((2, 3), bool)
    mask[0, 1:], mask[1, 2] = True, True
    sample = make_sample([mask], height=2, width=3)
    image, truth = to_network(apply(transforms.quarter_turn(1.0), sample))
    assert image[0].tolist() == [[2, 2], [1, 1], [0, 0]] and image[1].tolist() == [[0, 1]] * 3
    assert truth.boxes.tolist() == [[0, 0, 2, 2]]
    assert truth.crops[0].pixels.tolist() == [[1, 1], [1, 0]] and truth.crops[0].affine == (1, 0, 1, 0)
    boxes_only = sample._replace(objects=sample.objects._replace(masks=[None]), is_turned=True)
    assert to_network(boxes_only)[1].boxes.tolist() == [[0, 0, 2, 2]]
    turned = [apply(transforms.quarter_turn(0.25), sample, seed).is_turned for seed in range(200)]
    assert 30 <= sum(turned) <= 70


def windows(objects, size_hw, share=1.0, **changes):
    """Draw windows of a picture of 40 x 60 px; return their x1, y1, x2, y2."""
    sample = make_sample(objects)
    sample = sample._replace(objects=sample.objects._replace(**changes))
    for seed in range(300):
        moved = apply(transforms.object_crop(size_hw, share), sample, seed)
        height, width = moved.image.shape[-2:]
        x, y = -moved.affine[1], -moved.affine[3]
        assert (moved.image[0, 0, 0], moved.image[1, 0, 0]) == (x, y)
        yield x, y, x + width, y + height


def rectangle(x1, y1, x2, y2):
    mask = np.zeros((40, 60), bool)
    mask[y1:y2, x1:x2] = True
    return mask


def test_a_window_holds_an_object():
    """Columns 50 … 54 fit into windows from 34 to 40, the last one; rows 3 … 6 into those from 0 to 3."""
    drawn = list(windows([rectangle(50, 3, 54, 7)], (18, 20)))
    assert {x for x, *_ in drawn} == set(range(34, 41)) and {y for _, y, *_ in drawn} == set(range(4))
    assert {(x2 - x1, y2 - y1) for x1, y1, x2, y2 in drawn} == {(20, 18)}
    counts = np.bincount([int(x) for x, *_ in drawn])[34:]
    assert counts.min() > 20  # of 300 in 7 places


def test_a_window_lies_within_an_object_that_is_larger():
    drawn = list(windows([rectangle(10, 5, 40, 8)], (50, 20)))  # the window is higher than the picture
    assert {x for x, *_ in drawn} == set(range(10, 21)) and {(y1, y2) for _, y1, _, y2 in drawn} == {(0, 40)}


def test_the_class_of_a_window_is_drawn_first():
    objects = [rectangle(2 * i, 0, 2 * i + 1, 1) for i in range(9)] + [rectangle(58, 38, 59, 39)]
    labels = np.array([4] * 9 + [7])
    drawn = list(windows(objects, (10, 10), labels=labels))
    rare = sum(x2 >= 59 and y2 >= 39 for _, _, x2, y2 in drawn)
    assert 120 <= rare <= 180  # half, not a tenth
    # Crowd regions count as nothing; a share of half of the windows leaves the other half to chance
    crowd = np.array([True] * 9 + [False])
    for some in (labels, np.zeros(10, np.int64)):
        drawn = windows(objects, (10, 10), crowd=crowd, labels=some)
        assert all(x2 >= 59 and y2 >= 39 for _, _, x2, y2 in drawn)
    at_half = windows(objects, (10, 10), 0.5, crowd=crowd, labels=labels)
    assert 120 <= sum(x2 >= 59 and y2 >= 39 for _, _, x2, y2 in at_half) <= 185
    without = list(windows(objects, (10, 10), crowd=np.ones(10, bool), labels=labels))
    assert len({x for x, *_ in without}) > 40 and len({y for _, y, *_ in without}) > 25
    assert len(set(windows([], (10, 10)))) > 200


def test_a_window_follows_the_scale():
    """The picture is doubled first: columns 100 … 108 and rows 6 … 14 of it."""
    sample = make_sample([rectangle(50, 3, 54, 7)])
    chain = transforms.compose(sized(prepare.resize(80, 1000)), transforms.object_crop((18, 20), 1.0))
    for seed in range(50):
        _, truth = to_network(apply(chain, sample, seed))
        [(x1, y1, x2, y2)] = truth.boxes.tolist()
        assert (x2 - x1, y2 - y1) == (8, 8)


def test_large_scale_jitter_by_hand():
    """A tenth and the double of a picture, in windows of its own size (Ghiasi et al. 2021)."""
    masks = [rectangle(10, 10, 30, 30), rectangle(52, 30, 56, 32), rectangle(0, 0, 1, 40)]

    def jittered(scale, seed=0):
        resize = transforms.random_scale(prepare.resize(40, 60), scale, scale)
        return to_network(
            apply(transforms.compose(sized(resize), transforms.crop((40, 60))), make_sample(masks), seed)
        )

    image, truth = jittered(0.1)
    assert image.shape == (3, 4, 6)  # the batch pads it
    assert truth.boxes == pytest.approx(np.array([[1, 1, 3, 3], [5.2, 3, 5.6, 3.2], [0, 0, 0.1, 4]]))
    assert dense(truth.crops[0], (4, 6)).sum() == 4
    assert [crop.pixels.shape for crop in truth.crops] == [(20, 20), (2, 4), (40, 1)]  # not shrunk

    for seed in range(20):
        moved = apply(
            transforms.compose(
                sized(transforms.random_scale(prepare.resize(40, 60), 2.0, 2.0)), transforms.crop((40, 60))
            ),
            make_sample(masks),
            seed,
        )
        image, truth = to_network(moved)
        x0, y0 = -moved.affine[1], -moved.affine[3]
        assert image.shape == (3, 40, 60) and moved.affine[::2] == (2.0, 2.0)
        doubled = {0: (20, 20, 60, 60), 1: (104, 60, 112, 64), 2: (0, 0, 2, 80)}
        expected = {}
        for label, (x1, y1, x2, y2) in doubled.items():
            box = [max(x1 - x0, 0), max(y1 - y0, 0), min(x2 - x0, 60), min(y2 - y0, 40)]
            if box[2] > box[0] and box[3] > box[1]:
                expected[label] = box
        assert dict(zip(truth.labels.tolist(), truth.boxes.tolist(), strict=True)) == expected
        for crop, (x1, y1, x2, y2) in zip(truth.crops, expected.values(), strict=True):
            assert dense(crop, (40, 60)).sum() == (x2 - x1) * (y2 - y1)


def test_large_scale_jitter_draws_all_sizes_and_keeps_to_its_window():
    chain = transforms.compose(
        sized(transforms.random_scale(prepare.resize(40, 60), 0.1, 2.0)), transforms.crop((40, 60))
    )
    heights = [apply(chain, make_sample([]), seed).image.shape[1] for seed in range(400)]
    assert min(heights) in (4, 5) and max(heights) == 40
    assert sum(height == 40 for height in heights) / 400 == pytest.approx((2.0 - 0.9875) / 1.9, abs=0.08)


def test_colour_jitter_by_hand():
    image = torch.tensor([[[100, 200]], [[50, 0]], [[0, 40]]], dtype=torch.uint8)
    sample = make_sample([])._replace(image=image)
    assert torch.equal(apply(transforms.colour_jitter(), sample).image, image)
    factor = 1 + np.random.default_rng(0).uniform(-1, 1) * 0.5
    brighter = apply(transforms.colour_jitter(brightness=0.5), sample).image
    assert torch.equal(brighter, (image * factor).round().clamp(0, 255).byte())
    one_by_one = sample.image.float()
    brightness, contrast, saturation = 1 + np.random.default_rng(0).uniform(-1, 1, 3) * 0.5
    one_by_one = one_by_one * brightness
    one_by_one = one_by_one.mean() + (one_by_one - one_by_one.mean()) * contrast
    one_by_one = one_by_one.mean(0) + (one_by_one - one_by_one.mean(0)) * saturation
    jittered = apply(transforms.colour_jitter(0.5, 0.5, 0.5), sample).image
    assert torch.equal(jittered, one_by_one.round().clamp(0, 255).byte())
    assert torch.equal(
        apply(transforms.colour_jitter(saturation=1.0), sample._replace(image=image[:1])).image, image[:1]
    )


def test_transforms_can_be_sent_to_spawned_workers():
    resize = transforms.random_scale(prepare.resize(30, 99), 1.0, 2.0)
    chain = transforms.compose(transforms.crop((9, 9)), transforms.colour_jitter(0.3))
    sample = make_sample([])
    sent = [pickle.loads(pickle.dumps(part)) for part in (resize, chain)]
    images = [apply(transforms.compose(sized(r), c), sample).image for r, c in ((resize, chain), sent)]
    assert torch.equal(*images)


@pytest.mark.parametrize("name", ["nuclei", "person", "coco_small"])
def test_real_masks_survive(name):
    """Against pycocotools' decoded masks, looked up where the affine says each pixel came from."""
    if not (SHARED / "data" / name).is_dir():
        pytest.skip(f"no {SHARED / 'data' / name}")
    from pycocotools.coco import COCO

    dataset = read_split(SHARED / "data" / name, "val")
    coco = COCO(dataset.source)
    chain = transforms.compose(
        transforms.flip_horizontal(0.5),
        transforms.flip_vertical(0.5),
        transforms.crop((280, 290)),
    )
    overlaps = []
    for i in range(0, len(dataset), 40):
        objects = dataset.objects(i)._replace(labels=dataset.objects(i).ids)
        generator = np.random.default_rng(i)
        resize = partial(prepare.resize((300, 400), 600), generator=generator)
        moved = chain(transforms.resized(read_to_resize(dataset.path(i), resize), objects), generator)
        image, truth = to_network(moved)
        (height, width), (sx, tx, sy, ty) = image.shape[-2:], moved.affine
        x = np.floor((np.arange(width) + 0.5 - tx) / sx).astype(int)
        y = np.floor((np.arange(height) + 0.5 - ty) / sy).astype(int)
        for id_, crop in zip(truth.labels, truth.crops, strict=True):
            expected = coco.annToMask(coco.dataset["annotations"][id_ - 1])[np.ix_(y, x)] > 0
            if expected.sum() > 200:
                found = dense(crop, (height, width))
                overlaps.append((found & expected).sum() / (found | expected).sum())
    assert len(overlaps) > 3 and min(overlaps) > 0.88 and np.mean(overlaps) > 0.96
