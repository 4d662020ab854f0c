"""Validation pictures of a run: which are drawn, what is seen on them, which are kept."""

import numpy as np
import pytest
from PIL import Image

from maskrcnn.evaluation.coco_format import to_rle
from maskrcnn.evaluation.run import Evaluation
from maskrcnn.evaluation.side_by_side import WRONG_COLOUR, pair_colour
from maskrcnn.training.snapshots import (
    Snapshot,
    draw_snapshots,
    forget_after,
    keep_snapshots,
    read_snapshots,
    spread,
)

SIDE = 90  # px of a picture; drawn at 360


def square(image: int, x: int, category: int = 7, **more) -> dict:
    fields = {"image_id": image, "category_id": category, "bbox": [x, 30, 30, 30], **more}
    ring = [x, 30, x + 30, 30, x + 30, 60, x, 60]
    return fields | {"segmentation": to_rle(fields | {"segmentation": [ring]}, (SIDE, SIDE))}


def evaluation(objects: list[dict], detections: list[dict], images: int = 1) -> Evaluation:
    sizes = [{"id": i, "width": SIDE, "height": SIDE} for i in range(images)]
    categories = [{"id": 9, "name": "b"}, {"id": 7, "name": "a"}]
    truth = {"images": sizes, "annotations": objects, "categories": categories}
    return Evaluation({"bbox": {}, "segm": {}}, detections, truth, 100, 0.1)


@pytest.fixture
def paths(tmp_path):
    files = {i: tmp_path / f"{i}.png" for i in range(9)}
    for file in files.values():
        Image.new("RGB", (SIDE, SIDE)).save(file)
    return files


def filled(drawing: Image.Image, x: int) -> list[float]:
    """Return the colour that fills the square at x: masks are laid over black with an opacity of 0.45."""
    assert drawing.size == (360, 360)
    return (np.array(drawing)[4 * 45, 4 * (x + 15)] / 0.45).tolist()


def test_a_detection_has_the_colour_of_its_object_and_a_wrong_one_is_red(paths):
    objects = [square(0, 0), square(0, 30)]
    detections = [square(0, 30, score=0.9), square(0, 60, score=0.8)]
    [shown] = draw_snapshots(evaluation(objects, detections), paths, {})
    near = {"abs": 30}
    assert filled(shown.truth, 0) == pytest.approx(pair_colour(0), **near)
    assert filled(shown.truth, 30) == pytest.approx(pair_colour(1), **near)
    assert filled(shown.truth, 60) == filled(shown.detections, 0) == [0, 0, 0]
    assert filled(shown.detections, 30) == pytest.approx(pair_colour(1), **near)
    assert filled(shown.detections, 60) == pytest.approx(WRONG_COLOUR, **near)


def test_each_class_is_shown_from_its_threshold_on(paths):
    detections = [square(0, 0, 7, score=0.6), square(0, 30, 9, score=0.55), square(0, 60, 9, score=0.45)]

    def seen(thresholds):
        [shown] = draw_snapshots(evaluation([square(0, 0)], detections), paths, thresholds)
        return [any(filled(shown.detections, x)) for x in (0, 30, 60)]

    assert seen({}) == [True, True, False]  # 0.5 for all
    assert seen({7: 0.7, 9: 0.4}) == [False, True, True]
    assert seen({9: 0.58}) == [True, False, False]


@pytest.mark.parametrize(
    ("with_objects", "shown"),
    [
        (range(9), ["0", "2", "4", "6"]),
        ([1, 3, 5, 6, 8], ["1", "3", "5", "6"]),
        ([4], ["4"]),
        ([], ["0", "2", "4", "6"]),
    ],
)
def test_pictures_with_objects_are_chosen_at_equal_distances(paths, with_objects, shown):
    objects = [square(image, 0) for image in with_objects]
    snapshots = draw_snapshots(evaluation(objects, [square(8, 0, score=0.9)], images=9), paths, {})
    assert [snapshot.name for snapshot in snapshots] == [f"{name}.png" for name in shown]


def test_no_validation_pictures_give_no_snapshots(paths):
    assert draw_snapshots(evaluation([], [], images=0), paths, {}) == []


def snapshot(value: int, name: str = "a.png") -> Snapshot:
    return Snapshot(name, Image.new("RGB", (8, 8), (0, 0, 255)), Image.new("RGB", (8, 8), (value,) * 3))


def grey(path) -> int:
    return int(np.array(Image.open(path)).mean().round())


def test_what_is_kept_is_read(tmp_path):
    folder = tmp_path / "pictures"
    names = ["<b>.png", "../b.png"]
    for step, value in ((20, 20), (100, 100), (3, 3)):
        keep_snapshots(folder, [snapshot(value, names[0]), snapshot(value + 50, names[1])], step)
    first, second = read_snapshots(folder)
    assert (first.name, second.name) == tuple(names)
    assert list(first.detections) == [3, 20, 100]
    assert [grey(path) for path in first.detections.values()] == pytest.approx([3, 20, 100], abs=2)
    assert [grey(path) for path in second.detections.values()] == pytest.approx([53, 70, 150], abs=2)
    assert grey(first.truth) == 85


def test_few_evaluations_are_kept_and_later_ones_forgotten(tmp_path):
    for step in range(10, 210, 10):
        keep_snapshots(tmp_path, [snapshot(0)], step)
    [kept] = read_snapshots(tmp_path)
    steps = list(kept.detections)
    assert (len(steps), steps[0], steps[-1]) == (6, 10, 200)
    assert np.diff(steps).max() <= 4 * np.diff(steps).min()
    assert len(list(tmp_path.glob("*.jpg"))) == 7
    forget_after(tmp_path, steps[2])
    [kept] = read_snapshots(tmp_path)
    assert list(kept.detections) == steps[:3] and kept.truth.is_file()


def test_spread_leaves_out_those_between_the_closest_neighbours():
    assert spread([1, 2, 3], 3) == [1, 2, 3]
    assert spread([10, 20, 30, 50], 3) == [10, 30, 50]
    assert spread([0, 40, 50, 100], 3) == [0, 50, 100]
    assert spread([], 3) == []


def test_a_folder_of_anything_else_has_no_snapshots(tmp_path):
    assert read_snapshots(tmp_path / "none") == []
    keep_snapshots(tmp_path, [snapshot(0)], 5)
    for text in ("", "{}", "[" * 100_000, "7"):
        (tmp_path / "names.json").write_text(text)
        assert read_snapshots(tmp_path) == []
    forget_after(tmp_path / "none", 0)
