"""Repairs: a copy is written, every change is counted, and what cannot be used is left out and named."""

import json

import numpy as np
import pytest
from PIL import Image

from maskrcnn.data.doctor.check import check
from maskrcnn.data.doctor.fix import fix
from maskrcnn.data.folder import read_split

RING = [8, 8, 28, 8, 28, 28, 8, 28]


def square(id_, **values):
    box = {"id": id_, "image_id": 1, "category_id": 1, "bbox": [8, 8, 20, 20], "area": 400, "iscrowd": 0}
    return {**box, "segmentation": [RING], **values}


@pytest.fixture
def data(tmp_path):
    (tmp_path / "data" / "train").mkdir(parents=True)
    (tmp_path / "data" / "annotations").mkdir()
    blocks = np.random.default_rng(0).integers(0, 256, (16, 16), np.uint8)
    Image.fromarray(np.kron(blocks, np.ones((4, 4), np.uint8))).save(tmp_path / "data" / "train" / "1.png")
    return tmp_path / "data"


def fixed(data, annotations, image=None, category=None):
    """Return what was changed and the repaired file, which the reader accepts."""
    image = {"id": 1, "file_name": "1.png", "height": 64, "width": 64} | (image or {})
    content = {"images": [image], "annotations": annotations, "info": {"year": 2026}}
    content["categories"] = [{"id": 1, "name": "cat"} | (category or {})]
    file = data / "annotations" / "instances_train.json"
    file.write_text(json.dumps(content))
    before = file.read_bytes()
    [repair] = fix(data, data.parent / "out")
    assert file.read_bytes() == before
    assert repair.target == data.parent / "out" / "annotations" / "instances_train.json"
    result = json.loads(repair.target.read_text())
    (data.parent / "out" / "train").symlink_to(data / "train")
    read_split(data.parent / "out", "train")
    return repair, result


def test_nothing_to_change(data):
    repair, result = fixed(data, [square(1)])
    assert not repair.changes
    assert not repair.left_out
    assert result["annotations"] == [square(1)]
    assert result["info"] == {"year": 2026}


def test_strings_become_numbers(data):
    texts = {"image_id": "1", "category_id": 1.0, "bbox": ["8", "8", "20", "20"], "area": "400"}
    ring = [list(map(str, RING))]
    one = square("7", iscrowd="0", segmentation=ring, **texts)
    repair, result = fixed(data, [one], {"id": "1", "height": "64", "width": 64.0}, {"id": "1"})
    assert result["annotations"] == [square(7)]
    assert result["images"][0] == {"id": 1, "file_name": "1.png", "height": 64, "width": 64}
    assert result["categories"][0]["id"] == 1
    assert repair.changes["values of 'id' made integers"] == 3
    assert check(data.parent / "out").clean


def test_flat_polygons_defaults_and_missing_boxes(data):
    repair, result = fixed(data, [{"id": 1, "image_id": 1, "category_id": 1, "segmentation": RING}])
    assert result["annotations"] == [square(1)]
    assert repair.changes == {
        "flat polygons made one ring": 1,
        "boxes derived from the mask": 1,
        "areas computed": 1,
        "values of 'iscrowd' set to 0": 1,
    }


def test_repeated_ids_are_renumbered(data):
    other = square(1, bbox=[9, 9, 19, 19])
    repair, result = fixed(data, [square(1), other, square(None)])
    assert [one["id"] for one in result["annotations"]] == [1, 2, 3]
    assert repair.changes == {"annotation ids renumbered": 2}


def test_corners_become_sizes_only_if_all_are_corners(data):
    corners = square(1, bbox=[8, 8, 28, 28])
    repair, result = fixed(data, [corners])
    assert result["annotations"] == [square(1)]
    assert repair.changes == {"boxes of corners made x, y, width, height": 1}


def test_one_corner_box_among_others_is_left_alone(data):
    corners = square(1, bbox=[8, 8, 28, 28])
    repair, result = fixed(data, [corners, square(2)])
    assert result["annotations"] == [corners, square(2)]
    assert not repair.changes


def test_unusable_annotations_are_left_out_and_named(data):
    unusable = [
        square(2, image_id=9),
        square(3, category_id=9),
        square(4, bbox=[8, 8, -1, 4]),
        square(5, segmentation=[[1, 2, 3, 4]]),
        square(6, segmentation={"size": [2, 2], "counts": [4]}),
        square(7, segmentation={"size": [64, 64], "counts": "~"}),
        square(8, segmentation="x"),
        square(9, iscrowd=5),
        square(10, segmentation=[], bbox=None),
    ]
    repair, result = fixed(data, [square(1), *unusable])
    assert result["annotations"] == [square(1)]
    assert [text.split(":")[0] for text in repair.left_out] == [
        f"annotation {one['id']} of image {one['image_id']}" for one in unusable
    ]


def test_a_short_ring_beside_others_is_removed(data):
    repair, result = fixed(data, [square(1, segmentation=[RING, [1, 2, 3, 4]])])
    assert result["annotations"] == [square(1)]
    assert repair.changes == {"polygons of fewer than 3 points removed": 1}


@pytest.mark.parametrize("id_", ["p001", 2**70, 1.5])
def test_ids_that_are_names_are_numbered(data, id_):
    one = square(1, image_id=id_, category_id=id_)
    repair, result = fixed(data, [one], {"id": id_}, {"id": id_})
    assert result["annotations"] == [square(1)]
    assert repair.changes == {
        "image ids that are no integers of 64 bits renumbered": 1,
        "category ids that are no integers of 64 bits renumbered": 1,
    }
    assert not repair.left_out


def test_missing_sizes_are_read_from_the_picture(data):
    repair, result = fixed(data, [square(1)], {"height": None, "width": None})
    assert (result["images"][0]["height"], result["images"][0]["width"]) == (64, 64)
    assert repair.changes == {"sizes read from the picture": 1}


def test_the_source_is_never_replaced(data):
    fixed(data, [square(1)])
    with pytest.raises(ValueError, match="choose another folder"):
        fix(data, data)


def test_polygons_of_pairs_become_lists_of_numbers(data):
    pairs = [RING[i : i + 2] for i in range(0, 8, 2)]
    repair, result = fixed(data, [square(1, segmentation=[pairs]), square(2, segmentation=pairs)])
    assert [one["segmentation"] for one in result["annotations"]] == [[RING], [RING]]
    assert repair.changes["polygons of pairs made x, y, x, y, …"] == 2
