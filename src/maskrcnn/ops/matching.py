"""Which anchor or proposal answers for which object, and which of them are learnt from in a step."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from maskrcnn.ops import boxes as box_ops

# So many objects at a time are compared with all anchors: memory does not grow with a crowd of objects.
_OBJECTS_AT_ONCE = 32

NEGATIVE, IGNORED = -1, -2


class Matches(NamedTuple):
    """For each candidate the object it answers for, `NEGATIVE` (background) or `IGNORED` (unused)."""

    object: Int[Tensor, "B N"]
    nearest: Int[Tensor, "B N"]  # the object of highest overlap, whatever the overlap (0 where there is none)
    overlap: Float[Tensor, "B N"]  # its IoU


def match(
    candidates: Float[Tensor, "B N 4"],
    objects: Float[Tensor, "B G 4"],
    valid: Bool[Tensor, "B G"],
    *,
    negative_below: float,
    positive_from: float,
    low_quality: bool,
) -> Matches:
    """Match candidates to objects by intersection over union (Faster R-CNN, section 3.1.2).

    A candidate is positive from `positive_from` on, negative below `negative_below`, ignored in between. With
    `low_quality`, every candidate whose IoU with an object is that object's highest (ties included) is
    positive too, for the object that it overlaps most, so that no object is left without a candidate.
    """
    nearest, overlap, is_best = _best_overlaps(candidates, objects, valid)
    matched = torch.where(overlap < negative_below, NEGATIVE, IGNORED)
    positive = overlap >= positive_from
    if low_quality:
        positive = positive | is_best
    return Matches(torch.where(positive, nearest, matched), nearest, overlap)


def _best_overlaps(candidates: Tensor, objects: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return per candidate its best object, that IoU, and whether it is (one of) an object's best."""
    shape, device = candidates.shape[:2], candidates.device
    overlap = torch.zeros(shape, dtype=candidates.dtype, device=device)
    nearest = torch.zeros(shape, dtype=torch.int64, device=device)
    is_best = torch.zeros(shape, dtype=torch.bool, device=device)
    for first in range(0, objects.shape[1], _OBJECTS_AT_ONCE):
        part = slice(first, first + _OBJECTS_AT_ONCE)
        ious = box_ops.iou(candidates, objects[:, part]) * valid[:, None, part]
        top, index = ious.max(-1)
        better = top > overlap
        overlap, nearest = torch.where(better, top, overlap), torch.where(better, index + first, nearest)
        highest = ious.amax(1, keepdim=True)
        is_best = is_best | ((ious == highest) & (highest > 0)).any(-1)
    return nearest, overlap, is_best


def ignore_crowds(
    matched: Int[Tensor, "B N"],
    candidates: Float[Tensor, "B N 4"],
    objects: Float[Tensor, "B G 4"],
    crowd: Bool[Tensor, "B G"],
    *,
    share: float = 0.7,
) -> Int[Tensor, "B N"]:
    """Return `matched` with each negative that lies at least `share` inside a crowd region made `IGNORED`.

    What looks like an object there probably is one: it must not be learnt as background (Detectron's rule).
    """
    inside = torch.zeros_like(matched, dtype=torch.bool)
    for first in range(0, objects.shape[1], _OBJECTS_AT_ONCE):
        part = slice(first, first + _OBJECTS_AT_ONCE)
        covered = box_ops.covered(candidates, objects[:, part])
        inside = inside | ((covered >= share) & crowd[:, None, part]).any(-1)
    return torch.where((matched == NEGATIVE) & inside, IGNORED, matched)


class Sample(NamedTuple):
    """A fixed number of candidates, the positives first; slots where `valid` is False hold nothing."""

    candidate: Int[Tensor, "B S"]
    positive: Bool[Tensor, "B S"]
    valid: Bool[Tensor, "B S"]


def sample(
    matched: Int[Tensor, "B N"], keys: Float[Tensor, "B N"], *, budget: int, positive_fraction: float
) -> Sample:
    """Draw at most `budget` candidates a picture, at most `positive_fraction` of them positive.

    The rest is negative. `keys` are uniform in [0, 1): among its kind, a candidate of a smaller key is drawn
    first. Equal keys give equal draws; a budget that exceeds the candidates takes them all.
    """
    positive, negative = matched >= 0, matched == NEGATIVE
    quota = positive_capacity(matched.shape[1], budget=budget, positive_fraction=positive_fraction)
    by_key = torch.where(positive, keys, torch.where(negative, keys + 2.0, 4.0))
    first_positives = by_key.topk(quota, largest=False, sorted=True)
    # The negatives follow the positives that were drawn: keep the budget's best of both together.
    drawn = torch.zeros_like(positive).scatter(1, first_positives.indices, first_positives.values < 1.0)
    by_key = torch.where(drawn, keys, torch.where(negative, keys + 2.0, 4.0))
    best = by_key.topk(min(budget, matched.shape[1]), largest=False, sorted=True)
    return Sample(best.indices, best.values < 1.0, best.values < 3.0)


def positive_capacity(candidates: int, *, budget: int, positive_fraction: float) -> int:
    """Return how many positives `sample` can draw at most: they fill its first slots."""
    return min(candidates, int(budget * positive_fraction + 1e-6))
