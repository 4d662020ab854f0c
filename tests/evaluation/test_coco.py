"""COCO's numbers against pycocotools, on random scenes and by hand."""

import contextlib
import copy
import io
import json
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from maskrcnn.data.readers.coco import CocoDataset
from maskrcnn.evaluation.coco import coco_metrics, detections_to_coco, evaluate, table, write_metrics
from maskrcnn.predict.predictor import PictureError, Predictor
from maskrcnn.results.result import Result
from maskrcnn.types import Metadata

pytestmark = pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # pycocotools under numpy 2

HEIGHT, WIDTH = 200, 240
CATEGORIES = [{"id": 7, "name": "disk"}, {"id": 2, "name": "star"}, {"id": 40, "name": "never [seen]"}]
NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl")


def ellipse(x: float, y: float, w: float, h: float) -> list[float]:
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    return np.stack([x + w / 2 * (1 + np.cos(angles)), y + h / 2 * (1 + np.sin(angles))], 1).ravel().tolist()


def to_rle(polygon: list[float], size_hw: tuple[int, int] = (HEIGHT, WIDTH)) -> dict:
    from pycocotools import mask

    rle = mask.frPyObjects([polygon], *size_hw)[0]
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def runs(polygon: list[float]) -> dict:
    """The same mask as uncompressed run lengths, as COCO stores crowds."""
    from pycocotools import mask

    flat = mask.decode(to_rle(polygon)).ravel(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    return {"size": [HEIGHT, WIDTH], "counts": [0, *counts] if flat[0] else counts}


def scene(rng: np.random.Generator, pictures: int = 12, joints: int = 17) -> tuple[dict, list[dict]]:
    """Random truth, a sixth of it crowds, and detections: moved, missed, doubled, of the wrong class."""
    images = [{"id": 100 + 3 * i, "height": HEIGHT, "width": WIDTH} for i in range(pictures)]
    truth, found = [], []
    for image in images[:-1]:  # the last one is empty
        for _ in range(rng.integers(0, 9)):
            w, h = rng.uniform(6, 180, 2)
            x, y = rng.uniform(0, WIDTH - w), rng.uniform(0, HEIGHT - h)
            crowd = int(rng.random() < 1 / 6)
            points = np.stack([rng.uniform(x, x + w, joints), rng.uniform(y, y + h, joints)], 1)
            seen = rng.integers(0, 3, joints) * (rng.random() < 0.8)
            category = int(rng.choice([2, 7]))
            outline = ellipse(x, y, w, h)
            truth.append(
                {
                    "id": len(truth) + 1,
                    "image_id": image["id"],
                    "category_id": category,
                    "iscrowd": crowd,
                    "bbox": [x, y, w, h],
                    "area": np.pi / 4 * w * h,
                    "segmentation": runs(outline) if crowd else [outline],
                    "keypoints": np.column_stack([points, seen]).ravel().tolist(),
                    "num_keypoints": int((seen > 0).sum()),
                }
            )
            for _ in range(rng.integers(0, 4)):
                moved = np.array([x, y, w, h]) + rng.normal(0, 0.08, 4) * [w, h, w, h]
                noisy = points + rng.normal(0, 0.05, points.shape) * [w, h]
                found.append(
                    {
                        "image_id": image["id"],
                        "category_id": category if rng.random() < 0.9 else 9 - category,
                        "score": round(float(rng.random()), 1),  # many ties
                        "bbox": moved.tolist(),
                        "segmentation": to_rle(ellipse(*moved)),
                        "keypoints": np.column_stack([noisy, np.ones(joints)]).ravel().tolist(),
                    }
                )
    return {"images": images, "annotations": truth, "categories": CATEGORIES}, found


def along_outlines(judge_class: type) -> type:
    """pycocotools' judge, whose overlaps are those of boundary AP, worked out pixel by pixel."""
    from pycocotools import mask

    def boundary(pixels: np.ndarray) -> np.ndarray:
        """The pixels from which a square of 2 % of the diagonal on each side reaches out of the mask."""
        (height, width), reach = pixels.shape, round(0.02 * np.hypot(*pixels.shape))
        inside = np.pad(pixels, reach)  # outside the picture there is no mask
        inside = np.all([inside[i : i + height] for i in range(2 * reach + 1)], axis=0)
        return pixels & ~np.all([inside[:, i : i + width] for i in range(2 * reach + 1)], axis=0)

    def overlap(one: np.ndarray, other: np.ndarray, crowd: bool) -> float:
        return (one & other).sum() / max(1, (one if crowd else one | other).sum())

    class Judge(judge_class):
        def computeIoU(self, image, category):
            def pixels(entry: dict) -> np.ndarray:
                return mask.decode(entry["segmentation"]).astype(bool)

            there = self._gts[image, category]
            here = sorted(self._dts[image, category], key=lambda one: -one["score"])[
                : self.params.maxDets[-1]
            ]
            ious = np.zeros((len(here), len(there)))
            for i, one in enumerate(map(pixels, here)):
                for j, (other, crowd) in enumerate((pixels(o), o["iscrowd"]) for o in there):
                    ious[i, j] = overlap(one, other, crowd)
                    if not crowd:
                        ious[i, j] = min(ious[i, j], overlap(boundary(one), boundary(other), False))
            return ious if ious.size else []

    return Judge


def pycocotools_says(truth: dict, found: list[dict], kind: str, cap: int) -> tuple[dict, np.ndarray]:
    """The oracle: its own summary where its cap allows, and its precision of every class."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        judged = COCO()
        judged.dataset = copy.deepcopy({"info": {}, **truth})
        judged.createIndex()
        field = {"bbox": "bbox", "keypoints": "keypoints"}.get(kind, "segmentation")
        keys = ("image_id", "category_id", "score", field)
        result = judged.loadRes([{key: copy.deepcopy(one[key]) for key in keys} for one in found])
        judges = {"boundary": along_outlines(COCOeval)}
        judge = judges.get(kind, COCOeval)(judged, result, "segm" if kind == "boundary" else kind)
        judge.params.maxDets = [20] if kind == "keypoints" else [1, 2, cap]
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    order = ("AP", "AP50", "AP75", "APm", "APl") if kind == "keypoints" else NAMES
    return dict(zip(order, judge.stats, strict=False)), judge.eval["precision"][..., 0, -1]


def same(ours: float | None, theirs: float) -> bool:
    return ours is None if theirs == -1 else ours == pytest.approx(100 * theirs, abs=1e-6)


@pytest.mark.parametrize("kind", ["bbox", "segm", "keypoints"])
@pytest.mark.parametrize("seed", range(4))
def test_equals_pycocotools(kind, seed):
    truth, found = scene(np.random.default_rng(seed))
    theirs, precision = pycocotools_says(truth, found, kind, 100)
    ours = coco_metrics(truth, found, [kind])[kind]
    assert 5 < ours["AP"] < 95
    assert {name: same(ours[name], value) for name, value in theirs.items()} == dict.fromkeys(theirs, True)
    for k, name in enumerate(["star", "disk", "never [seen]"]):  # in order of id
        valid = precision[:, :, k][precision[:, :, k] > -1]
        assert same(ours["per_class"][name]["AP"], valid.mean() if valid.size else -1)


def careful(truth: dict, found: list[dict]) -> list[dict]:
    """The found, and for every other object its outline, slightly off: good enough for boundary AP."""
    rng = np.random.default_rng(len(found))
    objects = truth["annotations"][::2]
    boxes = [np.array(one["bbox"]) + rng.normal(0, 1, 4) for one in objects]
    return found + [
        {key: one[key] for key in ("image_id", "category_id")}
        | {"score": float(rng.random()), "segmentation": to_rle(ellipse(*box))}
        for one, box in zip(objects, boxes, strict=True)
    ]


@pytest.mark.parametrize("seed", range(2))
def test_boundary_ap_by_eroding(seed):
    truth, found = scene(np.random.default_rng(seed), pictures=8)
    found = careful(truth, found)
    theirs, precision = pycocotools_says(truth, found, "boundary", 100)
    ours = coco_metrics(truth, found, ("segm", "boundary"))
    assert {name: same(ours["boundary"][name], value) for name, value in theirs.items()} == dict.fromkeys(
        theirs, True
    )
    assert same(ours["boundary"]["per_class"]["disk"]["AP"], precision[:, :, 1].mean())
    assert 5 < ours["boundary"]["AP"] < ours["segm"]["AP"] - 5


def test_a_kind_that_cannot_be_judged():
    with pytest.raises(ValueError, match=r"no kind 'boundry' to judge: did you mean boundary\?"):
        coco_metrics(one_object(), [], ["boundry"])
    with pytest.raises(ValueError, match="cannot judge 'boundary': detection in picture 1 without 'segm"):
        coco_metrics(one_object(), [one_detection()], ["boundary"])
    with pytest.raises(ValueError, match="detection in picture 3, which the truth does not list"):
        coco_metrics(one_object(), [one_detection(image_id=3)], ["bbox"])
    with pytest.raises(ValueError, match="annotation in picture 3, which the truth does not list"):
        coco_metrics(one_object(image_id=3), [one_detection()], ["bbox"])


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_the_cap_counts_for_every_number(kind):
    truth, found = scene(np.random.default_rng(5))
    _, precision = pycocotools_says(truth, found, kind, 2)
    ours = coco_metrics(truth, found, [kind], max_detections=2)[kind]
    assert same(ours["AP"], precision[precision > -1].mean())
    assert ours["AP"] < coco_metrics(truth, found, [kind])[kind]["AP"] - 1


def test_inputs_stay_as_they_are():
    truth, found = scene(np.random.default_rng(0))
    before = copy.deepcopy((truth, found))
    coco_metrics(truth, found, ["bbox", "segm", "boundary", "keypoints"])
    assert (truth, found) == before


def one_object(**more) -> dict:
    annotation = {"id": 0, "image_id": 1, "category_id": 7, "bbox": [10, 10, 40, 40], **more}
    return {
        "images": [{"id": 1, "height": HEIGHT, "width": WIDTH}],
        "annotations": [annotation],
        "categories": [{"id": 7, "name": "disk"}],
    }


def one_detection(**more) -> dict:
    return {"image_id": 1, "category_id": 7, "score": 0.5, "bbox": [10, 10, 40, 40], **more}


def test_annotation_id_0_is_found_like_any_other():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert coco_metrics(one_object(), [one_detection()], ["bbox"])["bbox"]["AP"] == pytest.approx(100)


def test_repeated_annotation_ids_are_two_objects():
    truth = one_object()
    truth["annotations"].append(truth["annotations"][0] | {"bbox": [80, 80, 30, 30]})
    ours = coco_metrics(truth, [one_detection()], ["bbox"])["bbox"]["AP"]
    assert ours == pytest.approx(100 * 51 / 101)  # of 101 recalls 0, 0.01 … 0.5 are reached


def test_nothing_found_is_zero_and_nothing_to_find_is_none():
    part = coco_metrics(one_object(), [], ["bbox", "segm"])["bbox"]
    assert (part["AP"], part["AP50"], part["APm"]) == (0.0, 0.0, 0.0)
    assert part["APs"] is None and part["APl"] is None
    empty = one_object() | {"annotations": []}
    assert coco_metrics(empty, [one_detection()], ["bbox"])["bbox"]["AP"] is None


def test_missing_area_is_that_of_the_mask():
    small = ellipse(10, 10, 34, 34)  # 908 px², small, in a box of 1156 px², medium
    for form in ([small], to_rle(small), runs(small)):
        part = coco_metrics(one_object(segmentation=form), [one_detection(bbox=[10, 10, 34, 34])], ["bbox"])
        assert part["bbox"]["APm"] is None and part["bbox"]["APs"] > 0


def test_a_ring_of_two_points_is_not_a_box():
    disk = ellipse(10, 10, 40, 40)
    truth = one_object(segmentation=[[0, 0, 200, 200], disk])
    found = [one_detection(segmentation=to_rle(disk))]
    part = coco_metrics(truth, found, ["segm"])["segm"]
    assert part["AP"] == part["APm"] == pytest.approx(100) and part["APl"] is None


@pytest.mark.parametrize("kind", ["segm", "boundary"])
def test_an_object_without_a_mask_is_neither_found_nor_missed(kind):
    truth = one_object()
    truth["annotations"].append(
        one_object(bbox=[80, 60, 40, 40], segmentation=[ellipse(80, 60, 40, 40)])["annotations"][0]
    )
    found = [
        one_detection(score=0.9, segmentation=to_rle(ellipse(10, 10, 40, 40))),
        one_detection(score=0.5, segmentation=to_rle(ellipse(80, 60, 40, 40))),
    ]
    assert coco_metrics(truth, found, [kind])[kind]["AP"] == pytest.approx(100)


def test_keypoints_that_are_not_cocos():
    rng = np.random.default_rng(3)
    truth, found = scene(rng, joints=5)
    for annotation in truth["annotations"][::5]:
        del annotation["keypoints"], annotation["num_keypoints"]
    assert 5 < coco_metrics(truth, found, ["keypoints"])["keypoints"]["AP"] < 95
    perfect = [
        annotation | {"score": 0.5} for annotation in truth["annotations"] if annotation.get("num_keypoints")
    ]
    assert coco_metrics(truth, perfect, ["keypoints"], 100)["keypoints"]["AP"] == pytest.approx(100)


def test_cap_below_one():
    with pytest.raises(ValueError, match="max_detections must be at least 1, not 0"):
        coco_metrics(one_object(), [], max_detections=0)


# --- the data set and the results around it ---


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


def dataset(folder: Path, truth: dict) -> CocoDataset:
    for image in truth["images"]:
        image["file_name"] = f"{image['id']}.png"
        Image.new("RGB", (image["width"], image["height"])).save(folder / image["file_name"])
    (folder / "truth.json").write_text(json.dumps(truth))
    return CocoDataset(folder / "truth.json", folder)


def test_results_are_judged_in_the_order_of_the_pictures(tmp_path):
    truth = one_object(segmentation=[[10, 10, 50, 10, 50, 50, 10, 50]])
    truth["images"].insert(0, {"id": 9, "height": HEIGHT, "width": WIDTH})
    data = dataset(tmp_path, truth)
    metrics = evaluate(iter([result((), ()), result()]), data)
    assert list(metrics) == ["bbox", "segm"]
    assert metrics["bbox"]["AP"] == metrics["segm"]["AP"] == pytest.approx(100)
    assert metrics["segm"]["per_class"]["disk"]["AP"] == pytest.approx(100)
    wrong = evaluate(iter([result(), result((), ())]), data)
    assert wrong["bbox"]["AP"] == wrong["segm"]["AP"] == 0
    with pytest.raises(ValueError, match="shorter"):
        evaluate([result()], data)


class Told(Predictor):
    """A predictor that says what it was told."""

    def __init__(self, answers: dict) -> None:
        self.answers = answers

    def predict_many(self, pictures, *, score=0.5, **_):
        assert score == 0
        return ((path, self.answers[path.name]) for path in pictures)


def test_judges_a_predictor(tmp_path):
    data = dataset(tmp_path, one_object(segmentation=[[10, 10, 50, 10, 50, 50, 10, 50]]))
    assert evaluate(Told({"1.png": result()}), data)["segm"]["AP"] == pytest.approx(100)
    with pytest.raises(ValueError, match=r"cannot evaluate: 1\.png is broken"):
        evaluate(Told({"1.png": PictureError("1.png is broken")}), data)


def test_kinds_are_what_the_network_predicts(tmp_path):
    data = dataset(tmp_path, one_object(segmentation=[ellipse(10, 10, 40, 40)]))
    assert detections_to_coco([result(mask_probs=None)], data)[1] == ("bbox",)
    joints = np.zeros((0, 17, 3), np.float32)
    found, kinds = detections_to_coco([result((), (), keypoints=joints)], data)
    assert kinds == ("bbox", "segm", "keypoints") and found == []


def test_more_kinds_when_asked_for(tmp_path):
    data = dataset(tmp_path, one_object(segmentation=[[10, 10, 50, 10, 50, 50, 10, 50]]))
    metrics = evaluate([result()], data, also=["boundary", "segm"])
    assert list(metrics) == ["bbox", "segm", "boundary"]
    assert metrics["boundary"]["AP"] == pytest.approx(100)
    with pytest.raises(ValueError, match="cannot judge 'boundary': the network predicts only bbox"):
        evaluate([result(mask_probs=None)], data, also=["boundary"])
    with pytest.raises(ValueError, match="no kind 'borders'"):
        evaluate([], data, also=["borders"])  # before anything is predicted


def test_keypoints_are_judged_where_coco_counts_them(tmp_path):
    flat = [12, 30, 2, 30, 30, 1, 48, 30, 0]
    truth = one_object(segmentation=[ellipse(10, 10, 40, 40)], keypoints=flat)
    truth["categories"][0]["keypoints"] = ["left", "middle", "right"]
    data = dataset(tmp_path, truth)
    # The keypoint of pixel 12 lies at 12.5, its centre.
    found = np.array(flat, np.float32).reshape(1, 3, 3) + np.array([0.5, 0.5, 0], np.float32)
    assert detections_to_coco([result(keypoints=found)], data)[0][0]["keypoints"] == flat
    assert evaluate([result(keypoints=found)], data)["keypoints"]["AP"] == pytest.approx(100)


def test_classes_go_by_id_and_name(tmp_path):
    truth = one_object()
    truth["categories"].append({"id": 2, "name": "disk"})
    data = dataset(tmp_path, truth)
    known = {"metadata": Metadata(("disk (2)", "disk (7)", "more"), (2, 7, 90))}
    metrics = evaluate([result(labels=(1,), **known)], data)["bbox"]
    assert {name: part["AP"] for name, part in metrics["per_class"].items()} == {
        "disk (2)": None,
        "disk (7)": pytest.approx(100),
    }
    with pytest.raises(ValueError, match=r"does not know 2 of the 2 classes of .* such as 2 'disk \(2\)'"):
        evaluate([result()], data)


def test_a_picture_of_another_size(tmp_path):
    data = dataset(tmp_path, one_object())
    with pytest.raises(ValueError, match=r"1\.png is 200 by 240 .* but .*truth\.json says 240 by 200"):
        evaluate([result(size_hw=(WIDTH, HEIGHT))], data)


def test_metrics_as_table_and_file(tmp_path):
    truth, found = scene(np.random.default_rng(1))
    metrics = coco_metrics(truth, found, ["bbox", "segm"])
    console = Console(file=io.StringIO(), width=100)
    console.print(table(metrics))
    lines = console.file.getvalue().splitlines()
    [masks] = [line for line in lines if "masks" in line and "AP" not in line]
    assert f"{metrics['segm']['AP']:.1f}" in masks and f"{metrics['segm']['APl']:.1f}" in masks
    [never] = [line for line in lines if "never [seen]" in line]
    assert never.count(" - ") == 2
    write_metrics(tmp_path / "metrics.json", metrics)
    assert json.loads((tmp_path / "metrics.json").read_text()) == metrics
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]


# --- real annotations ---

SHARED = Path(os.environ.get("MASKRCNN_SHARED", Path(__file__).parents[3] / "shared"))
COCO_SMALL = SHARED / "data/coco_small/annotations/instances_val.json"


def real_scene(pictures: int = 80) -> tuple[dict, list[dict]]:
    """Real annotations, crowds among them; as detections they are moved, doubled, missed, mistaken."""
    from pycocotools import mask
    from pycocotools.coco import COCO

    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(COCO_SMALL)
    truth = coco.dataset | {"images": coco.dataset["images"][:pictures]}
    kept = {image["id"] for image in truth["images"]}
    truth["annotations"] = [one for one in truth["annotations"] if one["image_id"] in kept]
    classes = [category["id"] for category in truth["categories"]]
    rng, found = np.random.default_rng(0), []
    for annotation in truth["annotations"]:
        pixels, box = coco.annToMask(annotation), np.array(annotation["bbox"])
        for _ in range(rng.choice(4, p=[0.2, 0.5, 0.2, 0.1])):
            shift = np.round(rng.normal(0, 0.06, 2) * box[3:1:-1]).astype(int)
            rle = mask.encode(np.asfortranarray(np.roll(pixels, shift, (0, 1))))
            is_wrong = rng.random() < 0.1
            found.append(
                {
                    "image_id": annotation["image_id"],
                    "category_id": int(rng.choice(classes)) if is_wrong else annotation["category_id"],
                    "score": round(float(rng.random()), 2),  # some ties
                    "bbox": (box + rng.normal(0, 0.06, 4) * box[[2, 3, 2, 3]]).tolist(),
                    "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()},
                }
            )
    return truth, found


@pytest.mark.skipif(not COCO_SMALL.is_file(), reason="the shared folder with real annotations is not here")
@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_equals_pycocotools_on_real_annotations(kind):
    truth, found = real_scene()
    theirs, precision = pycocotools_says(truth, found, kind, 100)
    ours = coco_metrics(truth, found, [kind])[kind]
    assert {name: same(ours[name], value) for name, value in theirs.items()} == dict.fromkeys(theirs, True)
    for k, category in enumerate(truth["categories"]):  # in order of id, as the file has them
        valid = precision[:, :, k][precision[:, :, k] > -1]
        assert same(ours["per_class"][category["name"]]["AP"], valid.mean() if valid.size else -1)
    # Crowds count: without them, what was found in them is wrong.
    alone = truth | {"annotations": [one for one in truth["annotations"] if not one["iscrowd"]]}
    assert coco_metrics(alone, found, [kind])[kind]["AP"] < ours["AP"] - 1e-3
