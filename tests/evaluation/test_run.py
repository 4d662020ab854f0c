"""An evaluation as a whole: which metrics it has, and what it refuses before any number is computed."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cities import add_picture, detection, street
from maskrcnn.data.dataset import PackedDataset
from maskrcnn.data.folder import read_split
from maskrcnn.data.loader import PictureError
from maskrcnn.data.readers.coco import read_coco
from maskrcnn.evaluation.cityscapes import cityscapes_metrics
from maskrcnn.evaluation.coco import coco_metrics
from maskrcnn.evaluation.lvis import lvis_metrics
from maskrcnn.evaluation.run import detections_to_coco, evaluate
from maskrcnn.predict.predictor import Predictor
from maskrcnn.results.result import Result
from maskrcnn.types import Metadata

HEIGHT, WIDTH = 200, 240
SQUARE = [[10, 10, 50, 10, 50, 50, 10, 50]]


def truth_of(pictures: int = 1, **more) -> dict:
    """One object of class 7 in the last picture."""
    annotation = {"id": 0, "image_id": pictures, "category_id": 7, "bbox": [10, 10, 40, 40], **more}
    return {
        "images": [{"id": i + 1, "height": HEIGHT, "width": WIDTH} for i in range(pictures)],
        "annotations": [annotation],
        "categories": [{"id": 7, "name": "disk"}],
    }


def result(boxes=((10, 10, 50, 50),), labels=(0,), **more) -> Result:
    count = len(boxes)
    fields = {
        "boxes": np.array(boxes, np.float32).reshape(count, 4),
        "scores": np.full(count, 0.5, np.float32),
        "labels": np.array(labels, np.int64).reshape(count),
        "mask_probs": np.ones((count, 28, 28), np.float32),
        "keypoints": None,
        "size_hw": (HEIGHT, WIDTH),
        "metadata": Metadata(("disk",), (7,)),
    }
    return Result(**(fields | more))


def dataset(folder: Path, truth: dict) -> PackedDataset:
    for image in truth["images"]:
        image["file_name"] = f"{image['id']}.png"
        Image.new("RGB", (image["width"], image["height"])).save(folder / image["file_name"])
    (folder / "truth.json").write_text(json.dumps(truth))
    return read_coco(folder / "truth.json", folder)


def test_results_are_in_the_order_of_the_images(tmp_path):
    data = dataset(tmp_path, truth_of(2, segmentation=SQUARE))
    metrics = evaluate(iter([result((), ()), result()]), data).metrics
    assert list(metrics) == ["bbox", "segm"]
    assert metrics["bbox"]["AP"] == metrics["segm"]["AP"] == pytest.approx(100)
    assert metrics["segm"]["per_class"]["disk"]["AP"] == pytest.approx(100)
    swapped = evaluate(iter([result(), result((), ())]), data).metrics
    assert swapped["bbox"]["AP"] == swapped["segm"]["AP"] == 0


@pytest.mark.parametrize(("count", "came"), [(1, "1"), (0, "0"), (3, "more")])
def test_another_number_of_results_than_images(tmp_path, count, came):
    data = dataset(tmp_path, truth_of(2))
    with pytest.raises(ValueError, match=f"lists 2 images, but {came} results were given"):
        evaluate([result()] * count, data)


def test_what_the_metrics_are_computed_from_is_returned(tmp_path):
    data = dataset(tmp_path, truth_of(segmentation=SQUARE))
    evaluation = evaluate([result()], data, max_detections=7)
    assert evaluation.truth["categories"] == [{"id": 7, "name": "disk"}]
    assert [entry["image_id"] for entry in evaluation.detections] == [1]
    assert evaluation.max_detections == 7 and evaluation.seconds_per_picture > 0
    assert evaluation.metrics == coco_metrics(evaluation.truth, evaluation.detections)


class FixedPredictor(Predictor):
    """A predictor with given results."""

    def __init__(self, results: dict) -> None:
        self.results, self.model = results, torch.nn.Linear(1, 1)

    def predict_many(self, pictures, *, score=0.5, **_):
        assert score == 0
        return ((path, self.results[path.name]) for path in pictures)


def test_a_predictor_is_evaluated(tmp_path):
    data = dataset(tmp_path, truth_of(segmentation=SQUARE))
    assert evaluate(FixedPredictor({"1.png": result()}), data).metrics["segm"]["AP"] == pytest.approx(100)


def test_kinds_are_those_that_the_network_predicts(tmp_path):
    data = dataset(tmp_path, truth_of(segmentation=SQUARE))
    assert detections_to_coco([result(mask_probs=None)], data)[1] == ("bbox",)
    assert detections_to_coco([result((), ())], data) == ([], ("bbox", "segm"))


def test_boundary_ap_on_request(tmp_path):
    data = dataset(tmp_path, truth_of(segmentation=SQUARE))
    metrics = evaluate([result()], data, also=["boundary", "segm"]).metrics
    assert list(metrics) == ["bbox", "segm", "boundary"]
    assert metrics["boundary"]["AP"] == pytest.approx(100)
    without_masks = (result(mask_probs=None) if i < 1 else pytest.fail("went on") for i in range(2))
    with pytest.raises(ValueError, match="'boundary' cannot be evaluated: the network predicts only bbox"):
        evaluate(without_masks, dataset(tmp_path, truth_of(2)), also=["boundary"])


def untouched():
    """Results that must not be asked for."""
    pytest.fail("the network has predicted")
    yield


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            {"also": ["borders"]},
            "'borders' cannot be evaluated: there are bbox, segm, boundary, keypoints, lvis",
        ),
        ({"also": ["lvis"]}, "LVIS' AP cannot be computed, because 3 fields are missing"),
        ({"max_detections": 0}, "max_detections must be at least 1, not 0"),
    ],
)
def test_arguments_are_checked_before_anything_is_predicted(tmp_path, arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        evaluate(untouched(), dataset(tmp_path, truth_of()), **arguments)


def test_lvis_on_request(tmp_path):
    truth = truth_of(segmentation=SQUARE, keypoints=[30, 30, 2])
    truth["images"][0] |= {"neg_category_ids": [], "not_exhaustive_category_ids": []}
    truth["categories"][0]["frequency"] = "r"
    keypoints = {"keypoints": np.ones((1, 1, 3), np.float32)}
    truth["categories"][0]["keypoints"] = ["centre"]
    evaluation = evaluate([result(**keypoints)], dataset(tmp_path, truth), also=["lvis"])
    assert list(evaluation.metrics) == ["bbox", "segm", "keypoints", "lvis"]
    assert evaluation.metrics["lvis"] == lvis_metrics(evaluation.truth, evaluation.detections)


def test_cityscapes_has_its_own_metrics(tmp_path, monkeypatch):
    monkeypatch.setenv("MASKRCNN_CACHE", str(tmp_path / "cache"))
    add_picture(tmp_path / "data", "val", "ulm_000000_000019", street(_26000=(0, 0, 20, 20)))
    data = read_split(tmp_path / "data", "val")
    labels = {"metadata": Metadata(data.class_names, data.category_ids)}
    car = data.class_names.index("car")
    detected = result(((0, 0, 20, 15),), (car,), size_hw=tuple(data.sizes_hw[0].tolist()), **labels)
    evaluation = evaluate([detected], data)
    assert list(evaluation.metrics) == ["bbox", "segm", "cityscapes"]
    assert evaluation.metrics["cityscapes"]["AP"] == pytest.approx(50)
    mask = np.zeros((40, 60), bool)
    mask[:15, :20] = True
    assert evaluation.metrics["cityscapes"] == cityscapes_metrics(
        evaluation.truth, [detection(mask, 26, 0.5)]
    )
    boxes = result(((0, 0, 20, 15),), (car,), size_hw=detected.size_hw, mask_probs=None, **labels)
    assert list(evaluate([boxes], data).metrics) == ["bbox"]  # Cityscapes evaluates masks


def test_keypoints_are_compared_where_coco_counts_them(tmp_path):
    flat = [12, 30, 2, 30, 30, 1, 48, 30, 0]
    truth = truth_of(segmentation=SQUARE, keypoints=flat)
    truth["categories"][0]["keypoints"] = ["left", "middle", "right"]
    data = dataset(tmp_path, truth)
    # The keypoint of pixel 12 lies at 12.5, its centre.
    keypoints = np.array(flat, np.float32).reshape(1, 3, 3) + np.array([0.5, 0.5, 0], np.float32)
    evaluation = evaluate([result(keypoints=keypoints)], data)
    assert evaluation.detections[0]["keypoints"] == flat
    assert evaluation.metrics["keypoints"]["AP"] == pytest.approx(100)


# --- data sets that do not fit the network ---


def test_classes_are_compared_by_id_and_name(tmp_path):
    truth = truth_of()
    truth["categories"].append({"id": 2, "name": "disk"})
    data = dataset(tmp_path, truth)
    known = {"metadata": Metadata(("disk (2)", "disk (7)", "more"), (2, 7, 90))}
    metrics = evaluate([result(labels=(1,), **known)], data).metrics["bbox"]
    assert {name: part["AP"] for name, part in metrics["per_class"].items()} == {
        "disk (2)": None,
        "disk (7)": pytest.approx(100),
    }


def test_all_classes_and_keypoints_that_do_not_fit_are_in_one_sentence(tmp_path):
    truth = truth_of()
    truth["categories"] = [{"id": i, "name": f"class {i}"} for i in range(7, 15)]
    data = dataset(tmp_path, truth)
    with pytest.raises(ValueError) as error:
        evaluate([result(keypoints=np.zeros((1, 17, 3), np.float32))], data)
    assert str(error.value) == (
        f"the network does not fit {tmp_path / 'truth.json'}: it has no class with the id and name of 8 of "
        "the 8 classes: 7 'class 7' (the network's is 'disk'), 8 'class 8', 9 'class 9', 10 'class 10', "
        "11 'class 11' and 3 more; it predicts 17 keypoints, the data set has 0; evaluate it on the data set "
        "that it was trained for"
    )


def test_all_images_that_do_not_fit_are_in_one_sentence(tmp_path):
    data = dataset(tmp_path, truth_of(4))
    results = [result(), result(size_hw=(WIDTH, HEIGHT)), PictureError("3.png is broken"), result()]
    with pytest.raises(ValueError) as error:
        evaluate(FixedPredictor({f"{i + 1}.png": one for i, one in enumerate(results)}), data)
    assert str(error.value) == (
        f"cannot evaluate on {tmp_path / 'truth.json'}: {tmp_path / '2.png'} is 200 x 240 pixels large, but "
        "its entry says 240 x 200; 3.png is broken"
    )


def test_an_evaluation_that_fails_anyway_ends_early(tmp_path):
    data = dataset(tmp_path, truth_of(20))
    results = (result(size_hw=(WIDTH, HEIGHT)) if i < 10 else pytest.fail("went on") for i in range(20))
    with pytest.raises(ValueError) as error:
        evaluate(results, data)
    assert str(error.value).count("is 200 x 240") == 8


def test_keypoints_that_nobody_labelled(tmp_path):
    truth = truth_of(2, segmentation=SQUARE)
    truth["categories"][0]["keypoints"] = ["left", "right"]
    keypoints = np.ones((1, 2, 3), np.float32)
    metrics = evaluate([result(keypoints=keypoints)] * 2, dataset(tmp_path, truth)).metrics
    assert metrics["keypoints"]["AP"] is None
