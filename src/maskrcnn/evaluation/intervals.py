"""Confidence intervals of average precision, and of the difference of two networks, by bootstrap over images.

The images of a data set are a sample. Drawing as many of them again, with replacement, many times over, shows
how AP varies from sample to sample (Efron, 1979). Two networks are compared on the same resamples: images
that are hard for both cancel out, so the interval of their difference is narrower than that of either AP.

Detections are matched with objects only once. A resample is a number of copies of each image, and its
precision follows from the matches by counting each detection as often as its image was drawn.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from maskrcnn.evaluation.coco import run_coco_eval
from maskrcnn.evaluation.coco_format import Entry
from maskrcnn.evaluation.matching import IGNORED, IOU_THRESHOLDS, RECALLS, match
from maskrcnn.messages import nearest

_METRICS = {"AP": IOU_THRESHOLDS, "AP50": IOU_THRESHOLDS[:1], "AP75": IOU_THRESHOLDS[5:6]}
_CHUNK_SIZE = 500_000  # resamples × detections computed at once, so that they stay in the processor's cache


class Interval(NamedTuple):
    """A difference and the bounds of its 95 % interval, in percent points."""

    difference: float
    low: float
    high: float


def difference(
    truth: Entry,
    first: Sequence[Entry],
    second: Sequence[Entry],
    *,
    kind: str = "segm",
    metric: str = "AP",
    resamples: int = 1000,
    seed: int = 0,
    max_detections: int = 100,
) -> Interval:
    """Return the metric of `first` minus that of `second`, and the interval of this difference over images.

    Ground truth and detections are in COCO's form, `kind` and `max_detections` are those of `coco_metrics`;
    `metric` is AP, AP50 or AP75. The bounds are the 2.5 % and 97.5 % quantiles over the resamples; if 0 lies
    outside of them, the difference is significant with respect to the choice of images. A metric of nothing
    is 0, so that with ``second=[]`` the interval is that of the metric itself.

    Raises ValueError for an unknown metric or kind, fewer than 1 resample, a ground truth without objects,
    and detections that `coco_metrics` does not accept.
    """
    return mean_difference(
        truth,
        [(first, second)],
        kind=kind,
        metric=metric,
        resamples=resamples,
        seed=seed,
        max_detections=max_detections,
    )


def mean_difference(
    truth: Entry,
    pairs: Sequence[tuple[Sequence[Entry], Sequence[Entry]]],
    *,
    kind: str = "segm",
    metric: str = "AP",
    resamples: int = 1000,
    seed: int = 0,
    max_detections: int = 100,
) -> Interval:
    """Return the mean of `difference` over pairs, such as trainings of several seeds, and its interval.

    All pairs share the resamples, so the interval is that over images, for these networks. It does not
    contain how much further seeds would vary.
    """
    copies = _resample(len(truth["images"]), resamples, seed)
    values = [
        _values(truth, first, kind, metric, max_detections, copies)
        - _values(truth, second, kind, metric, max_detections, copies)
        for first, second in pairs
    ]
    return Interval(*_with_bounds(np.mean(values, axis=0)))


def _resample(images: int, resamples: int, seed: int) -> Int[np.ndarray, "R I"]:
    """Return how often each resample contains each image. The first one is the data set itself."""
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, not {resamples}")
    if not images:
        raise ValueError("the ground truth lists no image")
    shares = np.full(images, 1 / images)
    random = np.random.default_rng(seed).multinomial(images, shares, size=resamples)
    return np.concatenate([np.ones((1, images), np.int64), random]).astype(np.int32)


def _with_bounds(values: Float[np.ndarray, " R"]) -> tuple[float, float, float]:
    """Return the first value, which is that of the data set itself, and the bounds over the resamples."""
    if np.isnan(values[0]):
        raise ValueError("the ground truth has no object to find")
    low, high = np.nanquantile(values[1:], [0.025, 0.975])  # a resample may contain no image with objects
    return float(values[0]), float(low), float(high)


def _values(
    truth: Entry,
    detections: Sequence[Entry],
    kind: str,
    metric: str,
    max_detections: int,
    copies: Int[np.ndarray, "R I"],
) -> Float[np.ndarray, " R"]:
    """Return the metric of each resample in percent, NaN where it has no object."""
    if metric not in _METRICS:
        raise ValueError(f"the metric '{metric}' cannot be resampled: {nearest(metric, _METRICS)}")
    coco_eval = run_coco_eval(kind, truth, detections, max_detections)
    total, classes = np.zeros(len(copies)), np.zeros(len(copies), np.int64)
    for matches in _match_by_class(coco_eval, _METRICS[metric]):
        precision = _average_precision(matches, copies)
        total += np.nan_to_num(precision)
        classes += ~np.isnan(precision)
    return np.where(classes, 100 * total / np.maximum(classes, 1), np.nan)


# --- matching, once ---


class _Matches(NamedTuple):
    """The detections of one class, in descending order of score, matched at each IoU threshold."""

    scores: Float[np.ndarray, " D"]
    image: Int[np.ndarray, " D"]
    correct: Bool[np.ndarray, "T D"]
    ignored: Bool[np.ndarray, "T D"]  # matched with a crowd region or another object that does not count
    objects: Int[np.ndarray, " I"]  # of each image, those that count


def _match_by_class(coco_eval: Any, thresholds: Float[np.ndarray, " T"]) -> Iterator[_Matches]:
    """Yield the matches of each class, from the overlaps that faster-coco-eval computed."""
    objects_of, detections_of = _grouped(coco_eval.cocoGt), _grouped(coco_eval.cocoDt)
    image_ids, max_detections = coco_eval.params.imgIds, coco_eval.params.maxDets[-1]
    for category in coco_eval.params.catIds:
        counts = np.zeros(len(image_ids), np.int64)
        parts = [_match(np.zeros((0, 0)), np.zeros(0), 0, [], thresholds)]
        for image, image_id in enumerate(image_ids):
            pair = (image_id, category)
            if pair in objects_of or pair in detections_of:
                objects = objects_of.get(pair, [])
                scores = np.sort([entry["score"] for entry in detections_of.get(pair, [])])[::-1]
                scores = scores[:max_detections]
                ious = np.reshape(coco_eval.ious[pair], (len(scores), len(objects)))
                parts.append(_match(ious, scores, image, objects, thresholds))
                counts[image] = sum(not entry["ignore"] for entry in objects)
        yield _joined(parts, counts)


def _grouped(coco: Any) -> dict[tuple[int, int], list[Entry]]:
    """Group the entries of a faster-coco-eval data set by image and class."""
    groups = defaultdict(list)
    for entry in coco.dataset["annotations"]:
        groups[entry["image_id"], entry["category_id"]].append(entry)
    return dict(groups)


class _Part(NamedTuple):
    """The detections of one class in one image, as in `_Matches`."""

    scores: Float[np.ndarray, " D"]
    image: Int[np.ndarray, " D"]
    matches: Int[np.ndarray, "T D"]


def _match(
    ious: Float[np.ndarray, "D G"],
    scores: Float[np.ndarray, " D"],
    image: int,
    objects: Sequence[Entry],
    thresholds: Float[np.ndarray, " T"],
) -> _Part:
    crowd = np.array([bool(entry["iscrowd"]) for entry in objects], bool)
    ignored = np.array([bool(entry["ignore"]) for entry in objects], bool)
    return _Part(scores, np.full(len(scores), image), match(ious, crowd, ignored, thresholds))


def _joined(parts: Sequence[_Part], objects: Int[np.ndarray, " I"]) -> _Matches:
    """Sort the detections of a class by score; equal scores stay in the order of the images."""
    scores, image = (np.concatenate(arrays) for arrays in list(zip(*parts, strict=True))[:2])
    matches = np.concatenate([part.matches for part in parts], axis=1)
    order = np.argsort(-scores, kind="stable")
    matches = matches[:, order]
    return _Matches(scores[order], image[order], matches >= 0, matches == IGNORED, objects)


# --- precision of each resample ---


def _average_precision(matches: _Matches, copies: Int[np.ndarray, "R I"]) -> Float[np.ndarray, " R"]:
    """Return AP (0 … 1) over the IoU thresholds; NaN for resamples without an object of the class."""
    step = max(1, _CHUNK_SIZE // max(1, len(matches.scores), int(matches.objects.sum())))
    chunks = (copies[i : i + step] for i in range(0, len(copies), step))
    return np.concatenate([_average_precision_of_chunk(matches, chunk) for chunk in chunks])


def _average_precision_of_chunk(matches: _Matches, copies: Int[np.ndarray, "R I"]) -> Float[np.ndarray, " R"]:
    detection_copies = copies[:, matches.image]
    cumulative = np.cumsum(detection_copies, axis=1, dtype=np.int32)
    objects = copies @ matches.objects
    recall = np.arange(objects.max() + 1) / np.maximum(objects, 1)[:, None]
    reached = np.searchsorted(RECALLS, recall, side="right")
    precisions = [
        _mean_precision(detection_copies, cumulative, correct, ignored, reached)
        for correct, ignored in zip(matches.correct, matches.ignored, strict=True)
    ]
    return np.where(objects > 0, np.mean(precisions, axis=0), np.nan)


def _mean_precision(
    copies: Int[np.ndarray, "R D"],
    cumulative: Int[np.ndarray, "R D"],
    correct: Bool[np.ndarray, " D"],
    ignored: Bool[np.ndarray, " D"],
    reached: Int[np.ndarray, "R counts"],
) -> Float[np.ndarray, " R"]:
    """Return the mean precision over COCO's 101 recalls at one IoU threshold.

    `reached` is the number of these recalls that a number of found objects reaches. Precision is computed
    only at right detections: between them it falls, and COCO reads the highest precision at or beyond a
    recall. A right detection counts for the recalls that it is the first to reach.
    """
    hits, skipped = np.flatnonzero(correct), np.flatnonzero(ignored)
    true_positives = np.cumsum(copies[:, hits], axis=1, dtype=np.int32)
    ignored_before = np.pad(np.cumsum(copies[:, skipped], axis=1), ((0, 0), (1, 0)))
    counted = cumulative[:, hits] - ignored_before[:, np.searchsorted(skipped, hits)]
    precision = true_positives / np.maximum(counted, 1)
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    recalls = reached[np.arange(len(copies))[:, None], true_positives]
    return np.einsum("rd,rd->r", precision, np.diff(recalls, axis=1, prepend=0)) / len(RECALLS)
