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
