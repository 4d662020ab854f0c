"""The page of an evaluation: what it says, that it is whole, and that it needs nothing else."""

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskrcnn.evaluation.coco import coco_metrics
from maskrcnn.evaluation.coco_format import to_rle
from maskrcnn.evaluation.report import worst, write_report
from maskrcnn.evaluation.run import Evaluation
from maskrcnn.evaluation.side_by_side import to_result
from pages import Page

WIDTH, HEIGHT = 120, 80


def entry(image: int, x: float, y: float, side: float, category: int = 1, score: float | None = None) -> dict:
    ring = [x, y, x + side, y, x + side, y + side, x, y + side]
    fields = {"image_id": image, "category_id": category, "bbox": [x, y, side, side], "segmentation": [ring]}
    if score is None:
        return fields | {"id": 1, "iscrowd": 0, "area": side * side}
    lengths = to_rle(fields, (HEIGHT, WIDTH))
    counts = lengths["counts"] if isinstance(lengths["counts"], str) else lengths["counts"].decode()
    return fields | {"score": score, "segmentation": {"size": [HEIGHT, WIDTH], "counts": counts}}


def truth_of(*annotations: dict, classes: int = 2, pictures: int = 2) -> dict:
    images = [
        {"id": i + 1, "width": WIDTH, "height": HEIGHT, "file_name": f"p{i + 1}.png"} for i in range(pictures)
    ]
    categories = [{"id": i + 1, "name": f"class{i + 1}"} for i in range(classes)]
    return {"images": images, "annotations": list(annotations), "categories": categories}


@pytest.fixture
def report(tmp_path: Path):
    for i in range(20):
        Image.new("RGB", (WIDTH, HEIGHT), (40, 60, 80)).save(tmp_path / f"p{i + 1}.png")

    def write(truth: dict, detections: list[dict], kinds=("bbox", "segm"), **options) -> Page:
        cap = options.pop("max_detections", 100)
        metrics = options.pop("metrics", coco_metrics(truth, detections, kinds, cap))
        paths = {image["id"]: tmp_path / f"p{image['id']}.png" for image in truth["images"]}
        evaluation = Evaluation(metrics, detections, truth, cap, seconds_per_picture=0.1)
        path = write_report(tmp_path / "a" / "b", evaluation, **{"image_paths": paths} | options)
        assert [file.name for file in path.parent.iterdir()] == ["report.html"]
        return Page(path)

    return write


TRUTH = truth_of(entry(1, 10, 10, 30), entry(1, 60, 10, 30, 2), entry(2, 10, 10, 30), classes=3)
FOUND = [entry(1, 10, 10, 30, 1, 0.9), entry(1, 60, 10, 30, 1, 0.8), entry(2, 50, 40, 20, 1, 0.3)]


def test_everything_is_on_the_page(report):
    page = report(TRUTH, FOUND, title="two & three")
    assert "two & three" in page.text
    assert "2 images · 3 objects · 3 classes · 3 detections" in page.text
    # F1 is 2/4 at 0.9, 2/5 at 0.8, 2/6 at 0.3
    assert "The best score threshold is 0.850" in page.text  # midway between 0.9 and 0.8
    assert ["best", "0.850", "1.000", "0.333", "0.500"] in page.rows()
    default = "default of networks without score thresholds"
    assert [default, "0.500", "0.500", "0.333", "0.400"] in page.rows()
    assert [row[:2] for row in page.rows() if row[0] == "missed"] == [["missed", "2"], ["missed", "1"]]
    assert ["class3", "-", "-", "-", "-", "-", "-"] in page.rows()
    assert page.count("svg") == 3
    assert page.count("img") == 4  # ground truth and detections of both images
    assert "IoU 0.5: AP50 25.2" in page.text  # half of class 1, 51 of 101 recalls, and none of class 2
    assert "maximum number" not in page.text


def test_other_benchmarks_have_their_own_tables(report):
    metrics = coco_metrics(TRUTH, FOUND)
    class_names = [f"class{i}" for i in (1, 2, 3)]
    street = {"AP": 12.34, "AP50": None, "per_class": {key: {"AP": 1.0, "AP50": 2.0} for key in class_names}}
    lvis = {**metrics["bbox"], "APr": 7.5, "per_class": {key: {"AP": 8.0} for key in class_names}}
    page = report(TRUTH, FOUND, metrics=metrics | {"cityscapes": street, "lvis": {"bbox": lvis}})
    assert "Masks, by the rules of Cityscapes" in page.text and "Boxes, by the rules of LVIS" in page.text
    assert ["all classes", "12.3", "-"] in page.rows() and ["class2", "1.0", "2.0"] in page.rows()
    assert ["", "AP", "AP50", "AP75", "APs", "APm", "APl", "APr"] in page.rows()
    assert ["class2", "8.0", "-", "-", "-", "-", "-", "-"] in page.rows()


def test_policy_forbids_scripts_and_requests(report):
    policies = [a["content"] for tag, a in report(TRUTH, FOUND).tags if "http-equiv" in a]
    assert policies == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


def test_confusion_of_few_classes_is_a_matrix(report):
    surer = [detection | {"score": 0.9} for detection in FOUND]
    rows = report(TRUTH, surer).rows()
    assert [
        "class1",
        "1",
        "1",
        "0",
        "1",
    ] in rows  # predicted class 1: objects of class 1, 2, 3, and background
    assert ["missed", "1", "0", "0", ""] in rows


def test_confusion_of_many_classes_is_a_list_of_pairs(report):
    truth = truth_of(entry(1, 10, 10, 30, 7), entry(1, 60, 10, 30, 7), entry(2, 10, 10, 30, 1), classes=80)
    detections = [entry(1, 10, 10, 30, 3, 0.9), entry(1, 60, 10, 30, 7, 0.9), entry(2, 10, 10, 30, 1, 0.9)]
    page = report(truth, detections)
    assert ["class7", "class3", "1", "50 %"] in page.rows()
    assert ["class7", "2", "1", "1", "0", "0"] in page.rows()
    assert page.count("details") == 3  # both tables of AP, and every class's confusion


def test_a_reached_limit_is_reported(report):
    text = report(TRUTH, FOUND, max_detections=2).text
    assert "was reached in 1 of 2 images : 2 detections, or more than 2 of one class" in text
    assert "was reached in" not in report(TRUTH, FOUND, max_detections=2, capacity=50).text


def test_hostile_names_stay_text(report, tmp_path):
    name = """</title><script>alert(1)</script><img src="http://x.org/a.png" onerror='x'>"""
    truth = TRUTH | {"categories": [{"id": i, "name": f"{name}{i}"} for i in (1, 2, 3)]}
    path = tmp_path / '<b onclick="x">.png'
    Image.new("RGB", (WIDTH, HEIGHT)).save(path)
    page = report(truth, FOUND, title=name, image_paths={1: path, 2: path})
    assert page.count("script") == page.count("b") - page.source.count("<b>") == 0
    assert not any(key.startswith("on") for _, attributes in page.tags for key in attributes)
    assert page.text.count(name) >= 3 + 2 * 3


def test_page_needs_nothing_else(report):
    page = report(TRUTH, FOUND)
    assert not re.search(r"https?://|@import|url\(", page.source)
    addresses = [a[key] for _, a in page.tags for key in ("src", "href", "xlink:href", "data") if key in a]
    assert addresses
    for address in addresses:
        head, _, data = address.partition(",")
        assert head == "data:image/jpeg;base64"
        assert max(Image.open(io.BytesIO(base64.b64decode(data))).size) == 480


@pytest.mark.parametrize("kinds", [("bbox",), ("bbox", "segm")])
@pytest.mark.parametrize(
    ("truth", "detections"),
    [
        (truth_of(), []),
        (TRUTH, []),
        (truth_of(), FOUND),
        (truth_of(entry(1, 10, 10, 30), classes=1), [entry(1, 10, 10, 30, 1, 0.9)]),
        (truth_of(pictures=1), []),
    ],
)
def test_empty_cases(report, truth: dict, detections: list, kinds: tuple):
    assert report(truth, detections, kinds).count("h2") == 6


def test_what_is_missing_is_said(report):
    page = report(truth_of(), FOUND)
    assert "The data set has no objects" in page.text
    assert "no score threshold is best" in page.text
    perfect = report(truth_of(entry(1, 10, 10, 30), classes=1), [entry(1, 10, 10, 30, 1, 0.9)])
    assert "No image has an error" in perfect.text


def test_worst_pictures_come_first_and_are_few(report):
    truth = truth_of(*(entry(i, 3 * k, 3 * k, 8) for i in range(1, 16) for k in range(i)), pictures=15)
    page = report(truth, [])
    assert re.findall(r"<b>p(\d+)\.png</b>", page.source) == [str(i) for i in range(15, 3, -1)]
    assert worst([]) == []


def test_a_failure_leaves_the_old_page(report, tmp_path):
    report(TRUTH, FOUND, title="old")
    with pytest.raises(FileNotFoundError):
        report(TRUTH, FOUND, title="new", image_paths=dict.fromkeys((1, 2), tmp_path / "gone.png"))
    assert "old" in Page(tmp_path / "a" / "b" / "report.html").text


def test_detections_of_unlisted_classes_are_counted(report):
    assert (
        "1 detection has a class that the data set does not list"
        in report(TRUTH, [*FOUND, entry(1, 0, 0, 9, 50, 0.9)]).text
    )


def test_masks_survive_the_way_to_a_result():
    ring = [20.0, 10.0, 80.0, 10.0, 80.0, 50.0]  # a triangle
    annotation = {"bbox": [20, 10, 60, 40], "segmentation": [ring]}
    result = to_result(
        [annotation], ["a"], np.ones(1), (WIDTH, HEIGHT), (2 * WIDTH, 2 * HEIGHT), by_masks=True
    )
    assert result.boxes.tolist() == [[40, 20, 160, 100]]
    [mask] = result.masks
    assert mask.shape == (2 * HEIGHT, 2 * WIDTH)
    y, x = np.mgrid[: 2 * HEIGHT, : 2 * WIDTH] / 2 + 0.25
    inside = (x < 80) & (y > 10) & (y - 10 < (x - 20) * 40 / 60)
    assert (mask & inside).sum() / (mask | inside).sum() > 0.95
