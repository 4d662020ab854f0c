"""The benchmark's numbers, by hand, and against the official script where its package is installed."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cities import add_picture, detection, street
from maskrcnn.data.readers.cityscapes import CLASSES, IGNORED, coco_form
from maskrcnn.evaluation.cityscapes import cityscapes_metrics
from maskrcnn.masks.rle import decode, rle_counts

CAR = 26


def truth_of(folder: Path, *pictures: np.ndarray) -> dict:
    for number, values in enumerate(pictures):
        add_picture(folder, "val", f"ulm_{number:06}_000019", values)
    return coco_form(folder, "val")


def block(row: int, column: int, rows: int, columns: int, size_hw: tuple[int, int] = (40, 60)) -> np.ndarray:
    mask = np.zeros(size_hw, bool)
    mask[row : row + rows, column : column + columns] = True
    return mask


def car(metrics: dict) -> tuple[float, float]:
    numbers = metrics["per_class"]["car"]
    assert metrics["AP"] == numbers["AP"] and metrics["AP50"] == numbers["AP50"]  # nothing else is there
    return numbers["AP"], numbers["AP50"]


A, B = (0, 0, 20, 20), (0, 30, 20, 20)
TWO_CARS = street(_26000=A, _26001=B)


def test_precision_is_integrated_by_trapezoids(tmp_path):
    detections = [detection(block(*A), CAR, 0.9), detection(block(25, 0, 10, 10), CAR, 0.8)]
    detections.append(detection(block(*B), CAR, 0.7))
    # Precision and recall: 2/3 at 1, 1/2 at 1/2, 1 at 1/2, 1 at 0.
    ap = 100 * ((2 / 3 + 1 / 2) / 2 / 2 + 1 / 2)
    assert car(cityscapes_metrics(truth_of(tmp_path, TWO_CARS), detections)) == pytest.approx((ap, ap))


def test_equal_scores_are_one_step(tmp_path):
    detections = [detection(block(*A), CAR, 0.5), detection(block(25, 0, 10, 10), CAR, 0.5)]
    ap = 100 * (1 / 2 + 1) / 2 / 2  # 1/2 at 1/2, 1 at 0
    assert car(cityscapes_metrics(truth_of(tmp_path, TWO_CARS), detections)) == pytest.approx((ap, ap))


def test_an_overlap_of_a_threshold_is_not_above_it(tmp_path):
    truth = truth_of(tmp_path, street(_26000=A))
    assert car(cityscapes_metrics(truth, [detection(block(0, 0, 10, 20), CAR, 0.9)])) == (0, 0)
    ap, ap50 = car(cityscapes_metrics(truth, [detection(block(0, 0, 15, 20), CAR, 0.9)]))
    assert (ap, ap50) == pytest.approx((50, 100))  # 0.75 is above 0.5 … 0.7


def test_of_two_for_one_object_the_surer_one_is_right(tmp_path):
    truth = truth_of(tmp_path, TWO_CARS)
    exact, close = block(*A), block(0, 0, 13, 20)  # overlaps 1 and 0.65
    detections = [detection(exact, CAR, 0.8), detection(close, CAR, 0.9)]
    # To 0.6 the surer is right, the exact one too many: 1/2 at 1/2, 1 at 1/2, 1 at 0. From 0.65 the surer is
    # wrong: 1/2 at 1/2, 0 at 0, 1 at 0.
    low, high = 1 / 2, (1 / 2 + 0) / 2 / 2
    assert car(cityscapes_metrics(truth, detections)) == pytest.approx(
        (100 * (3 * low + 7 * high) / 10, 100 * low)
    )


@pytest.mark.parametrize("value", [4, 29, 26], ids=["void", "caravans", "crowd"])
def test_what_lies_where_nothing_is_judged_is_forgiven(tmp_path, value):
    truth = truth_of(tmp_path, street(_26000=A) + (value - 7) * block(30, 0, 10, 12))
    detections = [detection(block(*A), CAR, 0.5), detection(block(30, 0, 10, 20), CAR, 0.9)]  # 0.6 of it
    # From the threshold 0.6 on it is wrong: 1/2 at 1, 0 at 0, 1 at 0.
    assert car(cityscapes_metrics(truth, detections)) == pytest.approx((100 * (2 + 8 / 4) / 10, 100))


def test_one_too_many_is_wrong(tmp_path):
    detections = [
        detection(block(*A), CAR, 0.9),
        detection(block(*A), CAR, 0.8),
        detection(block(*B), CAR, 0.7),
    ]
    ap = 100 * ((2 / 3 + 1 / 2) / 2 / 2 + 1 / 2)  # 2/3 at 1, 1/2 at 1/2, 1 at 1/2, 1 at 0
    assert car(cityscapes_metrics(truth_of(tmp_path, TWO_CARS), detections)) == pytest.approx((ap, ap))


def test_a_small_crowd_counts_twice(tmp_path):
    truth = truth_of(tmp_path, street(_26000=A, _26=(30, 0, 10, 6)))  # 0.3 of the detection, so 0.6
    detections = [detection(block(*A), CAR, 0.5), detection(block(30, 0, 10, 20), CAR, 0.9)]
    assert car(cityscapes_metrics(truth, detections)) == pytest.approx((100 * (2 + 8 / 4) / 10, 100))


def test_a_share_of_a_threshold_is_too_little_to_be_forgiven(tmp_path):
    truth = truth_of(tmp_path, street(_26000=A, _4=(30, 0, 10, 10)))
    detections = [detection(block(*A), CAR, 0.5), detection(block(30, 0, 10, 20), CAR, 0.9)]  # half of it
    assert car(cityscapes_metrics(truth, detections)) == pytest.approx((25, 25))


@pytest.mark.parametrize("value", [24, 24000, 29000], ids=["another crowd", "person", "caravan"])
def test_other_things_forgive_nothing(tmp_path, value):
    truth = truth_of(tmp_path, street(_26000=A) + (value - 7) * block(30, 0, 10, 20))
    detections = [detection(block(*A), CAR, 0.5), detection(block(30, 0, 10, 20), CAR, 0.9)]
    assert cityscapes_metrics(truth, detections)["per_class"]["car"]["AP"] == pytest.approx(25)


def test_objects_below_100_pixels_are_not_asked_for(tmp_path):
    truth = truth_of(tmp_path, street(_26000=A, _26001=(30, 0, 9, 11), _26002=(30, 30, 10, 10)))
    exact, small, least = (block(*A), block(30, 0, 9, 11), block(30, 30, 10, 10))
    detections = [detection(exact, CAR, 0.5), detection(least, CAR, 0.4)]
    assert car(cityscapes_metrics(truth, detections)) == pytest.approx((100, 100))
    assert car(cityscapes_metrics(truth, [*detections, detection(small, CAR, 0.9)])) == pytest.approx(
        (100, 100)
    )
    assert car(cityscapes_metrics(truth, detections[:1])) == pytest.approx((50, 50))  # 100 pixels are enough
    half = detection(
        block(30, 0, 9, 22), CAR, 0.9
    )  # hits nothing; the half of it on the small one is too little
    assert car(cityscapes_metrics(truth, [*detections, half]))[0] < 90


def test_nothing_found_nothing_to_find_and_nothing_there(tmp_path):
    truth = truth_of(tmp_path, street(_26000=A, _24000=(30, 0, 5, 5)), street())
    detections = [detection(block(*B), 24, 0.5), detection(block(*A), CAR, 0.5), detection(block(*A), 7, 0.5)]
    metrics = cityscapes_metrics(truth, [*detections, detection(block(0, 0, 0, 0), CAR, 0.9, 2)])
    assert metrics["per_class"]["car"] == {"AP": 100, "AP50": 100}
    assert metrics["per_class"]["person"] == metrics["per_class"]["bus"] == {"AP": None, "AP50": None}
    assert metrics["AP"] == 100 and list(metrics["per_class"]) == list(CLASSES.values())
    assert car(cityscapes_metrics(truth, [])) == (0, 0)
    nothing = {**truth, "annotations": []}
    assert cityscapes_metrics(nothing, detections)["AP"] is cityscapes_metrics(nothing, [])["AP50"] is None


def test_inputs_stay_and_uncompressed_run_lengths_are_read(tmp_path):
    truth, detections = truth_of(tmp_path, TWO_CARS), [detection(block(*A), CAR, 0.5)]
    before = copy.deepcopy((truth, detections))
    metrics = cityscapes_metrics(truth, detections)
    assert (truth, detections) == before and car(metrics) == pytest.approx((50, 50))
    mask = detections[0]["segmentation"]
    for counts in (rle_counts(mask).tolist(), mask["counts"].encode()):
        detections[0]["segmentation"] = {**mask, "counts": counts}
        assert cityscapes_metrics(truth, detections) == metrics


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"image_id": 9}, "1 of 1 detections have an image_id that the ground truth does not list: 9"),
        (
            {"score": float("nan")},
            "1 of 1 detections have a score that is not a finite number: nan in image 1",
        ),
        ({"segmentation": None}, "image 1: 'segmentation' is not a mask in run lengths"),
        ({"segmentation": {"size": [60, 40], "counts": [2400]}}, r"image 1: .*size \[60, 40\]"),
        (
            {"segmentation": {"size": [40, 60], "counts": [7]}},
            "image 1: 'segmentation': run lengths sum to 7",
        ),
    ],
)
def test_detections_that_cannot_be_meant(tmp_path, change, sentence):
    with pytest.raises(ValueError, match=sentence):
        cityscapes_metrics(truth_of(tmp_path, TWO_CARS), [detection(block(*A), CAR, 0.5) | change])


def test_a_truth_without_void_is_refused(tmp_path):
    truth = truth_of(tmp_path, TWO_CARS)
    del truth["images"][0]["void"]
    with pytest.raises(ValueError, match="image 1: 'void' is not a mask in run lengths"):
        cityscapes_metrics(truth, [])


# --- the official script ---

NEEDED = "the official script is not installed (cityscapesscripts)"
SIZE_HW = (120, 180)
SEEN = [24, 25, 26, 27, 31, 33]  # buses are nowhere; motorcycles are never found


def ellipse(rng: np.random.Generator) -> np.ndarray:
    rows, columns = np.mgrid[: SIZE_HW[0], : SIZE_HW[1]]
    y, x = rng.uniform(0, SIZE_HW[0]), rng.uniform(0, SIZE_HW[1])
    h, w = rng.uniform(3, 28, 2)
    return ((rows - y) / h) ** 2 + ((columns - x) / w) ** 2 <= 1


def drawn(rng: np.random.Generator) -> np.ndarray:
    """Road and sky; void, groups, instances, caravans and trailers over one another, some of them small."""
    values = np.where(np.arange(SIZE_HW[0])[:, None] < 30, 23, 7) * np.ones(SIZE_HW, int)
    for number in range(rng.integers(4, 22)):
        kind, label, mask = rng.random(), int(rng.choice([*SEEN, 32])), ellipse(rng)
        instance = 1000 * label + number
        choices = (*IGNORED, 29001, 30002) if kind < 0.2 else (label if kind < 0.35 else instance,)
        values[mask] = rng.choice(choices)
        if rng.random() < 0.3 and mask.any():
            row, column = np.argwhere(mask)[0]
            values[row : row + 20, column : column + 20] = instance + 50
    values[:, -3:] = 3
    return values


def guesses(rng: np.random.Generator, values: np.ndarray, image: int) -> list[dict]:
    """Detections of every region: shifted, doubled, of a wrong class, or with an overlap on a threshold."""
    detections = []
    for value in np.unique(values):
        label = int(value // 1000 or value)
        for _ in range(rng.integers(0, 4)):
            mask = np.roll(values == value, rng.integers(-3, 4, 2) * (rng.random() < 0.4), (0, 1))
            if rng.random() < 0.4:  # the overlap is on a threshold where the object's size allows it
                inside = np.flatnonzero(mask)
                mask.flat[inside[len(inside) * rng.integers(10, 20) // 20 :]] = False
            if rng.random() < 0.15:
                mask |= ellipse(rng)
            guess = label if label in SEEN and rng.random() < 0.9 else int(rng.choice(SEEN))
            detections.append(detection(mask, guess, round(float(rng.random()), 2), image))
    ignored, road = (np.flatnonzero(np.isin(values, labels)) for labels in (IGNORED, 7))
    for twentieths in rng.integers(9, 20, 3):  # so much of it on void
        mask = np.zeros(SIZE_HW, bool)
        mask.flat[np.r_[ignored[: 10 * twentieths], road[: 200 - 10 * twentieths]]] = True
        detections.append(detection(mask, int(rng.choice(SEEN)), round(float(rng.random()), 2), image))
    return detections


def scenes(folder: Path, seed: int, pictures: int) -> tuple[dict, list[dict]]:
    rng = np.random.default_rng(seed)
    values = [drawn(rng) for _ in range(pictures)]
    detections = [one for image, one in enumerate(values[:-1], 1) for one in guesses(rng, one, image)]
    detections.append(detection(np.zeros(SIZE_HW, bool), CAR, 0.99))
    return truth_of(folder, *values), detections


def official_says(monkeypatch, folder: Path, truth: dict, detections: list[dict]) -> dict:
    """Write the detections as the benchmark wants them, and run its script on them."""
    count_nonzero = np.count_nonzero
    # Under numpy 2.3 the script's counts cannot be written as JSON, under 2.4 in1d is gone.
    monkeypatch.setattr(np, "count_nonzero", lambda *arguments: int(count_nonzero(*arguments)))
    if not hasattr(np, "in1d"):
        monkeypatch.setattr(np, "in1d", np.isin, raising=False)
    from cityscapesscripts.evaluation import evalInstanceLevelSemanticLabeling as official

    results = folder / "results"
    results.mkdir()
    lists, truths = [], []
    for image in truth["images"]:
        name = image["file_name"].replace("leftImg8bit", "gtFine_instanceIds")
        truths.append(str(folder / "gtFine" / "val" / name))
        lines = []
        for number, one in enumerate(detections):
            if one["image_id"] == image["id"]:
                mask = decode(one["segmentation"])
                Image.fromarray(mask.astype(np.uint8) * 255).save(results / f"{number}.png")
                lines.append(f"{number}.png {one['category_id']} {one['score']!r}\n")
        lists.append(str(results / f"{image['id']}.txt"))
        Path(lists[-1]).write_text("".join(lines))
    arguments = official.args
    monkeypatch.setattr(arguments, "predictionPath", str(results))
    monkeypatch.setattr(arguments, "gtInstancesFile", str(folder / "instances.json"))
    monkeypatch.setattr(arguments, "JSONOutput", False)
    monkeypatch.setattr(arguments, "quiet", True)
    monkeypatch.chdir(folder)  # it writes matches.json where it runs
    return official.evaluateImgLists(lists, truths, arguments)["averages"]


def same(ours: float | None, theirs: float) -> bool:
    return ours is None if np.isnan(theirs) else ours == pytest.approx(100 * theirs, abs=1e-6)


def test_classes_and_void_are_the_official_ones():
    labels = pytest.importorskip("cityscapesscripts.helpers.labels", reason=NEEDED).labels
    assert {one.id for one in labels if one.ignoreInEval and one.id >= 0} == set(IGNORED)
    judged = {one.id: one.name for one in labels if one.hasInstances and not one.ignoreInEval}
    assert judged == CLASSES


@pytest.mark.parametrize("seed", range(4))
def test_equals_the_official_script(monkeypatch, tmp_path, seed):
    pytest.importorskip("cityscapesscripts", reason=NEEDED)
    truth, detections = scenes(tmp_path, seed, pictures=8)
    theirs = official_says(monkeypatch, tmp_path, truth, detections)
    ours = cityscapes_metrics(json.loads(json.dumps(truth)), detections)
    assert 5 < ours["AP"] < ours["AP50"] < 90
    assert same(ours["AP"], theirs["allAp"]) and same(ours["AP50"], theirs["allAp50%"])
    assert list(ours["per_class"]) == list(theirs["classes"])
    for name, numbers in theirs["classes"].items():
        assert same(ours["per_class"][name]["AP"], numbers["ap"]), name
        assert same(ours["per_class"][name]["AP50"], numbers["ap50%"]), name
    assert ours["per_class"]["bus"]["AP"] is None and ours["per_class"]["motorcycle"]["AP"] == 0
