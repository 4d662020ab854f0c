"""Folding of batch normalisation into convolutions, for inference."""

from __future__ import annotations

import copy
from itertools import pairwise

from torch import nn

from maskrcnn.network.norms import FrozenBatchNorm2d, scale_and_shift


def fold_norms(model: nn.Module) -> nn.Module:
    """Return a copy of `model` for inference whose BatchNorms are part of the convolutions before them.

    A norm belongs to the convolution registered directly before it in the same module, as everywhere in this
    library. Sub-modules that branches share stay shared. The copy is in evaluation mode and does not learn.
    """
    folded = copy.deepcopy(model).eval().requires_grad_(False)
    for parent in list(folded.modules()):
        children = list(parent.named_children())
        for (_, conv), (name, norm) in pairwise(children):
            if isinstance(conv, nn.Conv2d) and _is_fixed(norm):
                _fold(conv, norm)
                setattr(parent, name, nn.Identity())
    return folded


def _is_fixed(norm: nn.Module) -> bool:
    return (
        isinstance(norm, FrozenBatchNorm2d | nn.modules.batchnorm._BatchNorm)
        and norm.running_mean is not None
    )


def _fold(conv: nn.Conv2d, norm: nn.Module) -> None:
    scale, shift = scale_and_shift(norm)  # type: ignore[arg-type]
    conv.weight.mul_(scale[:, None, None, None])
    bias = shift if conv.bias is None else shift + scale * conv.bias
    conv.bias = nn.Parameter(bias, requires_grad=False)
