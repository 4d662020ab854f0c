"""Geometry of axis-aligned boxes ``x1, y1, x2, y2`` in continuous coordinates (width is ``x2 - x1``)."""

import math

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

# An anchor is enlarged at most 1000 / 16 times, so that exp() stays finite.
MAX_LOG_SCALE = math.log(1000.0 / 16.0)

BoxWeights = tuple[float, float, float, float]


def area(boxes: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n"]:
    """Return width × height, px²."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def intersection(first: Float[Tensor, "*b n 4"], second: Float[Tensor, "*b m 4"]) -> Float[Tensor, "*b n m"]:
    """Return the area that each box of `first` shares with each box of `second`, px²."""
    # One coordinate at a time: half the memory traffic of an (n, m, 2) corner tensor.
    x1, y1, x2, y2 = first.unsqueeze(-2).unbind(-1)
    u1, v1, u2, v2 = second.unsqueeze(-3).unbind(-1)
    width = torch.minimum(x2, u2).sub_(torch.maximum(x1, u1)).clamp_(min=0)
    height = torch.minimum(y2, v2).sub_(torch.maximum(y1, v1)).clamp_(min=0)
    return width.mul_(height)


def iou(first: Float[Tensor, "*b n 4"], second: Float[Tensor, "*b m 4"]) -> Float[Tensor, "*b n m"]:
    """Return intersection over union, 0 … 1; 0 where both boxes are empty."""
    shared = intersection(first, second)
    union = area(first).unsqueeze(-1) + area(second).unsqueeze(-2) - shared
    return torch.where(union > 0, shared / union, 0.0)


def covered(first: Float[Tensor, "*b n 4"], second: Float[Tensor, "*b m 4"]) -> Float[Tensor, "*b n m"]:
    """Return the share of each box of `first` that lies inside each box of `second`, 0 … 1."""
    own = area(first).unsqueeze(-1)
    return torch.where(own > 0, intersection(first, second) / own, 0.0)


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
