"""The worst pictures are drawn, sound objects and faulty ones in different colours."""

import json

import numpy as np
import pytest
from PIL import Image

from maskrcnn.data.doctor import draw
from maskrcnn.data.doctor.check import check_splits, open_splits
from maskrcnn.data.doctor.draw import draw_worst
from maskrcnn.data.doctor.findings import Report

GREY = 90
SOUND, ERROR, WARNING = (110, 200, 255), (255, 60, 60), (255, 190, 0)


def square(id_, image_id, x, side=16, **values):
    ring = [x, x, x + side, x, x + side, x + side, x, x + side]
    box = {"id": id_, "image_id": image_id, "category_id": 1, "bbox": [x, x, side, side], "iscrowd": 0}
    return {**box, "area": side * side, "segmentation": [ring], **values}


@pytest.fixture
def report_on(tmp_path):
    """Write a data set of one split; return its splits and the report on it."""

    def write(annotations, names=("a.png",), **image):
        (tmp_path / "train").mkdir(exist_ok=True)
        (tmp_path / "annotations").mkdir(exist_ok=True)
        images = []
        for number, name in enumerate(names, 1):
            Image.new("L", (64, 64), GREY).save(tmp_path / "train" / name)
            images.append({"id": number, "file_name": name, "height": 64, "width": 64, **image})
        content = {"images": images, "categories": [{"id": 1, "name": "cat"}], "annotations": annotations}
        (tmp_path / "annotations" / "instances_train.json").write_text(json.dumps(content))
        report = Report()
        splits = open_splits(tmp_path, report)
        return splits, check_splits(splits, report)

    return write


def pixels(path):
    return np.asarray(Image.open(path))


def test_objects_are_marked_by_their_findings(report_on, tmp_path, monkeypatch):
    labels = []
    monkeypatch.setattr(draw, "draw_labels", lambda *arguments: labels.extend(arguments[2]))
    negative = square("seven", 1, 40, bbox=[40, 56, 16, -16])
    corners = square(8, 1, 22, bbox=[22, 22, 38, 38])
    [path] = draw_worst(*report_on([square(1, 1, 2), negative, corners]), tmp_path / "out")
    assert path == tmp_path / "out" / "01_train_a.png"
    drawn = pixels(path)
    assert drawn.shape == (640, 640, 3)  # 10 px for each of the picture's
    outlines = {(2, 10): SOUND, (40, 45): ERROR, (22, 30): WARNING}  # x and y on the left side of each
    for (x, y), ink in outlines.items():
        assert tuple(drawn[10 * y, 10 * x]) == ink
    # the mask is the picture's grey under a third of the ink; elsewhere the picture is as it was
    inside = drawn[100, 100].astype(float)
    np.testing.assert_allclose(inside, 0.65 * GREY + 0.35 * np.array(SOUND), atol=2)
    assert tuple(drawn[5, 600]) == (GREY,) * 3
    assert {text for text, _ in labels if text} == {"seven: negative box", "8: corner box"}


def test_run_lengths_of_any_size_and_hostile_values_are_drawn(report_on, tmp_path):
    rle = {"size": [32, 64], "counts": [0, 2048]}  # the upper half is all that it covers
    annotations = [square(1, 1, 8, segmentation=rle), square(2, 1, 8, bbox=[1e308, -1e308, 1e308, 5])]
    annotations += [square(3, 1, 8, segmentation=[[1e300, -1e300, 5, 5, 9, 9]]), square(4, 1, 8, bbox="x")]
    annotations += [square(5, 1, 8, segmentation={"size": [2**20, 2**20], "counts": [2**40 - 1, 1]})]
    annotations += [square(6, 1, 8, segmentation={"size": [9], "counts": 3}), {"image_id": 1}]
    [path] = draw_worst(*report_on(annotations), tmp_path / "out")
    drawn = pixels(path).astype(int)
    assert (drawn[300, 600] != GREY).any() and (drawn[400, 600] == GREY).all()


def test_errors_come_first_names_are_safe_and_the_number_is_bounded(report_on, tmp_path, monkeypatch):
    monkeypatch.setattr(draw, "_DRAWN", 3)
    names = ["sound.png", "a b;$(c).png", "two.png", "three.png", "four.png"]
    warned = [square(i, i, 8, area=str(i)) for i in (2, 3, 4)]
    failed = [square(9, 5, 8, bbox=[8, 8, -1, 5]), square(10, 3, 30, area="4")]
    paths = draw_worst(*report_on([square(1, 1, 8), *warned, *failed], names), tmp_path / "out")
    assert [path.name for path in paths] == ["01_train_four.png", "02_train_two.png", "03_train_a_b_c_.png"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(p.name for p in paths)


def test_pictures_that_cannot_be_read_are_not_drawn(report_on, tmp_path):
    splits, report = report_on([square(1, 1, 8, bbox=[8, 8, -1, 5])])
    (tmp_path / "train" / "a.png").write_bytes(b"")
    assert draw_worst(splits, report, tmp_path / "out") == [] and not (tmp_path / "out").exists()


def test_a_finding_of_the_whole_picture_stands_above_it(report_on, tmp_path, monkeypatch):
    labels = []
    monkeypatch.setattr(draw, "draw_labels", lambda *arguments: labels.extend(arguments[2]))
    [path] = draw_worst(*report_on([square(1, 1, 8)], width=50), tmp_path / "out")
    assert labels == [("picture size", "")]
    drawn = pixels(path)
    assert drawn.shape == (680, 640, 3) and (drawn[45, 5] == GREY).all() and not drawn[:40].any()


def test_a_tiny_box_has_its_label_at_the_mask(report_on, tmp_path, monkeypatch):
    places = []
    monkeypatch.setattr(draw, "draw_labels", lambda *arguments: places.extend(arguments[1]))
    draw_worst(*report_on([square(1, 1, 32, bbox=[0.5, 0.5, 0.25, 0.25])]), tmp_path / "out")
    assert places == [(5, 5, 480, 480)]
