"""How much boxes ``x1, y1, x2, y2`` overlap, all of one group with all of another."""

import torch
from jaxtyping import Float
from torch import Tensor


def _area(boxes: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n"]:
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
    union = _area(first).unsqueeze(-1) + _area(second).unsqueeze(-2) - shared
    return torch.where(union > 0, shared / union, 0.0)


def covered(first: Float[Tensor, "*b n 4"], second: Float[Tensor, "*b m 4"]) -> Float[Tensor, "*b n m"]:
    """Return the share of each box of `first` that lies inside each box of `second`, 0 … 1."""
    own = _area(first).unsqueeze(-1)
    return torch.where(own > 0, intersection(first, second) / own, 0.0)
