"""Cityscapes' folders in COCO's form, compared with the pixels of their annotations."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cities import add_picture, street
from maskrcnn.data.folder import read_split
from maskrcnn.data.readers.cityscapes import CLASSES, cached, coco_form, read_cityscapes
from maskrcnn.masks.rle import decode


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path) -> Path:
    monkeypatch.setenv("MASKRCNN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "cityscapes"


@pytest.fixture
def data(tmp_path) -> Path:
    folder = tmp_path / "cityscapes"
    one = street(_26000=(5, 10, 8, 20), _26001=(5, 30, 8, 5), _24=(20, 0, 10, 6), _1=(35, 0, 5, 60))
    add_picture(folder, "train", "ulm_000000_000019", one)
    add_picture(folder, "train", "aachen_000001_000019", street(_33012=(0, 0, 40, 1), _29001=(9, 9, 5, 5)))
    add_picture(folder, "train", "aachen_000000_000019", street())
    add_picture(folder, "val", "bonn_000000_000019", one)
    return folder


def test_pictures_and_classes(data):
    form = coco_form(data, "train")
    names = ["aachen_000000_000019", "aachen_000001_000019", "ulm_000000_000019"]
    assert [image["file_name"] for image in form["images"]] == [
        f"{name.split('_')[0]}/{name}_leftImg8bit.png" for name in names
    ]
    assert [(image["id"], image["height"], image["width"]) for image in form["images"]] == [
        (1, 40, 60),
        (2, 40, 60),
        (3, 40, 60),
    ]
    assert [(entry["id"], entry["name"]) for entry in form["categories"]] == [
        (24, "person"),
        (25, "rider"),
        (26, "car"),
        (27, "truck"),
        (28, "bus"),
        (31, "train"),
        (32, "motorcycle"),
        (33, "bicycle"),
    ]


def test_instances_crowds_and_void(data):
    form = coco_form(data, "train")
    bicycle, people, *cars = form["annotations"]
    masks = [entry.pop("segmentation") for entry in form["annotations"]]
    assert bicycle == {
        "id": 1,
        "image_id": 2,
        "category_id": 33,
        "iscrowd": 0,
        "bbox": [0, 0, 1, 40],
        "area": 40,
    }
    assert people == {
        "id": 2,
        "image_id": 3,
        "category_id": 24,
        "iscrowd": 1,
        "bbox": [0, 20, 6, 10],
        "area": 60,
    }
    assert [(car["bbox"], car["area"], car["iscrowd"]) for car in cars] == [
        ([10, 5, 20, 8], 160, 0),
        ([30, 5, 5, 8], 40, 0),
    ]
    assert decode(masks[1])[20:30, :6].all() and decode(masks[1]).sum() == 60
    voids = [decode(image["void"]) for image in form["images"]]
    assert [int(void.sum()) for void in voids] == [0, 0, 300]  # a single caravan is not void
    assert voids[2][35:].all()


def test_every_pixel_of_random_pictures(tmp_path):
    rng = np.random.default_rng(0)
    choices = np.array([0, 1, 4, 7, 9, 18, 23, 24, 26, 29, 30, 24000, 24001, 26000, 29000, 31007, 33999])
    values = choices[rng.integers(0, len(choices), (23, 17))]
    values[:, 5:7] = 26000  # a run over the end of a column
    values[:, -1], values[0, 0] = 0, 24
    values[-3:, 10], values[:3, 11] = 24007, 24007
    add_picture(tmp_path, "val", "ulm_000000_000019", values)
    form = coco_form(tmp_path, "val")
    void = np.isin(values, [0, 1, 4, 9, 18, 29, 30])
    assert np.array_equal(decode(form["images"][0]["void"]), void)
    expected = [value for value in np.unique(values) if (value // 1000 or value) in CLASSES]
    assert len(form["annotations"]) == len(expected) == 8
    for annotation, value in zip(form["annotations"], expected, strict=True):
        mask, (rows, columns) = values == value, np.nonzero(values == value)
        assert np.array_equal(decode(annotation["segmentation"]), mask)
        assert annotation["area"] == mask.sum() and annotation["iscrowd"] == (value < 1000)
        box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
        assert annotation["bbox"] == box


def test_made_once_and_again_when_a_file_changes(data, cache):
    file = cached(data, "train")
    assert json.loads(file.read_text()) == coco_form(data, "train")
    assert list(cache.iterdir()) == [file]
    before = file.stat().st_mtime_ns
    assert cached(data, "train") == file and file.stat().st_mtime_ns == before
    _, annotation = add_picture(data, "train", "ulm_000000_000019", street(_24001=(0, 0, 20, 20)))
    os.utime(annotation, ns=(before + 10**9, before + 10**9))
    changed = cached(data, "train")
    assert changed != file and len(json.loads(changed.read_text())["annotations"]) == 2
    assert cached(data, "val") not in (file, changed)


def test_a_data_set_opens_it(data):
    dataset = read_cityscapes(data, "train")
    assert dataset.class_names == tuple(CLASSES.values()) and dataset.category_ids == tuple(CLASSES)
    assert [path.name for path in dataset.paths][-1] == "ulm_000000_000019_leftImg8bit.png"
    objects = dataset.objects(2)
    assert objects.boxes.tolist() == [[0, 20, 6, 30], [10, 5, 30, 13], [30, 5, 35, 13]]
    assert objects.labels.tolist() == [0, 2, 2] and objects.crowd.tolist() == [True, False, False]
    assert decode(objects.masks[1]).sum() == 160
    assert dataset.truth()["images"] == coco_form(data, "train")["images"]  # with "void"
    assert len(read_cityscapes(data, "val")) == 1


def test_a_cache_that_cannot_be_written(data, cache):
    cache.parent.write_text("a file")
    with pytest.raises(ValueError, match=r"the annotations of .* cannot be cached there .*MASKRCNN_CACHE"):
        cached(data, "val")


def lose_annotation(picture: Path, annotation: Path) -> None:
    annotation.unlink()


def lose_picture(picture: Path, annotation: Path) -> None:
    add_picture(picture.parents[3], "val", "bonn_000001_000019", street())
    picture.unlink()


def shrink(picture: Path, annotation: Path) -> None:
    Image.new("RGB", (30, 40)).save(picture)


def eight_bits(picture: Path, annotation: Path) -> None:
    Image.new("L", (60, 40)).save(annotation)


def cut(picture: Path, annotation: Path) -> None:
    annotation.write_bytes(annotation.read_bytes()[:60])


def write_text(picture: Path, annotation: Path) -> None:
    annotation.write_text("no picture")


def unknown_label(picture: Path, annotation: Path) -> None:
    add_picture(
        picture.parents[3], "val", "bonn_000000_000019", street(_34=(0, 0, 1, 1), _26001=(5, 5, 5, 5))
    )


def unknown_instance(picture: Path, annotation: Path) -> None:
    add_picture(picture.parents[3], "val", "bonn_000000_000019", street(_65535=(0, 0, 1, 1)))


def empty(picture: Path, annotation: Path) -> None:
    picture.unlink()
    annotation.unlink()


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (
            lose_annotation,
            r"gtFine_instanceIds\.png: no such file; 1 of 1 pictures .* no annotation",
        ),
        (lose_picture, r"bonn_000000_000019_gtFine_instanceIds\.png: 1 of 2 annotations .* no picture"),
        (shrink, r"instanceIds\.png has 60 by 40 pixels, but its picture .*leftImg8bit\.png has 30 by 40"),
        (eight_bits, r"instanceIds\.png: pixels of mode L, where 16-bit grey values were expected"),
        (cut, r"instanceIds\.png: cannot be read as a PNG picture"),
        (write_text, r"instanceIds\.png: cannot be read as a PNG picture"),
        (unknown_label, r"instanceIds\.png: a pixel has the value 34; expected a label"),
        (unknown_instance, r"instanceIds\.png: a pixel has the value 65535; expected"),
        (empty, r"leftImg8bit/val: no pictures"),
    ],
)
def test_files_that_cannot_be_meant(data, cache, spoil, sentence):
    name = "bonn/bonn_000000_000019"
    spoil(
        data / "leftImg8bit" / "val" / f"{name}_leftImg8bit.png",
        data / "gtFine" / "val" / f"{name}_gtFine_instanceIds.png",
    )
    with pytest.raises(ValueError, match=sentence):
        read_split(data, "val")
    assert not cache.exists()
