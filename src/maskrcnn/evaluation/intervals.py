"""How far average precision would move with other pictures: intervals by the bootstrap over pictures.

The pictures of a truth are a sample. Drawing as many of them again, with replacement, many times over, shows
how AP scatters from sample to sample (Efron, 1979). Two networks are compared on the same draws: what is hard
for both cancels, so their difference is known far better than either of them.

Detections are matched with objects once. A draw is a number of copies of each picture; its precision follows
from the matches by counting each detection as often as its picture was drawn.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from maskrcnn.evaluation.coco import judge
from maskrcnn.evaluation.matching import NOTHING, RECALLS, match
from maskrcnn.messages import nearest

Entries = Sequence[dict[str, Any]]

_THRESHOLDS = np.linspace(0.5, 0.95, 10)  # of IoU
_METRICS = {"AP": _THRESHOLDS, "AP50": _THRESHOLDS[:1], "AP75": _THRESHOLDS[5:6]}
_AT_ONCE = 500_000  # draws × detections counted in one go, so that they stay in the processor's cache


class Interval(NamedTuple):
    """A difference and the bounds of its 95 % interval, in percent points."""

    difference: float
    low: float
    high: float


class Estimate(NamedTuple):
    """A value and the bounds of its 95 % interval, in percent."""

    value: float
    low: float
    high: float


class _Matched(NamedTuple):
    """The detections of one class in all pictures, surest first, and what each is at each IoU threshold."""

    picture: Int[np.ndarray, " D"]
    right: Bool[np.ndarray, "T D"]
    ignored: Bool[np.ndarray, "T D"]  # matched with a crowd or another object that is not asked for
    objects: Int[np.ndarray, " I"]  # how many each picture has to be found


def difference(
    truth: dict[str, Any],
    first: Entries,
    second: Entries,
    *,
    kind: str = "segm",
    metric: str = "AP",
    resamples: int = 1000,
    seed: int = 0,
    max_detections: int = 100,
) -> Interval:
    """Return by how much `first` is ahead of `second`, and the interval of that over pictures.

    Truth and detections are in COCO's forms, `kind` and `max_detections` as in `coco_metrics`; `metric` is
    AP, AP50 or AP75. The bounds are the 2.5 % and 97.5 % quantiles over the draws; where 0 is not between
    them, the difference is more than chance in the choice of pictures.

    Raises ValueError for a metric or kind that there is not, fewer than 1 resample, a truth without objects,
    and detections that `coco_metrics` would refuse.
    """
    drawn = _draws(len(truth["images"]), resamples, seed)
    ours, theirs = (_values(truth, found, kind, metric, max_detections, drawn) for found in (first, second))
    return Interval(*_with_bounds(ours - theirs))


def interval(
    truth: dict[str, Any],
    detections: Entries,
    *,
    kind: str = "segm",
    metric: str = "AP",
    resamples: int = 1000,
    seed: int = 0,
    max_detections: int = 100,
) -> Estimate:
    """Return the metric of some detections and its interval over pictures, all as in `difference`.

    Of classes with few objects, AP comes out too high, the more so the fewer there are, and a draw has fewer
    different ones than the set. So where most classes are rare, these bounds lie too high; those of a
    difference hardly do, because this cancels.
    """
    drawn = _draws(len(truth["images"]), resamples, seed)
    return Estimate(*_with_bounds(_values(truth, detections, kind, metric, max_detections, drawn)))


def _draws(pictures: int, resamples: int, seed: int) -> Int[np.ndarray, "draws I"]:
    """Return how often each picture is drawn: first each once, which is the set itself, then at random."""
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, not {resamples}")
    if not pictures:
        raise ValueError("the truth lists no picture")
    shares = np.full(pictures, 1 / pictures)
    random = np.random.default_rng(seed).multinomial(pictures, shares, size=resamples)
    return np.concatenate([np.ones((1, pictures), np.int64), random]).astype(np.int32)


def _with_bounds(values: Float[np.ndarray, " draws"]) -> tuple[float, float, float]:
    """Return the first value, which is that of the set itself, and the bounds over the draws."""
    if np.isnan(values[0]):
        raise ValueError("the truth has no object to be found")
    low, high = np.nanquantile(values[1:], [0.025, 0.975])  # a draw may miss all the pictures with objects
    return float(values[0]), float(low), float(high)


def _values(
    truth: dict[str, Any],
    detections: Entries,
    kind: str,
    metric: str,
    max_detections: int,
    drawn: Int[np.ndarray, "draws I"],
) -> Float[np.ndarray, " draws"]:
    """Return the metric of each draw in percent, NaN where nothing is to be found."""
    if metric not in _METRICS:
        raise ValueError(f"there is no metric '{metric}' to resample: {nearest(metric, _METRICS)}")
    done = judge(kind, truth, detections, max_detections)
    total, classes = np.zeros(len(drawn)), np.zeros(len(drawn), np.int64)
    for matched in _by_class(done, _METRICS[metric]):
        precision = _average_precision(matched, drawn)
        total += np.nan_to_num(precision)
        classes += ~np.isnan(precision)
    return np.where(classes, 100 * total / np.maximum(classes, 1), np.nan)


# --- matching, once ---


def _by_class(done: Any, thresholds: Float[np.ndarray, " T"]) -> Iterator[_Matched]:
    """Yield what a judge of faster-coco-eval compared, class by class."""
    objects, found = _grouped(done.cocoGt), _grouped(done.cocoDt)
    for category in done.params.catIds:
        parts = []
        for picture, image in enumerate(done.params.imgIds):
            pair = (image, category)
            if pair in objects or pair in found:
                there, here = objects.get(pair, []), found.get(pair, [])
                scores = np.sort([one["score"] for one in here])[::-1][: done.params.maxDets[-1]]
                ious = np.reshape(done.ious[pair], (len(scores), len(there)))
                parts.append(_part(picture, scores, ious, there, thresholds))
        yield _joined(parts, len(done.params.imgIds), len(thresholds))


def _grouped(coco: Any) -> dict[tuple[int, int], list[dict[str, Any]]]:
    """Group the entries of a faster-coco-eval data set by picture and class."""
    groups = defaultdict(list)
    for entry in coco.dataset["annotations"]:
        groups[entry["image_id"], entry["category_id"]].append(entry)
    return dict(groups)


class _Part(NamedTuple):
    """One class in one picture."""

    picture: int
    objects: int
    scores: Float[np.ndarray, " D"]
    right: Bool[np.ndarray, "T D"]
    ignored: Bool[np.ndarray, "T D"]


def _part(
    picture: int,
    scores: Float[np.ndarray, " D"],
    ious: Float[np.ndarray, "D G"],
    there: Entries,
    thresholds: Float[np.ndarray, " T"],
) -> _Part:
    crowd = np.array([bool(one["iscrowd"]) for one in there], bool)
    optional = np.array([bool(one["ignore"]) for one in there], bool)
    matched = match(ious, crowd, optional, thresholds)
    ignored = np.append(optional, False)[matched]  # NOTHING reads the last one
    return _Part(picture, int((~optional).sum()), scores, (matched != NOTHING) & ~ignored, ignored)


def _joined(parts: Sequence[_Part], pictures: int, thresholds: int) -> _Matched:
    """Put the detections of a class in order of their scores; ties stay in the order of the pictures."""
    scores = np.concatenate([np.zeros(0), *(part.scores for part in parts)])
    order = np.argsort(-scores, kind="stable")
    none, objects = np.zeros((thresholds, 0), bool), np.zeros(pictures, np.int64)
    for part in parts:
        objects[part.picture] = part.objects
    return _Matched(
        picture=np.concatenate([np.zeros(0, int), *(np.full(len(p.scores), p.picture) for p in parts)])[
            order
        ],
        right=np.concatenate([none, *(part.right for part in parts)], axis=1)[:, order],
        ignored=np.concatenate([none, *(part.ignored for part in parts)], axis=1)[:, order],
        objects=objects,
    )


# --- precision, for each draw ---


def _average_precision(matched: _Matched, drawn: Int[np.ndarray, "draws I"]) -> Float[np.ndarray, " draws"]:
    """Return the mean over thresholds and recalls, shares of 1; NaN for draws that have none of the class."""
    step = max(1, _AT_ONCE // max(1, matched.picture.size, int(matched.objects.sum())))
    return np.concatenate([_of_draws(matched, drawn[i : i + step]) for i in range(0, len(drawn), step)])


def _of_draws(matched: _Matched, drawn: Int[np.ndarray, "draws I"]) -> Float[np.ndarray, " draws"]:
    copies = drawn[:, matched.picture]
    seen = np.cumsum(copies, axis=1, dtype=np.int32)
    objects = drawn @ matched.objects
    recall = np.arange(objects.max() + 1) / np.maximum(objects, 1)[:, None]
    reached = np.searchsorted(RECALLS, recall, side="right")
    areas = [
        _area(copies, seen, right, ignored, reached)
        for right, ignored in zip(matched.right, matched.ignored, strict=True)
    ]
    return np.where(objects > 0, np.mean(areas, axis=0), np.nan)


def _area(
    copies: Int[np.ndarray, "draws D"],
    seen: Int[np.ndarray, "draws D"],
    right: Bool[np.ndarray, " D"],
    ignored: Bool[np.ndarray, " D"],
    reached: Int[np.ndarray, "draws counts"],
) -> Float[np.ndarray, " draws"]:
    """Return the mean precision over COCO's 101 recalls at one threshold.

    `reached` says how many of these recalls so many objects found reach. Precision need be known only at
    right detections: between them it falls, and COCO reads the highest precision at or beyond a recall. A
    right detection counts for the recalls that it is the first to reach.
    """
    hits, skipped = np.flatnonzero(right), np.flatnonzero(ignored)
    found = np.cumsum(copies[:, hits], axis=1, dtype=np.int32)
    before = np.pad(np.cumsum(copies[:, skipped], axis=1), ((0, 0), (1, 0)))
    counted = seen[:, hits] - before[:, np.searchsorted(skipped, hits)]
    highest = np.maximum.accumulate((found / np.maximum(counted, 1))[:, ::-1], axis=1)[:, ::-1]
    recalls = reached[np.arange(len(found))[:, None], found]
    return np.einsum("bj,bj->b", highest, np.diff(recalls, axis=1, prepend=0)) / len(RECALLS)
