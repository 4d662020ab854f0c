from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from maskrcnn.results.draw import colour, draw
from maskrcnn.results.result import Result
from maskrcnn.types import Metadata


def _result(boxes: list[list[float]], size_hw: tuple[int, int], **changes: object) -> Result:
    n = len(boxes)
    fields = {
        "boxes": np.array(boxes, np.float32).reshape(n, 4),
        "scores": np.full(n, 0.87, np.float32),
        "labels": np.zeros(n, int),
        "size_hw": size_hw,
        "metadata": Metadata(("cell",), (1,)),
        "mask_probs": np.ones((n, 28, 28), np.float32),
    }
    return Result(**{**fields, **changes})


GREY = np.full((400, 600, 3), 100, np.uint8)


def test_only_the_mask_is_coloured_and_only_its_rim_is_solid() -> None:
    drawn = np.array(draw(GREY, _result([[200, 100, 300, 250]], (400, 600)), opacity=0.5))
    ink = np.array(colour(0))
    assert np.array_equal(drawn[175, 250], (100 * 0.5 + ink * 0.5).astype(np.uint8))
    for corner in ((100, 200), (100, 299), (249, 200), (249, 299)):
        assert np.array_equal(drawn[corner], ink)
    changed = (drawn != 100).any(-1)
    assert changed[100:250, 200:300].all()
    changed[100:250, 200:300] = False
    rows, columns = np.nonzero(changed)  # what is left is the label, on top of its box
    assert rows.min() > 75
    assert rows.max() == 99
    assert columns.min() == 200


@pytest.mark.parametrize("make", [np.array, Image.fromarray])
def test_the_picture_handed_in_stays_as_it_was(make: Callable) -> None:
    picture = make(GREY)
    for probs in (None, np.ones((1, 28, 28), np.float32)):
        drawn = draw(picture, _result([[200, 100, 300, 250]], (400, 600), mask_probs=probs))
        assert (np.array(drawn) != 100).any()
        assert (np.array(picture) == 100).all()


def test_a_hole_stays_clear() -> None:
    probs = np.ones((1, 28, 28), np.float32)
    probs[0, 10:18, 10:18] = 0
    drawn = np.array(draw(GREY, _result([[100, 100, 380, 380]], (400, 600), mask_probs=probs)))
    assert (drawn[240, 240] == 100).all()
    assert (drawn[240, 190:210] == colour(0)).all(-1).any()  # and has an outline


@pytest.mark.parametrize("size_hw", [(64, 64), (480, 640), (30, 700), (3000, 4000)])
def test_labels_are_whole_at_every_size(size_hw: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    height, width = size_hw
    boxes = [
        [0, 0, width / 9, height / 9],
        [width * 0.9, height * 0.9, width, height],
        [width * 0.95, 0, width, 9],
    ]
    labels = _watch_labels(monkeypatch)
    image = draw(Image.new("RGB", (width, height)), _result(boxes, size_hw, mask_probs=None))
    assert image.size[0] % width == 0
    assert max(image.size) >= 480
    assert len(labels) >= (3 if height > 30 else 1)
    for left, top, right, bottom in labels:
        assert 0 <= left < right <= image.size[0] - 1
        assert 0 <= top < bottom <= image.size[1] - 1
        assert bottom - top >= max(image.size) / 50


def _watch_labels(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    import maskrcnn.results.draw

    placed, place = [], maskrcnn.results.draw._free_place

    def watched(*arguments: object) -> object:
        found = place(*arguments)
        if found is not None:
            placed.append(found)
        return found

    monkeypatch.setattr(maskrcnn.results.draw, "_free_place", watched)
    return placed


def test_labels_never_cover_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = _watch_labels(monkeypatch)
    draw(GREY, _result([[200, 100, 300, 250]] * 40, (400, 600), mask_probs=None))
    assert 5 <= len(labels) < 40
    for i, a in enumerate(labels):
        for b in labels[:i]:
            assert a[0] >= b[2] or b[0] >= a[2] or a[1] >= b[3] or b[1] >= a[3]


def test_a_label_larger_than_its_object_stands_beside_all_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = _watch_labels(monkeypatch)
    row = [[x, 200, x + 20, 220] for x in range(0, 600, 25)]  # the label of one would cover three
    boxes = [[100, 20, 400, 180], *row, *([x, y + 25, x2, y2 + 25] for x, y, x2, y2 in row)]
    draw(GREY, _result(boxes, (400, 600), mask_probs=None))
    assert len(labels) >= 3  # the large one's, and of those on the rows' outer sides
    for left, top, right, bottom in labels[1:]:
        assert not any(left < x2 and x < right and top < y2 and y < bottom for x, y, x2, y2 in boxes)


def test_long_names_are_cut_and_keep_their_score(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = _watch_labels(monkeypatch)
    narrow = np.zeros((600, 200, 3), np.uint8)
    draw(
        narrow, _result([[190, 50, 200, 65]], (600, 200), metadata=Metadata(("very long\nname " * 50,), (1,)))
    )
    [(left, _, right, _)] = labels
    assert left >= 0
    assert 150 < right <= 199


def test_small_objects_lie_on_large_ones() -> None:
    result = _result([[290, 190, 310, 210], [100, 100, 500, 390]], (400, 600))
    drawn = np.array(draw(GREY, result, opacity=1.0))
    assert np.array_equal(drawn[200, 300], colour(0))
    assert np.array_equal(drawn[350, 300], colour(1))


def test_keypoints_and_limbs() -> None:
    keypoints = np.array([[[150, 100, 1], [450, 100, 1], [300, 300, -1]]], np.float32)
    result = _result([[100, 50, 500, 350]], (400, 600), keypoints=keypoints, mask_probs=None)
    drawn = np.array(draw(GREY, result, skeleton=[(0, 1), (1, 2)]))
    assert np.array_equal(drawn[100, 300], colour(0))
    assert np.array_equal(drawn[100, 450], colour(0))
    assert (drawn[300, 300] == 100).all()  # too unsure
    assert (drawn[200, 375] == 100).all()
    tenth = keypoints / np.array([10, 10, 1], np.float32)
    result = _result([[10, 5, 50, 35]], (40, 60), keypoints=tenth, mask_probs=None)
    small = draw(GREY[::10, ::10].copy(), result)
    assert small.size == (480, 320)
    assert np.array_equal(np.array(small)[80, 120], colour(0))


def test_nothing_found_draws_nothing() -> None:
    for result in (_result([], (400, 600)), _result([], (400, 600), mask_probs=None)):
        assert np.array_equal(np.array(draw(GREY, result)), GREY)
    assert draw(GREY[:40, :60].copy(), _result([], (40, 60)), least_side=1).size == (60, 40)


def test_boxes_of_no_visible_pixel_and_boxes_beyond_the_picture() -> None:
    boxes = [[5.1, 5.1, 5.3, 5.3], [-20, -20, 700, 500], [600, 400, 600, 400]]
    assert draw(GREY, _result(boxes, (400, 600))).size == (600, 400)


def test_a_picture_of_another_size_is_refused() -> None:
    with pytest.raises(
        ValueError, match="400 rows and 600 columns, but the result is of one with 600 and 400"
    ):
        draw(GREY, _result([], (600, 400)))


def test_colours_can_be_given() -> None:
    result = _result([[290, 190, 310, 210], [100, 100, 500, 390]], (400, 600))
    drawn = np.array(draw(GREY, result, opacity=1.0, colours=[(255, 0, 7), (0, 255, 9)]))
    assert drawn[200, 300].tolist() == [255, 0, 7] and drawn[350, 300].tolist() == [0, 255, 9]
    assert (drawn[100, 200:400] == (0, 255, 9)).all()  # and the box


def test_neighbouring_colours_differ() -> None:
    colours = np.array([colour(i) for i in range(40)])
    assert len(np.unique(colours, axis=0)) == 40
    for step in (1, 2, 3):
        assert np.abs(colours[step:] - colours[:-step]).max(1).min() > 60


def test_a_score_that_is_no_number_is_not_written() -> None:
    with_score, without = (
        draw(
            np.zeros((90, 200, 3), np.uint8),
            _result([[20, 30, 180, 80]], (90, 200), scores=np.array([score], np.float32)),
            least_side=1,
        )
        for score in (1.0, float("nan"))
    )
    assert np.asarray(without).sum() < np.asarray(with_score).sum()
