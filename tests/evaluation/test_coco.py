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
from rich.console import Console

from maskrcnn.evaluation.coco import coco_metrics
from maskrcnn.evaluation.tables import metrics_tables, write_metrics

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
    truth, detections = [], []
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
                detections.append(
                    {
                        "image_id": image["id"],
                        "category_id": category if rng.random() < 0.9 else 9 - category,
                        "score": round(float(rng.random()), 1),  # many ties
                        "bbox": moved.tolist(),
                        "segmentation": to_rle(ellipse(*moved)),
                        "keypoints": np.column_stack([noisy, np.ones(joints)]).ravel().tolist(),
                    }
                )
    return {"images": images, "annotations": truth, "categories": CATEGORIES}, detections


def along_outlines(base_class: type) -> type:
    """pycocotools' evaluation with the overlaps of boundary AP, computed pixel by pixel."""
    from pycocotools import mask

    def boundary(pixels: np.ndarray) -> np.ndarray:
        """The pixels from which a square of 2 % of the diagonal on each side reaches out of the mask."""
        (height, width), reach = pixels.shape, round(0.02 * np.hypot(*pixels.shape))
        inside = np.pad(pixels, reach)  # outside the picture there is no mask
        inside = np.all([inside[i : i + height] for i in range(2 * reach + 1)], axis=0)
        return pixels & ~np.all([inside[:, i : i + width] for i in range(2 * reach + 1)], axis=0)

    def overlap(one: np.ndarray, other: np.ndarray, crowd: bool) -> float:
        return (one & other).sum() / max(1, (one if crowd else one | other).sum())

    class BoundaryEval(base_class):
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

    return BoundaryEval


def pycocotools_says(truth: dict, detections: list[dict], kind: str, cap: int) -> tuple[dict, np.ndarray]:
    """The oracle: its own summary where its cap allows, and its precision of every class."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        coco_truth = COCO()
        coco_truth.dataset = copy.deepcopy({"info": {}, **truth})
        coco_truth.createIndex()
        field = {"bbox": "bbox", "keypoints": "keypoints"}.get(kind, "segmentation")
        keys = ("image_id", "category_id", "score", field)
        result = coco_truth.loadRes([{key: copy.deepcopy(one[key]) for key in keys} for one in detections])
        evaluators = {"boundary": along_outlines(COCOeval)}
        coco_eval = evaluators.get(kind, COCOeval)(coco_truth, result, "segm" if kind == "boundary" else kind)
        coco_eval.params.maxDets = [20] if kind == "keypoints" else [1, 2, cap]
        coco_eval.evaluate()
        coco_eval.accumulate()
        coco_eval.summarize()
    order = ("AP", "AP50", "AP75", "APm", "APl") if kind == "keypoints" else NAMES
    return dict(zip(order, coco_eval.stats, strict=False)), coco_eval.eval["precision"][..., 0, -1]


def same(ours: float | None, theirs: float) -> bool:
    return ours is None if theirs == -1 else ours == pytest.approx(100 * theirs, abs=1e-6)


@pytest.mark.parametrize("kind", ["bbox", "segm", "keypoints"])
@pytest.mark.parametrize("seed", range(4))
def test_equals_pycocotools(kind, seed):
    truth, detections = scene(np.random.default_rng(seed))
    theirs, precision = pycocotools_says(truth, detections, kind, 100)
    ours = coco_metrics(truth, detections, [kind])[kind]
    assert 5 < ours["AP"] < 95
    assert {name: same(ours[name], value) for name, value in theirs.items()} == dict.fromkeys(theirs, True)
    for k, name in enumerate(["star", "disk", "never [seen]"]):  # in order of id
        valid = precision[:, :, k][precision[:, :, k] > -1]
        assert same(ours["per_class"][name]["AP"], valid.mean() if valid.size else -1)


def careful(truth: dict, detections: list[dict]) -> list[dict]:
    """Return the detections, and more of every other object with an outline that is right within pixels."""
    rng = np.random.default_rng(len(detections))
    objects = truth["annotations"][::2]
    boxes = [np.array(one["bbox"]) + rng.normal(0, 1, 4) for one in objects]
    return detections + [
        {key: one[key] for key in ("image_id", "category_id")}
        | {"score": float(rng.random()), "segmentation": to_rle(ellipse(*box))}
        for one, box in zip(objects, boxes, strict=True)
    ]


@pytest.mark.parametrize("seed", range(2))
def test_boundary_ap_by_eroding(seed):
    truth, detections = scene(np.random.default_rng(seed), pictures=8)
    detections = careful(truth, detections)
    theirs, precision = pycocotools_says(truth, detections, "boundary", 100)
    ours = coco_metrics(truth, detections, ("segm", "boundary"))
    assert {name: same(ours["boundary"][name], value) for name, value in theirs.items()} == dict.fromkeys(
        theirs, True
    )
    assert same(ours["boundary"]["per_class"]["disk"]["AP"], precision[:, :, 1].mean())
    assert 5 < ours["boundary"]["AP"] < ours["segm"]["AP"] - 5


def test_a_kind_that_cannot_be_evaluated():
    with pytest.raises(ValueError, match=r"'boundry' cannot be evaluated: did you mean boundary\?"):
        coco_metrics(one_object(), [], ["boundry"])
    with pytest.raises(
        ValueError,
        match="'boundary' cannot be evaluated: 1 of 1 detections have no 'segmentation', in images 1",
    ):
        coco_metrics(one_object(), [one_detection()], ["boundary"])
    with pytest.raises(
        ValueError, match="1 of 1 detections have an image_id that the ground truth does not list: 3"
    ):
        coco_metrics(one_object(), [one_detection(image_id=3)], ["bbox"])
    with pytest.raises(
        ValueError, match="1 of 1 annotations have an image_id that the ground truth does not list: 3"
    ):
        coco_metrics(one_object(image_id=3), [one_detection()], ["bbox"])


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_the_cap_counts_for_every_number(kind):
    truth, detections = scene(np.random.default_rng(5))
    _, precision = pycocotools_says(truth, detections, kind, 2)
    ours = coco_metrics(truth, detections, [kind], max_detections=2)[kind]
    assert same(ours["AP"], precision[precision > -1].mean())
    assert ours["AP"] < coco_metrics(truth, detections, [kind])[kind]["AP"] - 1


@pytest.mark.parametrize("score", [float("nan"), float("inf")])
def test_scores_that_are_no_numbers_are_refused(score):
    detections = [one_detection(), one_detection(score=score)]
    with pytest.raises(
        ValueError, match=f"1 of 2 detections have a score that is not a .*: {score} in image 1"
    ):
        coco_metrics(one_object(), detections, ["bbox"])


def test_inputs_stay_as_they_are():
    truth, detections = scene(np.random.default_rng(0))
    before = copy.deepcopy((truth, detections))
    coco_metrics(truth, detections, ["bbox", "segm", "boundary", "keypoints"])
    assert (truth, detections) == before


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


def test_ids_of_any_size_count():
    """Time stamps and hashes: neighbours among them are one number in floating point."""
    truth, detections = scene(np.random.default_rng(0))
    large = {"image_id": 2**62, "category_id": 2**60}

    def moved(entry):
        return entry | {key: entry[key] + large[key] for key in large}

    moved_truth = {
        "images": [image | {"id": image["id"] + large["image_id"]} for image in truth["images"]],
        "categories": [one | {"id": one["id"] + large["category_id"]} for one in truth["categories"]],
        "annotations": list(map(moved, truth["annotations"])),
    }
    expected = coco_metrics(truth, detections, ("bbox", "segm"))
    assert coco_metrics(moved_truth, list(map(moved, detections)), ("bbox", "segm")) == expected
    assert expected["segm"]["AP"] > 0


def test_missing_area_is_that_of_the_mask():
    small = ellipse(10, 10, 34, 34)  # 908 px², small, in a box of 1156 px², medium
    for form in ([small], to_rle(small), runs(small)):
        part = coco_metrics(one_object(segmentation=form), [one_detection(bbox=[10, 10, 34, 34])], ["bbox"])
        assert part["bbox"]["APm"] is None and part["bbox"]["APs"] > 0


def test_a_ring_of_two_points_is_not_a_box():
    disk = ellipse(10, 10, 40, 40)
    truth = one_object(segmentation=[[0, 0, 200, 200], disk])
    detections = [one_detection(segmentation=to_rle(disk))]
    part = coco_metrics(truth, detections, ["segm"])["segm"]
    assert part["AP"] == part["APm"] == pytest.approx(100) and part["APl"] is None


@pytest.mark.parametrize("kind", ["segm", "boundary"])
def test_an_object_without_a_mask_is_neither_found_nor_missed(kind):
    truth = one_object()
    truth["annotations"].append(
        one_object(bbox=[80, 60, 40, 40], segmentation=[ellipse(80, 60, 40, 40)])["annotations"][0]
    )
    detections = [
        one_detection(score=0.9, segmentation=to_rle(ellipse(10, 10, 40, 40))),
        one_detection(score=0.5, segmentation=to_rle(ellipse(80, 60, 40, 40))),
    ]
    assert coco_metrics(truth, detections, [kind])[kind]["AP"] == pytest.approx(100)


def test_keypoints_that_are_not_cocos():
    rng = np.random.default_rng(3)
    truth, detections = scene(rng, joints=5)
    for annotation in truth["annotations"][::5]:
        del annotation["keypoints"], annotation["num_keypoints"]
    assert 5 < coco_metrics(truth, detections, ["keypoints"])["keypoints"]["AP"] < 95
    perfect = [
        annotation | {"score": 0.5} for annotation in truth["annotations"] if annotation.get("num_keypoints")
    ]
    assert coco_metrics(truth, perfect, ["keypoints"], 100)["keypoints"]["AP"] == pytest.approx(100)


def test_cap_below_one():
    with pytest.raises(ValueError, match="max_detections must be at least 1, not 0"):
        coco_metrics(one_object(), [], max_detections=0)


def test_metrics_as_table_and_file(tmp_path):
    truth, detections = scene(np.random.default_rng(1))
    metrics = coco_metrics(truth, detections, ["bbox", "segm"])
    console = Console(file=io.StringIO(), width=100)
    console.print(metrics_tables(metrics))
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
    rng, detections = np.random.default_rng(0), []
    for annotation in truth["annotations"]:
        pixels, box = coco.annToMask(annotation), np.array(annotation["bbox"])
        for _ in range(rng.choice(4, p=[0.2, 0.5, 0.2, 0.1])):
            shift = np.round(rng.normal(0, 0.06, 2) * box[3:1:-1]).astype(int)
            rle = mask.encode(np.asfortranarray(np.roll(pixels, shift, (0, 1))))
            is_wrong = rng.random() < 0.1
            detections.append(
                {
                    "image_id": annotation["image_id"],
                    "category_id": int(rng.choice(classes)) if is_wrong else annotation["category_id"],
                    "score": round(float(rng.random()), 2),  # some ties
                    "bbox": (box + rng.normal(0, 0.06, 4) * box[[2, 3, 2, 3]]).tolist(),
                    "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()},
                }
            )
    return truth, detections


@pytest.mark.skipif(not COCO_SMALL.is_file(), reason="the shared folder with real annotations is not here")
@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_equals_pycocotools_on_real_annotations(kind):
    truth, detections = real_scene()
    theirs, precision = pycocotools_says(truth, detections, kind, 100)
    ours = coco_metrics(truth, detections, [kind])[kind]
    assert {name: same(ours[name], value) for name, value in theirs.items()} == dict.fromkeys(theirs, True)
    for k, category in enumerate(truth["categories"]):  # in order of id, as the file has them
        valid = precision[:, :, k][precision[:, :, k] > -1]
        assert same(ours["per_class"][category["name"]]["AP"], valid.mean() if valid.size else -1)
    # Crowds count: without them, what was found in them is wrong.
    alone = truth | {"annotations": [one for one in truth["annotations"] if not one["iscrowd"]]}
    assert coco_metrics(alone, detections, [kind])[kind]["AP"] < ours["AP"] - 1e-3
