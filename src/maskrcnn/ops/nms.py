"""Greedy non-maximum suppression with exact results, one operator for eager, compiled and exported graphs."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from maskrcnn.ops import boxes as box_ops

_BLOCK = 128


def suppress(
    boxes: Float[Tensor, "B N 4"],
    scores: Float[Tensor, "B N"],
    groups: Int[Tensor, "B N"],
    valid: Bool[Tensor, "B N"],
    threshold: float,
) -> Bool[Tensor, "B N"]:
    """Say which boxes greedy non-maximum suppression keeps.

    In order of falling score (equal scores: lower index first), a box is kept unless it overlaps a kept box of its
    own group (class or pyramid level) in its own picture by an IoU above `threshold`. Slots that are not `valid`
    are never kept and suppress nothing. Empty boxes have no IoU and are kept, as in the original.
    """
    count = boxes.shape[1]
    # One stable sort by (picture, group, falling score), from the least important key to the most.
    picture = torch.arange(boxes.shape[0], device=boxes.device)[:, None].expand(-1, count)
    span = groups.amax() + 1 if groups.numel() else 1
    segment = torch.where(valid, picture * span + groups, -1).flatten()
    order = scores.flatten().argsort(descending=True, stable=True)
    order = order[segment[order].argsort(stable=True)]
    keep_sorted = keep_in_order(boxes.flatten(0, 1)[order].float(), segment[order], threshold)
    keep = torch.zeros_like(keep_sorted).scatter(0, order, keep_sorted)
    return keep.view(boxes.shape[:2])


@torch.library.custom_op("maskrcnn::keep_in_order", mutates_args=())
def keep_in_order(boxes: Tensor, segments: Tensor, threshold: float) -> Tensor:
    """Return which boxes (N, 4) survive, in their order.

    `segments` (N,) do not fall; boxes of different segments do not compare, and those of segments below 0 are no
    boxes. Blocks of boxes are compared with the kept boxes before them, then within themselves, so that the work is
    that of the kept boxes and runs in a few large steps.
    """
    areas = box_ops.area(boxes)
    keep = segments >= 0
    count = boxes.shape[0]
    first = int(torch.searchsorted(segments, 0))
    starts = torch.searchsorted(segments, segments[first::_BLOCK].contiguous()).tolist()
    for block_number, start in enumerate(starts):
        begin = first + block_number * _BLOCK
        block = slice(begin, min(begin + _BLOCK, count))
        earlier = keep[start:begin].nonzero().flatten() + start
        if earlier.numel():
            hit = _overlapping(boxes, areas, segments, block, earlier, threshold)
            keep[block] = ~hit.any(1)
        alive = keep[block].nonzero().flatten() + begin
        hit = _overlapping(boxes, areas, segments, alive, alive, threshold)
        keep[alive] = _greedy(hit)
    return keep


@keep_in_order.register_kernel("cuda")
def keep_at_once(boxes: Tensor, segments: Tensor, threshold: float) -> Tensor:
    """Return the same by one comparison of all with all: more work in fewer steps, as a GPU likes it."""
    present = (segments >= 0).nonzero().flatten()
    hit = _overlapping(boxes, box_ops.area(boxes), segments, present, present, threshold)
    return (segments >= 0).scatter(0, present, _greedy(hit))


@keep_in_order.register_fake
def _(boxes: Tensor, segments: Tensor, threshold: float) -> Tensor:
    return torch.empty_like(segments, dtype=torch.bool)


def _overlapping(
    boxes: Tensor, areas: Tensor, segments: Tensor, rows: slice | Tensor, columns: Tensor, threshold: float
) -> Tensor:
    """Say which boxes of `rows` overlap which of `columns` by more than `threshold`; 0 / 0 is no overlap."""
    shared = box_ops.intersection(boxes[rows], boxes[columns])
    union = areas[rows, None] + areas[columns] - shared
    return (shared / union > threshold) & (segments[rows, None] == segments[columns])


def _greedy(hit: Tensor) -> Tensor:
    """Return what the greedy rule keeps, given which of n boxes (in order) overlap which.

    ``keep = not any(earlier overlapping and kept)`` has one fixed point, the greedy answer: after k rounds the first
    k boxes are final, in practice after a few.
    """
    earlier = hit.tril(-1)
    keep = ~earlier.any(1)
    while True:
        settled = ~(earlier & keep).any(1)
        if torch.equal(settled, keep):
            return keep
        keep = settled
