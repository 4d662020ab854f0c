"""The analysis of errors, by hand: boxes on one row, so that overlaps are ratios of lengths."""

import numpy as np
import pytest

from maskrcnn.evaluation import curves, errors
from maskrcnn.evaluation.coco import coco_metrics
from maskrcnn.evaluation.coco_format import to_rle
from maskrcnn.evaluation.image_matches import ImageMatches, match_images, object_counts
from maskrcnn.evaluation.matching import IGNORED, RECALLS, UNMATCHED

CATEGORIES = [{"id": 9, "name": "dog"}, {"id": 4, "name": "cat"}]  # labels: cat 0, dog 1
CAT, DOG = 4, 9


def obj(x: float, width: float, category: int = CAT, crowd: int = 0, image: int = 1) -> dict:
    return {"image_id": image, "category_id": category, "bbox": [x, 0, width, 10], "iscrowd": crowd}


def det(x: float, width: float, score: float, category: int = CAT, image: int = 1) -> dict:
    return {"image_id": image, "category_id": category, "bbox": [x, 0, width, 10], "score": score}


def truth_of(*annotations: dict, images: int = 1) -> dict:
    sizes = [{"id": i + 1, "height": 20, "width": 400, "file_name": f"{i + 1}.png"} for i in range(images)]
    return {"images": sizes, "annotations": list(annotations), "categories": CATEGORIES}


def scenes(truth: dict, *detections: dict, cap: int = 100) -> list[ImageMatches]:
    return match_images(truth, detections, by_masks=False, max_detections=cap)


def classified(truth: dict, *detections: dict) -> tuple[list[str | None], list[bool]]:
    image_errors = errors.classify_errors(scenes(truth, *detections)[0])
    return image_errors.types, image_errors.missed.tolist()


def test_overlap_is_that_of_the_boxes_and_of_a_crowd_the_share_inside():
    [scene] = scenes(truth_of(obj(0, 100), obj(0, 100, crowd=1)), det(50, 100, 0.9))
    assert scene.ious.tolist() == [[pytest.approx(50 / 150), 0.5]]


def test_right_detection_is_no_error():
    assert classified(truth_of(obj(0, 100)), det(0, 50, 0.9)) == ([None], [False])  # IoU 0.5: just enough


@pytest.mark.parametrize(
    ("detection", "kind", "missed"),
    [
        (det(0, 49, 0.9), "localisation", False),  # IoU 0.49
        (det(0, 10, 0.9), "localisation", False),  # IoU 0.1
        (det(0, 9, 0.9), "background", True),  # IoU 0.09
        (det(0, 50, 0.9, DOG), "class", False),
        (det(0, 49, 0.9, DOG), "both", True),  # TIDE: neither class nor place explains the object
        (det(0, 9, 0.9, DOG), "background", True),
        (det(200, 50, 0.9), "background", True),
    ],
)
def test_each_kind(detection: dict, kind: str, missed: bool):
    assert classified(truth_of(obj(0, 100)), detection) == ([kind], [missed])


def test_second_detection_of_an_object_is_a_duplicate():
    assert classified(truth_of(obj(0, 100)), det(0, 90, 0.6), det(0, 60, 0.9)) == (
        [None, "duplicate"],
        [False],
    )


def test_wrong_class_counts_before_a_poor_place():
    truth = truth_of(obj(0, 100, DOG), obj(70, 100, CAT))
    assert classified(truth, det(0, 100, 0.9)) == (["class"], [False, True])


def test_crowd_is_neither_found_nor_missed():
    truth = truth_of(obj(0, 100, crowd=1))
    assert classified(truth, det(20, 10, 0.9), det(40, 10, 0.8, DOG)) == ([None, "background"], [False])
    assert scenes(truth, det(20, 10, 0.9))[0].match().tolist() == [IGNORED]
    assert object_counts(scenes(truth), 2).tolist() == [0, 0]


def test_an_object_is_taken_before_a_crowd_ignores():
    truth = truth_of(obj(0, 100), obj(0, 200, crowd=1))
    assert scenes(truth, det(0, 100, 0.9), det(0, 100, 0.8))[0].match().tolist() == [0, IGNORED]


def test_matching_goes_from_the_surest_to_the_best_that_is_free():
    truth = truth_of(obj(0, 100), obj(20, 100))
    [scene] = scenes(truth, det(18, 100, 0.5), det(15, 100, 0.9), det(16, 100, 0.4))
    assert scene.detection_indices.tolist() == [1, 0, 2]
    assert scene.match().tolist() == [1, 0, UNMATCHED]


def test_counts_of_kinds():
    truth = truth_of(obj(0, 100), obj(200, 100))
    [scene] = scenes(truth, det(0, 100, 0.9), det(0, 95, 0.8), det(120, 20, 0.3))
    assert errors.classify_errors(scene).counts() == {"duplicate": 1, "background": 1, "missed": 1}


def test_threshold_takes_part_of_a_scene():
    [scene] = scenes(truth_of(obj(0, 100)), det(0, 100, 0.9), det(0, 90, 0.5), det(0, 80, 0.2))
    assert scene.above(0.5).scores.tolist() == [0.9, 0.5]
    assert scene.above(0.5).ious.shape == (2, 1)
    assert errors.classify_errors(scene.above(0.95)).counts() == {"missed": 1}


def test_best_threshold_by_hand():
    # right, wrong, right, wrong, wrong of 3 objects: F1 = 2/4, 2/5, 4/6, 4/7, 4/8
    truth = truth_of(obj(0, 20), obj(50, 20), obj(100, 20))
    images = scenes(
        truth, det(0, 20, 0.9), det(200, 20, 0.8), det(50, 20, 0.7), det(250, 20, 0.6), det(300, 20, 0.5)
    )
    pooled = curves.pool(images, 2)
    assert curves.best_threshold(pooled) == pytest.approx(0.65)  # midway to the next score
    assert curves.operating_point(pooled, 0.7) == (
        0.7,
        pytest.approx(2 / 3),
        pytest.approx(2 / 3),
        pytest.approx(2 / 3),
    )
    right, wrong = curves.score_histogram(pooled, bins=2)
    assert (right.tolist(), wrong.tolist()) == ([0, 2], [0, 3])


def test_equal_scores_are_taken_together():
    # right at 0.9, then two wrong and a right one at 0.5: 1 of 1 or 2 of 4: F1 2/3 and 4/6
    truth = truth_of(obj(0, 20), obj(50, 20))
    tied = [det(50, 20, 0.5), det(200, 20, 0.5), det(250, 20, 0.5)]
    images = scenes(truth, det(0, 20, 0.9), *tied)
    assert curves.best_threshold(curves.pool(images, 2)) == pytest.approx(0.7)


def test_nothing_right_has_no_best_threshold():
    for images in (scenes(truth_of(obj(0, 20))), scenes(truth_of(), det(0, 20, 0.9)), []):
        pooled = curves.pool(images, 2)
        assert curves.best_threshold(pooled) is None
        assert curves.operating_point(pooled, 0.5)[1:] == (0, 0, 0)


def test_confusion_by_hand():
    truth = truth_of(obj(0, 20), obj(50, 20), obj(100, 20, DOG), obj(150, 20, DOG), obj(200, 100, crowd=1))
    images = scenes(
        truth,
        det(0, 20, 0.5),  # cat, right, although the next one is surer
        det(0, 20, 0.9, DOG),  # dog where only a taken cat is: background
        det(50, 20, 0.8, DOG),  # dog for cat
        det(100, 20, 0.7, DOG),  # right
        det(350, 20, 0.6),  # cat in the background
        det(210, 20, 0.6),  # in the crowd of cats: not counted
    )
    # rows: predicted cat, dog, missed; columns: object is cat, dog, background
    assert errors.confusion_matrix(images, 2).tolist() == [[1, 0, 1], [1, 1, 1], [0, 1, 0]]


def test_precision_recall_gives_cocos_ap():
    rng = np.random.default_rng(0)
    annotations, detections = [], []
    for image in range(1, 9):
        for _ in range(rng.integers(0, 7)):
            x, width, category = rng.uniform(0, 300), rng.uniform(20, 90), int(rng.choice([CAT, DOG]))
            annotations.append(obj(x, width, category, int(rng.random() < 0.2), image))
            for _ in range(rng.integers(0, 3)):
                moved = x + rng.normal(0, 0.15) * width
                detections.append(det(moved, width, round(rng.random(), 1), category, image))
    truth = truth_of(*annotations, images=8)
    truth["categories"] = [*CATEGORIES, {"id": 1, "name": "never"}]
    for cap in (1, 2, 100):
        images = scenes(truth, *detections, cap=cap)
        metrics = coco_metrics(truth, detections, ["bbox"], cap)["bbox"]
        for iou, name in ((0.5, "AP50"), (0.75, "AP75")):
            precision = curves.precision_recall(curves.pool(images, 3, iou))
            assert precision.shape == (3, len(RECALLS))
            assert np.isnan(precision[0]).all()  # a class without examples
            assert 100 * np.nanmean(precision) == pytest.approx(metrics[name], abs=1e-9)


def test_masks_overlap_as_masks():
    square = [[0, 0, 10, 0, 10, 10, 0, 10]]
    half = {"size": [20, 400], "counts": [0, 10, 10, 10, 10, 10, 10, 10, 10, 10, 20 * 400 - 90]}  # 5 columns
    truth = truth_of(obj(0, 10) | {"segmentation": square}, obj(50, 10), obj(0, 5) | {"segmentation": half})
    detection = det(0, 10, 0.9) | {"segmentation": to_rle(truth["annotations"][0], (20, 400))}
    [scene] = match_images(truth, [detection], by_masks=True)
    assert scene.ious.tolist() == [[1.0, 0.0, 0.5]]
    assert scene.crowd.tolist() == [False, True, False]  # what has no mask is neither found nor missed


def test_detections_of_unknown_pictures_are_refused_and_of_unknown_classes_left_out():
    with pytest.raises(
        ValueError, match="1 of 1 detections have an image_id that the ground truth does not list: 5"
    ):
        scenes(truth_of(), det(0, 10, 0.9, image=5))
    assert len(scenes(truth_of(), det(0, 10, 0.9, category=77))[0].scores) == 0


def test_images_at_a_limit():
    cats, dogs = [det(0, 10, 0.9)] * 2, [det(0, 10, 0.9, DOG, image=2)] * 3
    assert errors.count_truncated_images(cats + dogs, 100) == 0
    assert errors.count_truncated_images(cats + dogs, 3) == 1  # image 2 is full
    assert errors.count_truncated_images(cats + dogs, 3, capacity=2) == 2
    assert errors.count_truncated_images(cats + dogs, 3, capacity=100) == 0  # 3 of 3: none was cut off
    assert errors.count_truncated_images(cats + dogs, 2, capacity=100) == 1  # 3 of one class, where 2 count
