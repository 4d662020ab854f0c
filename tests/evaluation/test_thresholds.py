"""Score thresholds by hand. In a row of detections each is right (it covers an object) or wrong."""

import numpy as np
import pytest

from maskrcnn.evaluation.image_matches import ImageMatches
from maskrcnn.evaluation.run import Evaluation
from maskrcnn.evaluation.thresholds import best_thresholds, score_thresholds


def image(*detections: tuple[int, float, bool], objects: dict[int, int]) -> ImageMatches:
    """Return an image: `detections` are label, score, and whether it is right; `objects` count labels."""
    gt_labels = np.repeat(list(objects), list(objects.values())).astype(int)
    ious = np.zeros((len(detections), len(gt_labels)))
    free = {label: iter(np.flatnonzero(gt_labels == label)) for label in objects}
    for i, (label, _, is_right) in enumerate(detections):
        if is_right:
            ious[i, next(free[label])] = 0.8
    return ImageMatches(
        image_id=1,
        scores=np.array([score for _, score, _ in detections]),
        labels=np.array([label for label, _, _ in detections], int),
        gt_labels=gt_labels,
        crowd=np.zeros(len(gt_labels), bool),
        ious=ious,
        detection_indices=np.arange(len(detections)),
        object_indices=np.arange(len(gt_labels)),
    )


def row(label: int, *scores: float, wrong: tuple[float, ...] = ()) -> list[tuple[int, float, bool]]:
    return [(label, score, score not in wrong) for score in scores]


def of(*detections: tuple[int, float, bool], objects: dict[int, int], ids=(10, 20)) -> tuple[float, ...]:
    ordered = sorted(detections, key=lambda detection: -detection[1])
    return best_thresholds([image(*ordered, objects=objects)], (10, 20), ids)


FIVE = row(0, 0.9, 0.8, 0.7, 0.6, 0.4, 0.3, wrong=(0.4,))  # F1 of 5 objects: 2/6, 4/7, 6/8, 8/9, 8/10, 10/11


def test_each_class_has_its_own_threshold():
    # Class 1, right at 0.5 and 0.45 of 5 objects, wrong at 0.35: F1 2/6, 4/7, 4/8
    other = row(1, 0.5, 0.45, 0.35, wrong=(0.35,))
    assert of(*FIVE, *other, objects={0: 5, 1: 5}) == pytest.approx((0.15, 0.4))


def test_a_threshold_lies_midway_between_the_last_kept_and_the_first_dropped_score():
    # F1 of 6 objects: 2/7, 4/8, 6/9, 8/10, 8/11, 8/12
    scores = row(0, 0.9, 0.8, 0.7, 0.6, 0.4, 0.3, wrong=(0.4, 0.3))
    assert of(*scores, objects={0: 6}) == pytest.approx((0.5, 0.5))


def test_of_equal_f1_the_highest_threshold_is_taken():
    # 1 of 1 is right, then 3 of 6: F1 of 5 objects 2/6 and 6/11; of 1 of 1 and 2 of 7: 2/6 and 4/12
    scores = row(0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, wrong=(0.8, 0.7, 0.6, 0.5, 0.4))
    assert of(*scores, objects={0: 5}) == pytest.approx((0.85, 0.85))


def test_classes_without_enough_objects_take_the_pooled_threshold():
    # Class 1 is wrong at 0.55 and right at 0.5: alone, half of 0.5. All 9 objects pooled: right at 0.9 … 0.6,
    # wrong, right at 0.5, wrong, right at 0.3: F1 2/10, 4/11, 6/12, 8/13, 8/14, 10/15, 10/16, 12/17
    rare = [(1, 0.55, False), (1, 0.5, True)]
    assert of(*FIVE, *rare, objects={0: 5, 1: 4}) == pytest.approx((0.15, 0.15))
    assert of(*FIVE, *rare, objects={0: 5, 1: 5}) == pytest.approx((0.15, 0.25))
    # Without objects: 2/6, 4/7, 6/8, 8/9, then wrong ones at 0.55, 0.4: 8/10, 8/11, 10/12
    assert of(*FIVE, (1, 0.55, False), objects={0: 5}) == pytest.approx((0.15, 0.575))
    assert of(*FIVE, (1, 0.55, False), objects={0: 5}, ids=(20, 30, 10)) == pytest.approx(
        (0.575, 0.575, 0.15)
    )


def test_a_class_without_a_right_detection_takes_the_pooled_threshold():
    found = row(0, 0.9, 0.8, 0.7)
    assert of(*found, (1, 0.5, False), objects={0: 5, 1: 5}) == pytest.approx((0.35, 0.6))


def test_thresholds_are_limited():
    assert of(*row(0, 0.99, 0.98, wrong=(0.98,)), objects={0: 5}) == (0.95, 0.95)
    assert of(*row(0, 0.06), objects={0: 5}) == (0.05, 0.05)


def test_where_nothing_is_right_there_are_no_thresholds():
    assert of((0, 0.9, False), objects={0: 5}) == ()
    assert of(objects={}) == ()
    assert best_thresholds([], (10, 20), (10, 20)) == ()


def square(x: int, side: int) -> list[list[int]]:
    return [[x, 0, x + side, 0, x + side, 20, x, 20]]


@pytest.mark.parametrize(("kinds", "threshold"), [(("bbox", "segm"), 0.7), (("bbox",), 0.25)])
def test_masks_decide_where_the_network_has_them(kinds, threshold):
    """At 0.5 boxes fit and masks do not: they cover a third."""
    places = [30 * i for i in range(5)]
    common = {"image_id": 1, "category_id": 7}
    objects = [
        common
        | {"id": i + 1, "bbox": [x, 0, 20, 20], "segmentation": square(x, 20), "area": 400, "iscrowd": 0}
        for i, x in enumerate(places)
    ]
    sides = [20, 20, 20, 6, 6]
    scores = [0.9, 0.9, 0.9, 0.5, 0.5]
    detections = [
        common | {"bbox": [x, 0, 20, 20], "segmentation": square(x, side), "score": score}
        for x, side, score in zip(places, sides, scores, strict=True)
    ]
    images = [{"id": 1, "width": 160, "height": 20, "file_name": "a.png"}]
    truth = {"images": images, "annotations": objects, "categories": [{"id": 7, "name": "a"}]}
    evaluation = Evaluation({kind: {} for kind in kinds}, detections, truth, 100, 0.1)
    assert score_thresholds(evaluation, (7,)) == pytest.approx((threshold,))
