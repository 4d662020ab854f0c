"""Batch normalisation folded into convolutions, for inference."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import TypeGuard

from torch import nn

from maskrcnn.network.norms import FrozenBatchNorm2d, scale_and_shift

BatchNorm = FrozenBatchNorm2d | nn.BatchNorm2d | nn.SyncBatchNorm


def fold_norms(model: nn.Module) -> nn.Module:
    """Return a frozen copy of `model`, its BatchNorms made part of the convolutions before them.

    The copy is in evaluation mode. A norm is folded into the convolution registered directly before it in the
    same module, which everywhere in this library is the one computed before it. Modules that branches share
    stay shared. Norms that depend on the input, such as GroupNorm, stay.
    """
    folded = copy.deepcopy(model).eval().requires_grad_(False)
    for parent in list(folded.modules()):
        children = list(parent.named_children())
        for (_, conv), (name, norm) in pairwise(children):
            if isinstance(conv, nn.Conv2d) and _is_constant(norm):
                _fold(conv, norm)
                setattr(parent, name, nn.Identity())
    return folded


def _is_constant(norm: nn.Module) -> TypeGuard[BatchNorm]:
    """Return whether a norm is a fixed scale and shift; a BatchNorm without running statistics is not."""
    return isinstance(norm, BatchNorm) and norm.running_mean is not None


def _fold(conv: nn.Conv2d, norm: BatchNorm) -> None:
    scale, shift = scale_and_shift(norm)
    conv.weight.mul_(scale[:, None, None, None])
    bias = shift if conv.bias is None else shift + scale * conv.bias
    conv.bias = nn.Parameter(bias, requires_grad=False)
