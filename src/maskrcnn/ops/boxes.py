"""Boxes ``x1, y1, x2, y2`` in continuous coordinates: geometry, deltas, exact non-maximum suppression."""

import math

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from maskrcnn.ops.nms_cuda import keep_in_order_on_cuda

# An anchor is enlarged at most 1000 / 16 times, so that exp() stays finite.
MAX_LOG_SCALE = math.log(1000.0 / 16.0)

BoxWeights = tuple[float, float, float, float]

_BLOCK = 128  # boxes compared at once on the CPU


def area(boxes: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n"]:
    """Return width × height, px²."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def clip(boxes: Float[Tensor, "b n 4"], sizes_hw: Int[Tensor, "b 2"]) -> Float[Tensor, "b n 4"]:
    """Return each box clipped to its image of `sizes_hw` pixels."""
    limits = sizes_hw.flip(-1).repeat(1, 2).unsqueeze(1).to(boxes.dtype)  # w, h, w, h
    return torch.minimum(boxes.clamp(min=0), limits)


def is_larger(boxes: Float[Tensor, "*n 4"], side: float) -> Bool[Tensor, "*n"]:
    """Return which boxes are finite and have both sides longer than `side` px."""
    width, height = boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]
    return (width > side) & (height > side) & boxes.isfinite().all(-1)


def encode(
    boxes: Float[Tensor, "*n 4"], anchors: Float[Tensor, "*n 4"], weights: BoxWeights
) -> Float[Tensor, "*n 4"]:
    """Return the deltas ``dx, dy, dw, dh`` from anchors to boxes (R-CNN, appendix C).

    Shifts are in units of the anchor's sides, sizes are logarithms of ratios; `weights` multiply them. A side
    of an anchor or a box below 1e-6 px is taken for 1e-6 px, so that the deltas stay finite.
    """
    (x, y, w, h), (ax, ay, aw, ah) = _centres(boxes), _centres(anchors)
    wx, wy, ww, wh = weights
    deltas = (wx * (x - ax) / aw, wy * (y - ay) / ah, ww * torch.log(w / aw), wh * torch.log(h / ah))
    return torch.stack(deltas, -1)


def decode(
    deltas: Float[Tensor, "*n 4"], anchors: Float[Tensor, "*n 4"], weights: BoxWeights
) -> Float[Tensor, "*n 4"]:
    """Return the boxes of `deltas`: the inverse of `encode`, with growth limited to `MAX_LOG_SCALE`."""
    x1, y1, x2, y2 = anchors.unbind(-1)
    aw, ah = x2 - x1, y2 - y1
    wx, wy, ww, wh = weights
    dx, dy, dw, dh = deltas.unbind(-1)
    x, y = dx / wx * aw + (x1 + 0.5 * aw), dy / wy * ah + (y1 + 0.5 * ah)
    half_w = 0.5 * torch.exp((dw / ww).clamp(max=MAX_LOG_SCALE)) * aw
    half_h = 0.5 * torch.exp((dh / wh).clamp(max=MAX_LOG_SCALE)) * ah
    return torch.stack((x - half_w, y - half_h, x + half_w, y + half_h), -1)


def _centres(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x1, y1, x2, y2 = boxes.unbind(-1)
    w, h = (x2 - x1).clamp(min=1e-6), (y2 - y1).clamp(min=1e-6)
    return x1 + 0.5 * w, y1 + 0.5 * h, w, h


def gather_rows(
    values: Shaped[Tensor, "B n *rest"], index: Int[Tensor, "B m"]
) -> Shaped[Tensor, "B m *rest"]:
    """Return the rows `index` of each image's values.

    `torch.take_along_dim` would do it, but a graph that it is compiled or exported in has a fixed batch size.
    """
    rest = values.shape[2:]
    return values.gather(1, index.view(*index.shape, *[1] * len(rest)).expand(*index.shape, *rest))


# --- non-maximum suppression: one operator for eager, compiled and exported graphs ---


def suppress(
    boxes: Float[Tensor, "B N 4"],
    scores: Float[Tensor, "B N"],
    groups: Int[Tensor, "B N"],
    valid: Bool[Tensor, "B N"],
    threshold: float,
) -> Bool[Tensor, "B N"]:
    """Return which boxes greedy non-maximum suppression keeps.

    In order of falling score (equal scores: lower index first), a box is kept unless it overlaps a kept box
    of its own group (class or pyramid level) in its own image by an IoU above `threshold`. Slots that are
    not `valid` are never kept and suppress nothing. Empty boxes have no IoU and are kept, as in the original.
    """
    count = boxes.shape[1]
    # One stable sort by (image, group, falling score), from the least important key to the most.
    image = torch.arange(boxes.shape[0], device=boxes.device)[:, None].expand(-1, count)
    num_groups = groups.max() + 1 if groups.numel() else 1
    segment = torch.where(valid, image * num_groups + groups, -1).flatten()
    order = scores.flatten().argsort(descending=True, stable=True)
    order = order[segment[order].argsort(stable=True)]
    keep_sorted = keep_in_order(boxes.flatten(0, 1)[order].float(), segment[order], threshold)
    keep = torch.zeros_like(keep_sorted).scatter(0, order, keep_sorted)
    return keep.view(boxes.shape[:2])


@torch.library.custom_op("maskrcnn::keep_in_order", mutates_args=())
def keep_in_order(boxes: Tensor, segments: Tensor, threshold: float) -> Tensor:
    """Return which boxes (N, 4), in float32, greedy suppression keeps in the order given.

    `segments` (N,) must not decrease. Boxes of different segments are not compared; those of segments below
    0 are neither kept nor compared.

    This is the computation on the CPU: blocks of boxes are compared with the kept boxes before them, then
    within themselves. PyTorch computes overlaps and NumPy truth values, each of which is several times faster
    there than in the other.
    """
    corners, segment = boxes.detach().cpu().T.contiguous(), segments.cpu().numpy()
    corners = torch.cat((corners, area(boxes).cpu()[None]))  # x1, y1, x2, y2, area, each (N,)
    kept = torch.empty_like(corners)  # the kept boxes so far, side by side
    keep, count = segment >= 0, 0
    kept_segment = np.empty_like(segment)
    for begin in range(int(np.searchsorted(segment, 0)), len(keep), _BLOCK):
        block = slice(begin, begin + _BLOCK)
        start = int(np.searchsorted(kept_segment[:count], segment[begin]))
        earlier = slice(start, count)
        alive = ~_overlapping(
            corners[:, block], kept[:, earlier], segment[block], kept_segment[earlier], threshold
        ).any(1)
        rows = np.flatnonzero(alive) + begin
        own = corners[:, rows]
        rows_kept = _greedy(_overlapping(own, own, segment[rows], segment[rows], threshold))
        keep[block] = False
        keep[rows] = rows_kept
        new = int(rows_kept.sum())
        kept[:, count : count + new] = own[:, rows_kept]
        kept_segment[count : count + new] = segment[rows[rows_kept]]
        count += new
    return torch.from_numpy(keep).to(segments.device)


keep_in_order.register_kernel("cuda", keep_in_order_on_cuda)


@keep_in_order.register_fake
def _(boxes: Tensor, segments: Tensor, threshold: float) -> Tensor:
    return torch.empty_like(segments, dtype=torch.bool)


def _overlapping(
    first: Tensor, second: Tensor, segment: np.ndarray, other_segment: np.ndarray, threshold: float
) -> np.ndarray:
    """Return which of `first` overlap which of `second` by more than `threshold`; 0 / 0 is no overlap."""
    x1, y1, x2, y2, area = first.unsqueeze(-1)
    u1, v1, u2, v2, other_area = second
    shared = torch.minimum(x2, u2).sub_(torch.maximum(x1, u1)).clamp_(min=0)
    shared *= torch.minimum(y2, v2).sub_(torch.maximum(y1, v1)).clamp_(min=0)
    shared /= (area + other_area).sub_(shared)
    with np.errstate(invalid="ignore"):
        overlaps = shared.numpy() > np.float32(threshold)
    if len(segment) and segment[0] == segment[-1]:  # `second` lies before `first`: its segment is the same
        return overlaps
    return overlaps & (segment[:, None] == other_segment)


def _greedy(overlaps: np.ndarray) -> np.ndarray:
    """Return what the greedy rule keeps, given which of n boxes (in order) overlap which.

    ``keep = not any(earlier, overlapping and kept)`` has one fixed point, the greedy result: after k rounds
    the first k boxes are final, in practice all after a few.
    """
    earlier = np.tril(overlaps, -1)
    keep = np.logical_not(earlier.any(1))
    while True:
        settled = np.logical_not((earlier & keep).any(1))
        if np.array_equal(settled, keep):
            return keep
        keep = settled
