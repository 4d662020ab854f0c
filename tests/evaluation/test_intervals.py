"""Intervals: the set itself as COCO has it, draws as copies of pictures, and coverage of a known truth."""

import copy

import numpy as np
import pytest

from maskrcnn.evaluation import intervals
from maskrcnn.evaluation.coco import coco_metrics
from maskrcnn.evaluation.intervals import difference, mean_difference

SIZE = 200


def interval(truth, detections, **options):
    """The interval of a metric itself: that of its difference from no detections, whose metric is 0."""
    return difference(truth, detections, [], **options)


def scene(rng: np.random.Generator, pictures: int = 10, ties: bool = True) -> tuple[dict, list[dict]]:
    """Boxes of two classes, some of them crowds, detected more or less well; the last picture is empty."""
    images = [{"id": 50 - 3 * i, "height": SIZE, "width": SIZE} for i in range(pictures)]
    objects, detections = [], []
    for image in images[:-1]:
        for _ in range(rng.integers(0, 9)):
            box = np.concatenate([rng.uniform(0, 120, 2), rng.uniform(10, 70, 2)])
            entry = {"image_id": image["id"], "category_id": int(rng.choice([4, 9]))}
            objects.append(
                {**entry, "id": len(objects) + 1, "bbox": box.tolist(), "iscrowd": int(rng.random() < 0.15)}
            )
            for _ in range(rng.integers(0, 4)):
                score = float(rng.random())
                entry["category_id"] = 4 if rng.random() < 0.2 else entry["category_id"]
                moved = (box + rng.normal(0, 0.08, 4) * box[[2, 3, 2, 3]]).tolist()
                detections.append({**entry, "score": round(score, 1) if ties else score, "bbox": moved})
    for one in objects + detections:
        x, y, w, h = one["bbox"]
        one["segmentation"] = rectangle(x, y, w, h) if "score" in one else [corners(x, y, w, h)]
        one["keypoints"] = [x, y, 2, x + w, y, 2, x + w, y + h, 2 * (x < 90)]
    categories = [{"id": i, "name": f"class {i}"} for i in (9, 4, 2)]  # nothing is of class 2
    return {"images": images, "annotations": objects, "categories": categories}, detections


def corners(x: float, y: float, w: float, h: float) -> list[float]:
    return [x, y, x + w, y, x + w, y + h, x, y + h]


def rectangle(x: float, y: float, w: float, h: float) -> dict:
    from pycocotools import mask

    rle = mask.frPyObjects([corners(x, y, w, h)], SIZE, SIZE)[0]
    return {"size": rle["size"], "counts": rle["counts"].decode()}


@pytest.mark.parametrize("kind", ["bbox", "segm", "boundary", "keypoints"])
@pytest.mark.parametrize("seed", range(3))
def test_the_set_itself_is_as_coco_has_it(kind, seed):
    truth, detections = scene(np.random.default_rng(seed))
    before = copy.deepcopy((truth, detections))
    for cap in (100, 2):
        metrics = coco_metrics(truth, detections, [kind], cap)[kind]
        assert 1 < metrics["AP"] < 99
        for metric in ("AP", "AP50", "AP75"):
            ours = interval(truth, detections, kind=kind, metric=metric, resamples=10, max_detections=cap)
            assert ours.difference == pytest.approx(metrics[metric], abs=1e-6)
    assert (truth, detections) == before


@pytest.mark.parametrize("seed", range(3))
def test_a_draw_is_pictures_copied(monkeypatch, seed):
    rng = np.random.default_rng(seed)
    truth, detections = scene(rng, ties=False)
    counts = rng.multinomial(10, np.full(10, 0.1))
    copies = sorted(truth["images"], key=lambda image: image["id"])
    drawn = {"categories": truth["categories"], "images": [], "annotations": []}
    drawn_found = []
    for image, count in zip(copies, counts, strict=True):
        for number in range(count):
            new = {"image_id": image["id"] * 100 + number}
            drawn["images"].append(image | {"id": new["image_id"]})
            drawn["annotations"] += [o | new for o in truth["annotations"] if o["image_id"] == image["id"]]
            drawn_found += [d | new for d in detections if d["image_id"] == image["id"]]
    monkeypatch.setattr(intervals, "_resample", lambda *_: np.stack([counts, counts]).astype(np.int32))
    expected = coco_metrics(drawn, drawn_found, ["bbox"])["bbox"]
    for metric in ("AP", "AP50", "AP75"):
        ours = interval(truth, detections, kind="bbox", metric=metric)
        assert ours == pytest.approx((expected[metric],) * 3, abs=1e-6)


def test_many_draws_go_in_several_goes(monkeypatch):
    truth, detections = scene(np.random.default_rng(0))
    whole = interval(truth, detections, kind="bbox", resamples=50)
    monkeypatch.setattr(intervals, "_CHUNK_SIZE", 200)
    assert interval(truth, detections, kind="bbox", resamples=50) == pytest.approx(whole, abs=1e-9)


def test_the_same_detections_do_not_differ():
    truth, detections = scene(np.random.default_rng(1))
    assert difference(truth, detections, copy.deepcopy(detections), kind="segm") == (0, 0, 0)


def test_the_mean_of_several_pairs_shares_the_resamples():
    truth, first = scene(np.random.default_rng(3))
    second, third = first[::2], first[1::2]
    pairs, options = [(first, second), (first, third)], {"kind": "bbox", "resamples": 50}
    both = mean_difference(truth, pairs, **options)
    singles = [difference(truth, *pair, **options) for pair in pairs]
    assert both.difference == pytest.approx(np.mean([one.difference for one in singles]))
    assert both.low < both.difference < both.high
    assert mean_difference(truth, [pairs[0], pairs[0]], **options) == pytest.approx(singles[0])
    assert mean_difference(truth, [pairs[0], pairs[0][::-1]], **options) == (0, 0, 0)


def test_seeded():
    truth, detections = scene(np.random.default_rng(1))
    first, again, other = (interval(truth, detections, kind="bbox", resamples=50, seed=s) for s in (3, 3, 4))
    assert first == again and first.difference == other.difference and first != other


def box_in(image: int, **more) -> dict:
    return {"image_id": image, "category_id": 1, "bbox": [10, 10, 50, 50], **more}


def one_each(pictures: int, objects: range) -> dict:
    """Pictures 0, 1, …, some of them with one object."""
    return {
        "images": [{"id": i, "height": SIZE, "width": SIZE} for i in range(pictures)],
        "annotations": [box_in(i) for i in objects],
        "categories": [{"id": 1, "name": "box"}],
    }


def test_two_pictures_by_hand():
    truth = one_each(2, range(2))
    both = [box_in(0, score=0.5), box_in(1, score=0.5)]
    # Recalls 0 … 0.5 are 51 of 101. The draws have the first picture twice, both, or the second twice.
    half = 100 * 51 / 101
    assert interval(truth, both[:1], kind="bbox") == pytest.approx((half, 0, 100))
    assert difference(truth, both, both[:1], kind="bbox") == pytest.approx((100 - half, 0, 100))
    assert difference(truth, both[:1], both, kind="bbox") == pytest.approx((half - 100, -100, 0))
    assert difference(truth, both[:1], both[1:], kind="bbox") == pytest.approx((0, -100, 100))


def test_an_object_comes_before_the_crowd_around_it():
    truth = one_each(1, range(1))
    truth["annotations"].append(box_in(0, iscrowd=1) | {"bbox": [0, 0, 150, 150]})
    detections = [box_in(0, score=0.5) | {"bbox": [x, 10, 50, 50]} for x in (80, 12, 90)]
    # The second overlaps the object by 48 / 52 and lies in the crowd wholly, as the others do.
    expected = coco_metrics(truth, detections, ["bbox"])["bbox"]["AP"]
    assert interval(truth, detections, kind="bbox").difference == pytest.approx(expected) == pytest.approx(90)


def test_draws_without_objects_do_not_count():
    truth = one_each(2, range(1))
    assert interval(truth, [box_in(0, score=0.5)], kind="bbox") == pytest.approx((100, 100, 100))
    assert interval(truth, [], kind="bbox") == (0, 0, 0)


def test_covers_the_known_difference():
    """Two detectors that find an object where a picture's ease is above 0.3 and above 0.5: AP 70 and 50."""
    rng, pictures, trials = np.random.default_rng(0), 60, 40
    truth = one_each(pictures, range(pictures))
    covered, widths = 0, []
    for trial in range(trials):
        ease = rng.random(pictures)
        detections = [
            [box_in(i, score=0.5) for i in np.flatnonzero(ease > hard).tolist()] for hard in (0.3, 0.5)
        ]
        options = {"kind": "bbox", "metric": "AP50", "resamples": 100, "seed": trial}
        between = difference(truth, *detections, **options)
        covered += between.low <= 100 * 20 / 101 <= between.high
        if trial < 10:
            alone = interval(truth, detections[1], **options)
            widths.append((between.high - between.low) / (alone.high - alone.low))
    assert covered / trials >= 0.86  # 95 % of 40 trials, less two and a half standard deviations
    # A share p of n pictures deviates by √(p (1 - p) / n): for p = 0.2, found by one only, 0.4 / √n; for the
    # p = 0.5 that the second finds, 0.5 / √n. Unpaired draws would give √(0.21 + 0.25) / 0.5 = 1.36.
    assert np.mean(widths) == pytest.approx(0.8, abs=0.1)


def test_mistakes():
    truth = one_each(2, range(1))
    with pytest.raises(ValueError, match=r"the metric 'AP57' cannot be resampled: did you mean AP75\?"):
        interval(truth, [], metric="AP57")
    with pytest.raises(ValueError, match="resamples must be at least 1, not 0"):
        difference(truth, [], [], resamples=0)
    with pytest.raises(ValueError, match="the ground truth has no object to find"):
        difference(one_each(2, range(0)), [], [])
    with pytest.raises(ValueError, match="lists no image"):
        interval(one_each(0, range(0)), [])
    with pytest.raises(ValueError, match="image_id that the ground truth does not list: 7"):
        interval(truth, [box_in(7, score=0.5)], kind="bbox")
