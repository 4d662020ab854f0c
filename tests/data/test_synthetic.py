import json

import numpy as np
import pytest
from faster_coco_eval.core import mask as coco_mask

from maskrcnn.data.folder import read_split
from maskrcnn.data.pictures import read_picture
from maskrcnn.data.synthetic import synthetic_dataset
from maskrcnn.masks.rle import decode


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return synthetic_dataset(tmp_path_factory.mktemp("synthetic") / "new", train=12, val=6, size=100, seed=3)


def masks(objects, size_hw):
    for mask in objects.masks:
        if isinstance(mask, dict):
            yield decode(mask)
        else:
            rings = coco_mask.frPyObjects([ring.ravel().tolist() for ring in mask], *size_hw)
            yield coco_mask.decode(coco_mask.merge(rings)) > 0


def test_it_opens_as_a_data_set(folder):
    train, val = (read_split(folder, split) for split in ("train", "val"))
    assert (len(train), len(val)) == (12, 6) and len(train.class_names) == 5
    assert {path.suffix for path in train.paths} == {".png", ".jpg"}
    assert {tuple(size) for size in train.sizes_hw.tolist()} == {(100, 100)}
    assert all(
        read_picture(path).shape[1:] == tuple(size)
        for path, size in zip(train.paths, train.sizes_hw, strict=True)
    )
    kinds = {type(mask) for i in range(12) for mask in train.objects(i).masks}
    assert kinds == {dict, list}


def test_masks_are_what_is_visible(folder):
    dataset = read_split(folder, "train")
    annotations = json.loads(dataset.source.read_text())["annotations"]
    for i in range(len(dataset)):
        size_hw, objects = dataset.sizes_hw[i].tolist(), dataset.objects(i)
        painted = np.zeros(size_hw, int)
        for mask, box, id_ in zip(masks(objects, size_hw), objects.boxes, objects.ids, strict=True):
            rows, columns = mask.any(1).nonzero()[0], mask.any(0).nonzero()[0]
            tight = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
            assert np.abs(box - tight).max() <= 1
            assert abs(annotations[id_ - 1]["area"] - mask.sum()) <= 0.1 * mask.sum() + 6
            assert min(size_hw) / 20 <= max(box[2:] - box[:2]) <= min(size_hw) / 2 + 1
            painted += mask
        assert (painted > 1).sum() <= 0.02 * painted.size  # none but rounded outlines' edges twice


def test_rings_have_holes(folder):
    dataset = read_split(folder, "train")
    filled = []
    for i in range(len(dataset)):
        objects = dataset.objects(i)
        for label, box, mask in zip(
            objects.labels, objects.boxes, masks(objects, dataset.sizes_hw[i].tolist()), strict=True
        ):
            if dataset.class_names[label] == "ring":
                filled.append(mask.sum() / np.prod(box[2:] - box[:2]))
    assert 0.45 < np.median(filled) < 0.65  # π / 4 without the hole, 0.7 of that with it


def test_the_same_seed_gives_the_same_files(folder, tmp_path):
    again = synthetic_dataset(tmp_path, train=12, val=6, size=100, seed=3)
    other = synthetic_dataset(tmp_path / "other", train=2, val=0, size=100, seed=4)
    names = sorted(path.relative_to(folder) for path in folder.rglob("*.*"))
    assert len(names) == 20
    assert all((folder / name).read_bytes() == (again / name).read_bytes() for name in names)
    assert (other / "train/0000.png").read_bytes() != (again / "train/0000.png").read_bytes()
