"""The evaluation of a network on a data set: what every command, the training and the paper's tables run."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from maskrcnn.data.dataset import Dataset
from maskrcnn.data.loader import PictureError
from maskrcnn.evaluation.cityscapes import cityscapes_metrics, is_cityscapes
from maskrcnn.evaluation.coco import FIELDS, Metrics, check_max_detections, coco_metrics
from maskrcnn.evaluation.coco_format import Entry
from maskrcnn.evaluation.lvis import check_lvis, lvis_metrics
from maskrcnn.messages import first_few, nearest
from maskrcnn.predict.predictor import Predictor
from maskrcnn.results.coco import to_coco
from maskrcnn.results.result import Result

_MAX_FAULTS = 8  # of images, after which an evaluation that fails anyway stops

LVIS = "lvis"


class Evaluation(NamedTuple):
    """The metrics of an evaluation, and what they were computed from.

    `metrics` has the kinds of `coco_metrics`: "bbox", "segm" and "keypoints" as the network predicts them,
    and "boundary" on request; "cityscapes" (see `cityscapes_metrics`) for ground truth of Cityscapes; and
    "lvis" (see `lvis_metrics`) on request. Ground truth and detections are in COCO's form (`coco_format`).
    """

    metrics: Metrics
    detections: list[Entry]
    truth: Entry
    max_detections: int  # of a class in an image, that count in COCO's metrics
    seconds_per_picture: float  # of prediction, from the file to the detections


def evaluate(
    source: Predictor | Iterable[Result | PictureError],
    dataset: Dataset,
    *,
    max_detections: int = 100,
    also: Sequence[str] = (),
) -> Evaluation:
    """Evaluate a predictor, or its results in the order of the data set's images.

    At most `max_detections` detections of each class and image count, those with the highest scores (of
    keypoints at most 20, in LVIS' metrics 300 of an image). `also` names further metrics: "boundary" for
    boundary AP, "lvis" for LVIS' AP of boxes and masks.

    Raises ValueError for `also` that does not exist, or that the network or the annotations do not support,
    for classes or keypoints that the network does not have, and for images that cannot be read or have
    another size than the annotations say: one sentence with the first few of these faults.
    """
    truth = dataset.truth()
    check_max_detections(max_detections)
    _check_also(also, truth)
    start = time.perf_counter()
    results = _predict(source, dataset.paths) if isinstance(source, Predictor) else source
    detections, kinds = detections_to_coco(_with_kinds(results, also), dataset)
    seconds = (time.perf_counter() - start) / max(len(dataset), 1)
    metrics = _metrics(truth, detections, kinds, max_detections, also)
    return Evaluation(metrics, detections, truth, max_detections, seconds)


def _check_also(also: Sequence[str], truth: Entry) -> None:
    for kind in also:
        if kind not in (*FIELDS, LVIS):
            raise ValueError(f"'{kind}' cannot be evaluated: {nearest(kind, (*FIELDS, LVIS))}")
    if LVIS in also:
        check_lvis(truth)


def _metrics(
    truth: Entry, detections: Sequence[Entry], kinds: Sequence[str], max_detections: int, also: Sequence[str]
) -> Metrics:
    """Compute all metrics of detections that have the fields of `kinds`."""
    coco_kinds = dict.fromkeys([*kinds, *(kind for kind in also if kind != LVIS)])
    metrics = coco_metrics(truth, detections, coco_kinds, max_detections)
    if is_cityscapes(truth) and "segm" in kinds:
        metrics["cityscapes"] = cityscapes_metrics(truth, detections)
    if LVIS in also:
        metrics[LVIS] = lvis_metrics(truth, detections, [kind for kind in kinds if kind != "keypoints"])
    return metrics


def _with_kinds(
    results: Iterable[Result | PictureError], also: Sequence[str]
) -> Iterator[Result | PictureError]:
    """Yield the results. Raises ValueError at the first one that lacks what `also` needs."""
    for result in results:
        if isinstance(result, Result):
            kinds = _kinds(result)
            fields = {FIELDS[kind] for kind in kinds}
            for kind in also:
                if kind != LVIS and FIELDS[kind] not in fields:
                    raise ValueError(
                        f"'{kind}' cannot be evaluated: the network predicts only {', '.join(kinds)}"
                    )
        yield result


def _predict(predictor: Predictor, paths: Sequence[Path]) -> Iterator[Result | PictureError]:
    """Predict image by image, with every detection that the network returns."""
    return (result for _, result in predictor.predict_many(paths, score=0.0))


def detections_to_coco(
    results: Iterable[Result | PictureError], dataset: Dataset
) -> tuple[list[Entry], tuple[str, ...]]:
    """Return all detections as entries of COCO's list of results, and the kinds that they have.

    Results come in the order of the data set's images and are read one by one, so a generator needs little
    memory. Raises ValueError as `evaluate` does.
    """
    detections: list[Entry] = []
    kinds: tuple[str, ...] = ("bbox",)
    faults: list[str] = []
    count = 0
    for count, result in enumerate(results, 1):
        if count > len(dataset) or len(faults) == _MAX_FAULTS:
            break
        index = count - 1
        if isinstance(result, PictureError):
            faults.append(result.message)
            continue
        check_labels(result, dataset)
        faults += _size_faults(result, dataset, index)
        kinds = _kinds(result)
        detections += [] if faults else to_coco(result, int(dataset.image_ids[index]))
    if faults:
        raise ValueError(f"cannot evaluate on {dataset.source}: {'; '.join(faults)}")
    if count != len(dataset):
        came = count if count < len(dataset) else "more"
        raise ValueError(
            f"{dataset.source} lists {len(dataset)} images, but {came} results were given: expected "
            "one for each image, in their order"
        )
    return detections, kinds


def check_labels(result: Result, dataset: Dataset) -> None:
    """Raise ValueError where the network lacks classes of the data set, or has other keypoints.

    Classes are compared by id and name. One sentence names the first few that differ.
    """
    known = dict(zip(result.category_ids, result.class_names, strict=True))
    classes = dict(zip(dataset.category_ids, dataset.class_names, strict=True))
    faults = []
    if classes != known and (wrong := {id_: name for id_, name in classes.items() if known.get(id_) != name}):
        names = [f"{id_} '{name}'{_instead(known.get(id_))}" for id_, name in wrong.items()]
        faults.append(
            f"it has no class with the id and name of {len(wrong)} of the {len(classes)} classes: "
            f"{first_few(names)}"
        )
    keypoints = len(dataset.keypoint_names)
    if result.keypoints is not None and result.keypoints.shape[1] != keypoints:
        faults.append(f"it predicts {result.keypoints.shape[1]} keypoints, the data set has {keypoints}")
    if faults:
        raise ValueError(
            f"the network does not fit {dataset.source}: {'; '.join(faults)}; evaluate it on the "
            "data set that it was trained for"
        )


def _instead(name: str | None) -> str:
    return "" if name is None else f" (the network's is '{name}')"


def _size_faults(result: Result, dataset: Dataset, index: int) -> list[str]:
    expected_hw, size_hw = tuple(dataset.sizes_hw[index].tolist()), tuple(result.size_hw)
    if expected_hw == size_hw:
        return []
    return [
        f"{dataset.path(index)} is {size_hw[1]} x {size_hw[0]} pixels large, but its entry says "
        f"{expected_hw[1]} x {expected_hw[0]}"
    ]


def _kinds(result: Result) -> tuple[str, ...]:
    has_masks, has_keypoints = result.mask_probs is not None, result.keypoints is not None
    return ("bbox",) + ("segm",) * has_masks + ("keypoints",) * has_keypoints
