"""Assignment of anchors and proposals to ground-truth objects, and sampling of those to learn from."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from maskrcnn.ops.overlaps import covered, iou

# Objects compared with all candidates at once: bounds the memory for images with many objects.
_OBJECTS_AT_ONCE = 32

NEGATIVE, IGNORED = -1, -2


def match(
    candidates: Float[Tensor, "B N 4"],
    objects: Float[Tensor, "B G 4"],
    valid: Bool[Tensor, "B G"],
    *,
    negative_below: float,
    positive_from: float,
    low_quality: bool,
) -> Int[Tensor, "B N"]:
    """Return the index of each candidate's object, `NEGATIVE` (background) or `IGNORED` (not used).

    Candidates are matched by IoU (Faster R-CNN, section 3.1.2): positive from `positive_from` on, negative
    below `negative_below`, ignored in between. With `low_quality`, every candidate whose IoU with an object
    is that object's highest (ties included) is positive too, for the object that it overlaps most, so that no
    object is left without a candidate.
    """
    best, overlap, is_best_of_object = _best_overlaps(candidates, objects, valid)
    unmatched = torch.where(overlap < negative_below, NEGATIVE, IGNORED)
    positive = overlap >= positive_from
    if low_quality:
        positive = positive | is_best_of_object
    return torch.where(positive, best, unmatched)


def _best_overlaps(candidates: Tensor, objects: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return per candidate its best object, that IoU, and whether it is (one of) an object's best."""
    shape, device = candidates.shape[:2], candidates.device
    overlap = torch.zeros(shape, dtype=candidates.dtype, device=device)
    best = torch.zeros(shape, dtype=torch.int64, device=device)
    is_best_of_object = torch.zeros(shape, dtype=torch.bool, device=device)
    for first in range(0, objects.shape[1], _OBJECTS_AT_ONCE):
        part = slice(first, first + _OBJECTS_AT_ONCE)
        ious = iou(candidates, objects[:, part]) * valid[:, None, part]
        top, index = ious.max(-1)
        better = top > overlap
        overlap, best = torch.where(better, top, overlap), torch.where(better, index + first, best)
        highest = ious.amax(1, keepdim=True)
        is_best_of_object = is_best_of_object | ((ious == highest) & (highest > 0)).any(-1)
    return best, overlap, is_best_of_object


def ignore_crowds(
    gt_index: Int[Tensor, "B N"],
    candidates: Float[Tensor, "B N 4"],
    objects: Float[Tensor, "B G 4"],
    crowd: Bool[Tensor, "B G"],
    *,
    share: float = 0.7,
) -> Int[Tensor, "B N"]:
    """Return `gt_index` with each negative that lies at least `share` inside a crowd region made `IGNORED`.

    What looks like an object there probably is one: it must not be learnt as background (Detectron's rule).
    """
    inside = torch.zeros_like(gt_index, dtype=torch.bool)
    for first in range(0, objects.shape[1], _OBJECTS_AT_ONCE):
        part = slice(first, first + _OBJECTS_AT_ONCE)
        covered_share = covered(candidates, objects[:, part])
        inside = inside | ((covered_share >= share) & crowd[:, None, part]).any(-1)
    return torch.where((gt_index == NEGATIVE) & inside, IGNORED, gt_index)


class Sample(NamedTuple):
    """A fixed number of candidates of each image, positives first; slots where `valid` is False are empty."""

    candidates: Int[Tensor, "B S"]
    positive: Bool[Tensor, "B S"]
    valid: Bool[Tensor, "B S"]


def sample(
    gt_index: Int[Tensor, "B N"],
    keys: Float[Tensor, "B N"],
    *,
    samples_per_image: int,
    positive_fraction: float,
) -> Sample:
    """Sample at most `samples_per_image` candidates, at most `positive_fraction` of them positive.

    The rest are negatives. `keys` are uniform in [0, 1): of its kind, a candidate of a smaller key is taken
    first, so equal keys give equal samples. Where there are fewer candidates, all are taken.
    """
    positive, negative = gt_index >= 0, gt_index == NEGATIVE
    quota = positive_capacity(
        gt_index.shape[1], samples_per_image=samples_per_image, positive_fraction=positive_fraction
    )
    by_key = torch.where(positive, keys, torch.where(negative, keys + 2.0, 4.0))
    first_positives = by_key.topk(quota, largest=False, sorted=True)
    # Negatives fill what the sampled positives leave: take the best of both together.
    chosen = torch.zeros_like(positive).scatter(1, first_positives.indices, first_positives.values < 1.0)
    by_key = torch.where(chosen, keys, torch.where(negative, keys + 2.0, 4.0))
    best = by_key.topk(min(samples_per_image, gt_index.shape[1]), largest=False, sorted=True)
    return Sample(best.indices, best.values < 1.0, best.values < 3.0)


def positive_capacity(candidates: int, *, samples_per_image: int, positive_fraction: float) -> int:
    """Return how many positives `sample` returns at most: they fill its first slots."""
    return min(candidates, int(samples_per_image * positive_fraction + 1e-6))
