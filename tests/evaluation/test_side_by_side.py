"""Truth and detections side by side: what the colours say, and where keypoints are."""

from itertools import combinations

import numpy as np
import pytest
from PIL import Image

from maskrcnn.evaluation.coco_format import to_rle
from maskrcnn.evaluation.errors import classify_errors
from maskrcnn.evaluation.image_matches import match_images
from maskrcnn.evaluation.side_by_side import (
    CROWD_COLOUR,
    MISSED_COLOUR,
    WRONG_COLOUR,
    pair_colour,
    side_by_side,
)

WIDTH, HEIGHT, FACTOR = 120, 80, 4  # drawn at 480 by 320


def square(x: float, y: float, category: int = 1, **more) -> dict:
    ring = [x, y, x + 20, y, x + 20, y + 20, x, y + 20]
    fields = {"image_id": 1, "category_id": category, "bbox": [x, y, 20, 20], "segmentation": [ring], **more}
    if "score" in fields:
        fields["segmentation"] = to_rle(fields, (HEIGHT, WIDTH))
    return fields


def drawn(tmp_path, objects: list[dict], detections: list[dict], by_masks: bool = True, **category):
    """The pixels of both sides, on black."""
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "1.png")
    categories = [{"id": 1, "name": "", **category}, {"id": 2, "name": "", **category}]
    images = [{"id": 1, "width": WIDTH, "height": HEIGHT}]
    truth = {"images": images, "annotations": objects, "categories": categories}
    [scene] = match_images(truth, detections, by_masks=by_masks)
    pair = side_by_side(
        tmp_path / "1.png", scene, classify_errors(scene), truth, detections, by_masks=by_masks
    )
    return [np.array(image).astype(int) for image in pair]


def at(pixels: np.ndarray, x: float, y: float) -> list[int]:
    """The colour that fills the square at x, y: masks are laid over black with an opacity of 0.45."""
    middle = pixels[int((y + 10) * FACTOR), int((x + 10) * FACTOR)]
    return (middle / 0.45).tolist()


def test_colours_say_what_found_what(tmp_path):
    objects = [square(0, 0), square(30, 0), square(60, 0), square(90, 50, iscrowd=1)]
    detections = [
        square(60, 0, score=0.9),  # of the third object
        square(0, 40, score=0.8),  # of nothing
        square(0, 0, score=0.7),  # of the first object
        square(30, 0, 2, score=0.6),  # of the wrong class
        square(90, 50, score=0.5),  # in the crowd
    ]
    truth_side, detection_side = drawn(tmp_path, objects, detections)
    near = {"abs": 30}  # edges and rounding
    assert at(truth_side, 60, 0) == pytest.approx(pair_colour(2), **near)
    assert at(detection_side, 60, 0) == pytest.approx(pair_colour(2), **near)
    assert at(truth_side, 0, 0) == pytest.approx(pair_colour(0), **near)
    assert at(detection_side, 0, 0) == pytest.approx(pair_colour(0), **near)
    assert at(truth_side, 30, 0) == pytest.approx(MISSED_COLOUR, **near)
    assert at(detection_side, 0, 40) == pytest.approx(WRONG_COLOUR, **near) == at(detection_side, 30, 0)
    assert at(truth_side, 90, 50) == pytest.approx(CROWD_COLOUR, **near)
    assert at(detection_side, 90, 50) == pytest.approx(CROWD_COLOUR, **near)


def test_no_pair_looks_like_what_has_no_partner():
    pairs = [pair_colour(number) for number in range(200)]
    for one in (WRONG_COLOUR, MISSED_COLOUR, CROWD_COLOUR):
        assert min(np.abs(np.subtract(one, pair)).max() for pair in pairs) > 60
    assert all(max(blue, green) == 255 > red for red, green, blue in pairs)
    for first, second in combinations(pairs[:4], 2):
        assert np.abs(np.subtract(first, second)).max() > 40


def test_keypoints_are_drawn_where_the_classes_have_them(tmp_path):
    # In the file's pixels 20 and 60, whose centres are drawn at 82 and 242; the third is not labelled.
    objects = [square(0, 40, keypoints=[20, 10, 2, 60, 10, 1, 100, 10, 0])]
    detections = [square(0, 40, score=0.9, keypoints=[20, 20, 3.5, 60, 20, 2.5, 100, 20, -4.0])]
    joints = {"keypoints": ["a", "b", "c"], "skeleton": [[1, 2], [2, 3]]}
    truth_side, detection_side = drawn(tmp_path, objects, detections, by_masks=False, **joints)
    for pixels, row in ((truth_side, 42), (detection_side, 82)):
        for column in (82, 242, 160):  # both ends, and between them on the limb
            assert pixels[row, column] == pytest.approx(np.array(pair_colour(0)), abs=70)
        assert pixels[row, 300:].max() < 30  # neither the third nor a limb to it
    truth_side, _ = drawn(tmp_path, objects, detections, by_masks=False)
    assert truth_side[42].max() < 30
