"""COCO's average precision of boxes, masks, boundaries and keypoints, over all classes and of each.

The numbers are those of pycocotools, in percent, as the papers print them; None stands where there is nothing
to find (pycocotools' -1). Everything here is in file pixels and in the data set's own category ids.

"boundary" judges masks along their outlines (Cheng et al., Boundary IoU, CVPR 2021): the overlap of two masks
is the lesser of their IoU and of the IoU of those parts of them that lie within 2 % of the picture's diagonal
of their outlines. Large masks have few of their pixels there, so only this asks them to be right there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from maskrcnn.data.dataset import Dataset
from maskrcnn.files import write_json
from maskrcnn.messages import nearest
from maskrcnn.predict.predictor import PictureError, Predictor
from maskrcnn.results.result import Result

Metrics = dict[str, dict[str, Any]]

# What is judged, the field that holds it, and its name for people.
_FIELDS = {"bbox": "bbox", "segm": "segmentation", "boundary": "segmentation", "keypoints": "keypoints"}
_TITLES = {"bbox": "boxes", "segm": "masks", "boundary": "boundaries", "keypoints": "keypoints"}
_AREAS = [[0, 1e10], [0, 32**2], [32**2, 96**2], [96**2, 1e10]]  # all, small, medium, large, in px²
_MAX_KEYPOINT_DETECTIONS = 20  # COCO's cap for people
_OTHER_SIGMA = 0.067  # the mean of COCO's 17, for keypoints that are not COCO's


def evaluate(
    source: Predictor | Iterable[Result],
    dataset: Dataset,
    *,
    max_detections: int = 100,
    also: Sequence[str] = (),
) -> Metrics:
    """Judge a predictor, or its results in the order of the data set's pictures.

    Returns ``{"bbox": {"AP", "AP50", "AP75", "APs", "APm", "APl", "per_class": {name: {"AP", …}}}, "segm",
    "keypoints"}``, masks and keypoints only where the network predicts them. `max_detections` says how many
    detections of a class count in a picture, the surest ones (of keypoints never more than COCO's 20). `also`
    names kinds to judge beside these, such as ``["boundary"]``.

    Raises ValueError for a picture that cannot be read or has another size than its annotation says, for
    classes of the data set that the network does not know by the same id and name, and for kinds in `also`
    that there are not or that the network does not predict.
    """
    needed = {kind: _field(kind) for kind in also}  # before the long part
    results = predicted(source, dataset.paths) if isinstance(source, Predictor) else source
    detections, kinds = detections_to_coco(results, dataset)
    for kind, field in needed.items():
        if field not in {_FIELDS[given] for given in kinds}:
            raise ValueError(f"cannot judge '{kind}': the network predicts only {', '.join(kinds)}")
    return coco_metrics(dataset.truth(), detections, dict.fromkeys([*kinds, *also]), max_detections)


def _field(kind: str) -> str:
    if kind not in _FIELDS:
        raise ValueError(f"there is no kind '{kind}' to judge: {nearest(kind, _FIELDS)}")
    return _FIELDS[kind]


def predicted(predictor: Predictor, paths: Sequence[Path]) -> Iterator[Result]:
    """Predict picture by picture, all that the network is sure of at all.

    Raises ValueError for a picture that cannot be read.
    """
    for _, result in predictor.predict_many(paths, score=0.0):
        if isinstance(result, PictureError):
            raise ValueError(f"cannot evaluate: {result.message}")
        yield result


def detections_to_coco(
    results: Iterable[Result], dataset: Dataset
) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """Return all detections in COCO's result format, and which kinds of them there are.

    The results come in the order of the data set's pictures and are read one by one, so a stream stays small.
    Raises ValueError as `evaluate` does.
    """
    detections: list[dict[str, Any]] = []
    kinds: tuple[str, ...] = ("bbox",)
    for picture, result in zip(range(len(dataset)), results, strict=True):
        _check(result, dataset, picture)
        kinds = ("bbox",) + ("segm",) * (result.mask_probs is not None)
        kinds += ("keypoints",) * (result.keypoints is not None)
        detections += result.to_coco(int(dataset.image_ids[picture]))
    return detections, kinds


def _check(result: Result, dataset: Dataset, picture: int) -> None:
    known = set(zip(result.category_ids, result.class_names, strict=True))
    unknown = [
        pair for pair in zip(dataset.category_ids, dataset.class_names, strict=True) if pair not in known
    ]
    if unknown:
        raise ValueError(
            f"the network does not know {len(unknown)} of the {len(dataset.class_names)} classes of "
            f"{dataset.source} by the same id and name, such as {unknown[0][0]} '{unknown[0][1]}': "
            "evaluate on the data set that it was trained for"
        )
    said, read = tuple(dataset.sizes_hw[picture].tolist()), tuple(result.size_hw)
    if said != read:
        raise ValueError(
            f"{dataset.paths[picture]} is {read[1]} by {read[0]} pixels large, but {dataset.source} "
            f"says {said[1]} by {said[0]}: correct its width and height there"
        )


def coco_metrics(
    truth: dict[str, Any],
    detections: Sequence[dict[str, Any]],
    kinds: Iterable[str] = ("bbox", "segm"),
    max_detections: int = 100,
) -> Metrics:
    """Judge detections in COCO's result format by a truth in COCO's annotation format; both stay as they are.

    `kinds` are of "bbox", "segm", "boundary" and "keypoints". In "segm" and "boundary" the area of a
    detection is that of its mask, and an object without a mask is neither found nor missed.

    Raises ValueError for a cap below 1, for a kind that there is not or that a detection lacks, and for an
    annotation or a detection in a picture that the truth does not list.
    """
    return {
        kind: summaries(truth, precision_of(judge(kind, truth, detections, max_detections))) for kind in kinds
    }


def judge(
    kind: str,
    truth: dict[str, Any],
    detections: Sequence[dict[str, Any]],
    max_detections: int,
    **options: Any,
) -> Any:
    """Return faster-coco-eval's `COCOeval_faster`, done; `options` are more of its arguments.

    Raises ValueError as `coco_metrics` does.
    """
    from faster_coco_eval import COCO, COCOeval_faster

    if max_detections < 1:
        raise ValueError(f"max_detections must be at least 1, not {max_detections}")
    _check_entries(kind, truth, detections)
    judged = COCO(_completed(truth, kind))
    # Only the judged field: with a box beside it, COCO's tools would take an object's size from that box.
    fields = ("image_id", "category_id", "score", _FIELDS[kind])
    found = judged.loadRes([{field: detection[field] for field in fields} for detection in detections])
    sigmas = _sigmas(truth) if kind == "keypoints" else None
    made = COCOeval_faster(judged, found, kind, kpt_oks_sigmas=sigmas, **options)
    made.params.catIds = sorted(judged.getCatIds())
    made.params.areaRng, made.params.areaRngLbl = _AREAS, ["all", "small", "medium", "large"]
    cap = min(max_detections, _MAX_KEYPOINT_DETECTIONS) if kind == "keypoints" else max_detections
    made.params.maxDets = [cap]
    made.evaluate()
    made.accumulate()
    return made


def _check_entries(kind: str, truth: dict[str, Any], detections: Sequence[dict[str, Any]]) -> None:
    listed, field = {image["id"] for image in truth["images"]}, _field(kind)
    for what, entries in {"annotation": truth["annotations"], "detection": detections}.items():
        for entry in entries:
            if entry["image_id"] not in listed:
                raise ValueError(f"{what} in picture {entry['image_id']}, which the truth does not list")
    for one in detections:
        if field not in one:
            raise ValueError(
                f"cannot judge '{kind}': detection in picture {one['image_id']} without '{field}'"
            )


def precision_of(done: Any) -> np.ndarray:
    """Return a judge's precision at 10 IoUs × 101 recalls × classes in order of id × 4 area ranges."""
    return np.asarray(done.eval["precision"])[..., 0]


def summaries(truth: dict[str, Any], precision: np.ndarray) -> dict[str, Any]:
    """Return the numbers over all classes, and under "per_class" those of each by its name."""
    categories = sorted(truth["categories"], key=lambda category: category["id"])
    per_class = {category["name"]: summary(precision[:, :, [k]]) for k, category in enumerate(categories)}
    return {**summary(precision), "per_class": per_class}


def summary(precision: np.ndarray) -> dict[str, float | None]:
    """Return AP, AP50, AP75, APs, APm and APl over the classes given; those without objects do not count."""
    cuts = {"AP": precision[..., 0], "AP50": precision[0, ..., 0], "AP75": precision[5, ..., 0]}
    cuts |= {"APs": precision[..., 1], "APm": precision[..., 2], "APl": precision[..., 3]}
    return {name: _percent(cut[cut > -1]) for name, cut in cuts.items()}


def _percent(values: np.ndarray) -> float | None:
    return 100 * float(values.mean()) if values.size else None


def _completed(truth: dict[str, Any], kind: str) -> dict[str, Any]:
    """Return a copy of the truth with all the fields that COCO's tools need, of which many files lack some.

    Ids count from 1: the evaluator takes 0 for "not matched", and repeated ids for one object.
    """
    sizes_hw = {image["id"]: (image["height"], image["width"]) for image in truth["images"]}
    unlabelled = [0] * (3 * _keypoint_count(truth))
    annotations = []
    for number, entry in enumerate(truth["annotations"], start=1):
        mask = _without_lines(entry.get("segmentation") or [])
        annotation = {"iscrowd": 0, **entry, "id": number, "segmentation": mask}
        if annotation.get("area") is None:
            annotation["area"] = _area(annotation, *sizes_hw[entry["image_id"]])
        if kind in ("segm", "boundary") and not mask:
            annotation.update(iscrowd=1, segmentation=[_outline(entry["bbox"])])
        if kind == "keypoints":
            flat = entry.get("keypoints") or unlabelled
            annotation.update(keypoints=flat, num_keypoints=int(np.count_nonzero(flat[2::3])))
        annotations.append(annotation)
    images = [dict(image) for image in truth["images"]]
    return {"images": images, "annotations": annotations, "categories": truth["categories"]}


def _without_lines(segmentation: list | dict[str, Any]) -> list | dict[str, Any]:
    """Drop rings of fewer than 3 points, which hold no pixel: COCO's tools take 2 points for a box."""
    return segmentation if isinstance(segmentation, dict) else [r for r in segmentation if len(r) >= 6]


def _area(annotation: dict[str, Any], height: int, width: int) -> float:
    from faster_coco_eval import mask

    segmentation = annotation["segmentation"]
    if not segmentation:
        return float(annotation["bbox"][2] * annotation["bbox"][3])
    if isinstance(segmentation, list):
        return float(mask.area(mask.merge(mask.frPyObjects(segmentation, height, width))))
    compressed = isinstance(segmentation["counts"], str)
    return float(mask.area(segmentation if compressed else mask.frPyObjects(segmentation, height, width)))


def _outline(bbox: list) -> list:
    x, y, width, height = bbox
    return [x, y, x + width, y, x + width, y + height, x, y + height]


def _keypoint_count(truth: dict[str, Any]) -> int:
    return max((len(a.get("keypoints") or ()) for a in truth["annotations"]), default=0) // 3


def _sigmas(truth: dict[str, Any]) -> list[float] | None:
    count = _keypoint_count(truth)
    return None if count == 17 else [_OTHER_SIGMA] * count  # None: COCO's own


def table(metrics: Metrics, title: str = "") -> Group:
    """Return tables to print with rich: all numbers over all classes, and the AP of each of several.

    `title` says whose numbers they are, where they are not COCO's.
    """
    names = [name for name in next(iter(metrics.values())) if name != "per_class"]
    summary = _table(
        title, names, {_TITLES[k]: [part[name] for name in names] for k, part in metrics.items()}
    )
    classes = list(next(iter(metrics.values()))["per_class"])
    rows = {name: [part["per_class"][name]["AP"] for part in metrics.values()] for name in classes}
    per_class = _table(f"{title} class".strip(), [f"AP {_TITLES[kind]}" for kind in metrics], rows)
    return Group(summary, per_class) if len(classes) > 1 else Group(summary)


def _table(corner: str, columns: Sequence[str], rows: dict[str, list[float | None]]) -> Table:
    made = Table(corner)
    for column in columns:
        made.add_column(column, justify="right")
    for title, numbers in rows.items():
        made.add_row(escape(title), *("-" if number is None else f"{number:.1f}" for number in numbers))
    return made


def write_metrics(path: Path | str, metrics: Metrics) -> None:
    """Write the metrics as JSON, whole or not at all."""
    write_json(Path(path), metrics)
