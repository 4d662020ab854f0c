import json
import math

import numpy as np
import pytest
from PIL import Image, ImageDraw

from maskrcnn.data.readers.coco import read_coco
from maskrcnn.plan.fingerprint import fingerprint, has_brighter_bands


def rectangle(x, y, width, height):
    return [x, y, x + width, y, x + width, y + height, x, y + height]


@pytest.fixture
def data(tmp_path):
    """Write pictures of 40 x 60 px with the given (label, polygon, crowd) objects; return the data set."""

    def write(pictures, classes=2, draw=None):
        images, annotations = [], []
        for number, objects in enumerate(pictures, start=1):
            image = Image.new("RGB", (60, 40), (90, 90, 90))
            if draw:
                draw(ImageDraw.Draw(image), number)
            image.save(tmp_path / f"{number}.png")
            images.append({"id": number, "file_name": f"{number}.png", "height": 40, "width": 60})
            for label, ring, crowd in objects:
                x, y = np.array(ring).reshape(-1, 2).T
                box = [min(x), min(y), max(x) - min(x), max(y) - min(y)]
                entry = {"id": len(annotations) + 1, "image_id": number, "category_id": label}
                entry |= {"bbox": [float(value) for value in box], "segmentation": [ring], "iscrowd": crowd}
                annotations.append(entry)
        categories = [{"id": label + 1, "name": f"class {label}"} for label in range(classes)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (tmp_path / "a.json").write_text(json.dumps(content))
        return read_coco(tmp_path / "a.json", tmp_path)

    return write


def test_numbers_by_hand(data):
    square, long = rectangle(10, 10, 9, 9), rectangle(0, 20, 16, 4)  # the second touches the border
    triangle = [30, 10, 38, 10, 30, 18]  # area 32, box 8 x 8
    crowd = rectangle(0, 0, 59, 39)
    got = fingerprint(data([[(1, square, 0), (1, long, 0), (1, crowd, 1)], [(2, triangle, 0)], []]))
    assert (got.pictures, got.size_hw, got.longest_side) == (3, (40, 60), 60)
    assert got.classes == (2, 1) and got.is_grey and got.white is None and got.keypoints == 0
    objects = got.objects
    assert objects.count == 3 and objects.in_a_picture == (1.0, np.percentile([2, 1, 0], 99), 2.0)
    sides = [9.0, 8.0, math.sqrt(32)]
    assert objects.sides == pytest.approx(np.percentile(sides, (5, 10, 50, 95, 99)))
    assert objects.share_square == pytest.approx(2 / 3) and objects.share_long == pytest.approx(1 / 3)
    assert objects.truncated == pytest.approx(1 / 3) and objects.overlap == 0.0
    assert got.class_pictures == (1, 1) and objects.whole == 1  # the square, and the triangle
    assert objects.cover == pytest.approx(32 / 2400)  # of 145, 32 and 0 px


def test_the_overlap_is_that_of_the_nearest_of_the_same_class(data):
    boxes = [
        (1, rectangle(0, 0, 10, 10), 0),
        (1, rectangle(5, 0, 10, 10), 0),
        (2, rectangle(0, 0, 10, 10), 0),
    ]
    assert fingerprint(data([boxes])).objects.overlap == pytest.approx(50 / 150)


def test_the_pictures_of_a_class_and_its_whole_masks(data):
    inside, cut, crowd = rectangle(10, 10, 9, 9), rectangle(0, 0, 9, 9), rectangle(20, 20, 5, 5)
    pictures = [[(2, inside, 0), (2, crowd, 0), (1, cut, 0)], [(2, inside, 0), (1, inside, 0)], [(2, cut, 0)]]
    got = fingerprint(data([*pictures, [(3, crowd, 1)]], classes=3))
    assert got.class_pictures == (2, 3, 0) and got.objects.whole == 3


def bar(angle, length=16, width=4):
    along, across = (
        np.array([math.cos(angle), math.sin(angle)]),
        np.array([-math.sin(angle), math.cos(angle)]),
    )
    corners = [
        sign * length / 2 * along + side * width / 2 * across
        for sign, side in ((-1, -1), (1, -1), (1, 1), (-1, 1))
    ]
    return (np.array(corners) + np.array([30, 20])).ravel().round(3).tolist()


def test_pictures_without_up_have_bars_in_all_directions(data):
    angles = np.linspace(0, math.pi, 80, endpoint=False)
    assert not fingerprint(data([[(1, bar(angle), 0)] for angle in angles])).has_up
    assert fingerprint(data([[(1, bar(math.pi / 2 + 0.1 * math.sin(9 * n)), 0)] for n in angles])).has_up
    assert fingerprint(data([[(1, bar(angle), 0)] for angle in angles[::4]])).has_up  # too few to say so


def test_a_bright_sky_means_up(data):
    pictures = [[(1, bar(angle), 0)] for angle in np.linspace(0, math.pi, 80, endpoint=False)]

    def sky(canvas, number):
        canvas.rectangle((0, 0, 59, 8), fill=(200 + number % 20,) * 3)

    assert fingerprint(data(pictures, draw=sky)).has_up


def test_bands_need_four_standard_errors():
    noise = np.random.default_rng(0).normal(0, 10, (64, 8))
    assert not has_brighter_bands(noise)
    noise[:, 0] += 10  # eight standard errors
    assert has_brighter_bands(noise) and not has_brighter_bands(noise[:7])


def test_colour_is_seen(data):
    def colour(canvas, number):
        canvas.rectangle((0, 0, 30, 39), fill=(200, 20, 20))

    got = fingerprint(data([[(1, rectangle(1, 1, 9, 9), 0)]], draw=colour))
    assert not got.is_grey and got.share_grey == 0


def test_the_share_of_grey_pictures(data):
    def colour_one(canvas, number):
        if number == 2:
            canvas.rectangle((0, 0, 30, 39), fill=(200, 20, 20))

    got = fingerprint(data([[(1, rectangle(1, 1, 9, 9), 0)]] * 4, draw=colour_one))
    assert got.share_grey == 0.75 and not got.is_grey


def test_masks_without_area_have_a_side_of_one_pixel(data):
    bow_tie = [10, 10, 20, 20, 20, 10, 10, 20]  # its halves cancel each other
    assert fingerprint(data([[(1, bow_tie, 0)]])).objects.sides == (1.0,) * 5


def test_nothing_to_learn_from_is_a_sentence(data):
    with pytest.raises(ValueError, match=r"a\.json: there are no objects to learn from"):
        fingerprint(data([[(1, rectangle(0, 0, 9, 9), 1)], []]))
