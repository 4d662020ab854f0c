"""LVIS' rules by hand, and its AP worked out plainly on random scenes."""

import copy

import numpy as np
import pytest

from maskrcnn.evaluation.coco import coco_metrics
from maskrcnn.evaluation.lvis import lvis_metrics
from maskrcnn.evaluation.tables import metrics_tables

FREQUENCIES = "rcf"
HERE, THERE = [10, 10, 40, 40], [80, 60, 40, 40]


def picture(number: int, neg: tuple = (), not_exhaustive: tuple = ()) -> dict:
    return {
        "id": number,
        "height": 120,
        "width": 160,
        "neg_category_ids": list(neg),
        "not_exhaustive_category_ids": list(not_exhaustive),
    }


def thing(image: int, category: int, box: list, **more) -> dict:
    x, y, w, h = box
    outline = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    return {"image_id": image, "category_id": category, "bbox": box, "segmentation": outline, **more}


def detection(image: int, category: int, box: list, score: float) -> dict:
    from pycocotools import mask

    one = thing(image, category, box, score=score)
    rle = mask.frPyObjects(one["segmentation"], 120, 160)[0]
    return one | {"segmentation": {"size": rle["size"], "counts": rle["counts"].decode()}}


def lvis(images: list[dict], annotations: list[dict], classes: int = 3) -> dict:
    categories = [
        {"id": i + 1, "name": f"class {i + 1}", "frequency": FREQUENCIES[i]} for i in range(classes)
    ]
    return {"images": images, "annotations": annotations, "categories": categories}


def ap(truth: dict, detections: list[dict]) -> float:
    metrics = lvis_metrics(truth, detections)
    assert metrics["bbox"]["AP"] == pytest.approx(metrics["segm"]["AP"])
    return metrics["bbox"]["AP"]


@pytest.mark.parametrize(
    ("second", "expected"),
    [
        (picture(2), 100),  # nobody looked for class 1: the detection does not count
        (picture(2, neg=(2,)), 100),
        (picture(2, neg=(1,)), 50),  # there is none of it: the surest detection is wrong, precision 1/2
        (picture(2, neg=(1,), not_exhaustive=(2,)), 50),
    ],
)
def test_only_pictures_that_were_searched_count(second, expected):
    truth = lvis([picture(1), second], [thing(1, 1, HERE)])
    detections = [detection(2, 1, HERE, 0.9), detection(1, 1, HERE, 0.5)]
    assert ap(truth, detections) == pytest.approx(expected)
    assert coco_metrics(truth, detections, ["bbox"])["bbox"]["AP"] == pytest.approx(50)


@pytest.mark.parametrize(("not_exhaustive", "expected"), [((), 50), ((1,), 100), ((2,), 50)])
def test_unmatched_is_not_wrong_where_not_all_is_annotated(not_exhaustive, expected):
    truth = lvis([picture(1, not_exhaustive=not_exhaustive)], [thing(1, 1, HERE)])
    assert ap(truth, [detection(1, 1, THERE, 0.9), detection(1, 1, HERE, 0.5)]) == pytest.approx(expected)


def test_an_object_counts_even_where_not_all_is_annotated():
    truth = lvis([picture(1, not_exhaustive=(1,))], [thing(1, 1, HERE), thing(1, 1, THERE)])
    assert ap(truth, [detection(1, 1, HERE, 0.5)]) == pytest.approx(100 * 51 / 101)


def test_classes_by_how_frequent_they_are():
    truth = lvis([picture(1)], [thing(1, 1, HERE), thing(1, 2, HERE), thing(1, 2, THERE)])
    metrics = lvis_metrics(truth, [detection(1, 1, HERE, 0.5), detection(1, 2, THERE, 0.5)], ["bbox"])["bbox"]
    half = 100 * 51 / 101
    assert metrics["APr"] == pytest.approx(100) and metrics["APc"] == pytest.approx(half)
    assert metrics["APf"] is None  # nothing of class 3 is to be found
    assert metrics["AP"] == pytest.approx((100 + half) / 2)
    assert metrics["APm"] == metrics["AP"] and metrics["APs"] is None
    assert metrics["per_class"]["class 2"]["AP75"] == pytest.approx(half)
    assert [column.header for column in metrics_tables({"bbox": metrics}).renderables[0].columns][-3:] == [
        "APr",
        "APc",
        "APf",
    ]


@pytest.mark.parametrize(("surer", "expected"), [(299, 100), (300, 0)])
def test_300_detections_of_a_picture_count(surer, expected):
    truth = lvis([picture(1), picture(2)], [thing(1, 1, HERE)])
    detections = [detection(1, 2 + i % 2, THERE, 0.9) for i in range(surer)]
    detections += [detection(2, 1, THERE, 0.9), detection(1, 1, HERE, 0.5)]
    assert ap(truth, detections) == pytest.approx(expected)


def random_scene(rng: np.random.Generator) -> tuple[dict, list[dict]]:
    images, objects, detections = [], [], []
    for number in range(1, 21):
        kinds = rng.permutation([1, 2, 3])
        images.append(picture(number, kinds[:1].tolist(), kinds[1:2].tolist() if rng.random() < 0.5 else ()))
        for _ in range(rng.integers(0, 6)):
            box = (rng.uniform(0, 80, 4) * [1, 0.8, 0.7, 0.5] + [0, 0, 8, 8]).tolist()
            objects.append(thing(number, int(rng.choice(kinds[1:])), box))
            for _ in range(rng.integers(0, 4)):
                moved = (np.array(box) + rng.normal(0, 2, 4)).clip(1).tolist()
                category = objects[-1]["category_id"] if rng.random() < 0.7 else int(rng.integers(1, 4))
                detections.append(detection(number, category, moved, float(rng.random())))
    return lvis(images, objects), detections


def iou(one: list, other: list) -> float:
    (x, y, w, h), (a, b, c, d) = one, other
    shared = max(0, min(x + w, a + c) - max(x, a)) * max(0, min(y + h, b + d) - max(y, b))
    return shared / (w * h + c * d - shared)


def plainly(truth: dict, detections: list[dict], category: int, threshold: float) -> float:
    """AP of one class at one overlap, in percent, from LVIS' rules as its paper words them."""
    objects = [o for o in truth["annotations"] if o["category_id"] == category]
    images = {image["id"]: image for image in truth["images"]}
    taken, verdicts = set(), []
    for one in sorted(detections, key=lambda one: -one["score"]):
        image = images[one["image_id"]]
        near = [
            (iou(one["bbox"], o["bbox"]), i) for i, o in enumerate(objects) if o["image_id"] == image["id"]
        ]
        if one["category_id"] != category or not (near or category in image["neg_category_ids"]):
            continue
        free = max(((overlap, i) for overlap, i in near if i not in taken), default=(0, -1))
        if free[0] >= threshold:
            taken.add(free[1])
            verdicts.append(True)
        elif category not in image["not_exhaustive_category_ids"]:
            verdicts.append(False)
    right = np.cumsum(verdicts)
    precision, recall = right / np.arange(1, len(verdicts) + 1), right / len(objects)
    reads = [precision[recall >= wanted].max(initial=0) for wanted in np.linspace(0, 1, 101)]
    return 100 * np.mean(reads)


@pytest.mark.parametrize("seed", range(3))
def test_equals_the_rules_applied_plainly(seed):
    truth, detections = random_scene(np.random.default_rng(seed))
    before = copy.deepcopy((truth, detections))
    ours = lvis_metrics(truth, detections, ["bbox"])["bbox"]
    assert (truth, detections) == before
    thresholds = np.linspace(0.5, 0.95, 10)
    theirs = np.array([[plainly(truth, detections, c, t) for t in thresholds] for c in (1, 2, 3)])
    assert [ours[name] for name in ("APr", "APc", "APf")] == pytest.approx(theirs.mean(1), abs=1e-6)
    assert ours["AP"] == pytest.approx(theirs.mean(), abs=1e-6) and 10 < ours["AP"] < 90
    assert [ours["AP50"], ours["AP75"]] == pytest.approx(theirs.mean(0)[[0, 5]], abs=1e-6)
    assert abs(ours["AP"] - coco_metrics(truth, detections, ["bbox"])["bbox"]["AP"]) > 0.5


def test_what_is_no_lvis_file():
    truth = lvis([picture(1)], [])
    del truth["images"][0]["neg_category_ids"]
    with pytest.raises(ValueError, match="1 fields are missing: 'neg_category_ids' of image 1; take"):
        lvis_metrics(truth, [])
    with pytest.raises(ValueError, match="image_id that the ground truth does not list: 7"):
        lvis_metrics(lvis([picture(1)], []), [detection(7, 1, HERE, 0.5)])
    truth = lvis([picture(1)], [])
    truth["categories"][1]["frequency"] = "often"
    with pytest.raises(
        ValueError, match="a 'frequency' of r, c or f for class 2 'class 2', which has 'often'"
    ):
        lvis_metrics(truth, [])
