"""Losses of single elements, and their sums over the valid slots."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor


def smooth_l1(error: Float[Tensor, "*n"], beta: float) -> Float[Tensor, "*n"]:
    """Return Fast R-CNN's smooth L1 (equation 3): quadratic below `beta`, linear above; L1 for 0."""
    size = error.abs()
    if beta == 0:
        return size
    return torch.where(size < beta, 0.5 * size**2 / beta, size - 0.5 * beta)


def binary_cross_entropy(logits: Float[Tensor, "*n"], targets: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Return the cross entropy of each element, computed in float32 in any precision of the logits."""
    return F.binary_cross_entropy_with_logits(logits.float(), targets.float(), reduction="none")


def masked_sum(losses: Float[Tensor, "*n"], valid: Bool[Tensor, "*n"]) -> Float[Tensor, ""]:
    """Return the sum over the valid elements; the others may hold anything, NaN included."""
    return torch.where(valid, losses, 0.0).sum()


def masked_mean(losses: Float[Tensor, "*n"], valid: Bool[Tensor, "*n"]) -> Float[Tensor, ""]:
    """Return the mean over the valid elements, 0 where there are none."""
    return masked_sum(losses, valid) / valid.sum().clamp(min=1)
