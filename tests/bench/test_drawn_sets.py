"""`benchmarks/drawn_sets.py`: sets without faults, of the kinds that they are named for."""

import json

import numpy as np
import pytest

from maskrcnn.data.doctor.check import check
from maskrcnn.data.folder import read_split

SMALL = {
    "tiny": {"train": 1, "val": 1, "size_hw": (600, 800)},
    "photos": {"train": 4, "val": 2, "size_hw": (96, 128)},
    "tail": {"train": 30, "val": 30, "size_hw": (96, 96)},
}


@pytest.fixture
def drawn(benchmarks, tmp_path):
    import drawn_sets

    def write(name, folder="data"):
        drawn_sets.SETS[name](tmp_path / folder, **SMALL[name])
        return tmp_path / folder

    return write


def sides(dataset):
    boxes = np.concatenate([dataset.objects(i).boxes for i in range(len(dataset))])
    return (boxes[:, 2:] - boxes[:, :2]).max(1)


def test_tiny_objects_are_ten_pixels_large(drawn):
    folder = drawn("tiny")
    assert check(folder).kinds == {}
    dataset = read_split(folder, "train")
    assert 40 <= len(sides(dataset)) <= 90
    assert (sides(dataset) >= 5).all() and (sides(dataset) <= 14).all()


def test_photos_have_large_objects_and_clutter_that_is_not_annotated(drawn):
    dataset = read_split(drawn("photos"), "train")
    assert all(1 <= len(dataset.objects(i).labels) <= 3 for i in range(4))
    assert np.median(sides(dataset)) > 96 / 4
    assert len(dataset.class_names) == 6


def test_the_tail_is_long_in_training_alone(drawn):
    folder = drawn("tail")
    counts = {}
    for split in ("train", "val"):
        dataset = read_split(folder, split)
        labels = np.concatenate([dataset.objects(i).labels for i in range(len(dataset))])
        counts[split] = np.bincount(labels, minlength=100)
    assert counts["train"][:10].sum() > 3 * counts["train"][50:].sum()
    assert counts["val"][:10].sum() < counts["val"][50:].sum()


def test_masks_are_what_is_seen_of_each_object(drawn):
    """Objects hide one another, and masks of one picture never share a pixel but at their outlines."""
    from faster_coco_eval import mask

    content = json.loads((drawn("tail") / "annotations/instances_train.json").read_text())
    images, occluded = {image["id"]: np.zeros((96, 96), int) for image in content["images"]}, 0
    for entry in content["annotations"]:
        runs = entry["segmentation"]
        occluded += isinstance(runs, dict)
        pixels = mask.decode(runs if isinstance(runs, dict) else mask.merge(mask.frPyObjects(runs, 96, 96)))
        assert abs(int(pixels.sum()) - entry["area"]) <= 0.1 * entry["area"] + 6
        images[entry["image_id"]] += pixels
    shared = sum(int((counts > 1).sum()) for counts in images.values())
    assert occluded > 10 and shared < 0.02 * sum(int(counts.sum()) for counts in images.values())


def test_a_seed_gives_the_same_set(drawn):
    first, second = (drawn("photos", folder) for folder in ("first", "second"))
    files = [file.relative_to(first) for file in first.rglob("*") if file.is_file()]
    assert len(files) == 8
    assert all((first / file).read_bytes() == (second / file).read_bytes() for file in files)
