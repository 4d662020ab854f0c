"""The condition under which the inference-only layers of this package compute by their own code."""

from __future__ import annotations

import torch
from torch import Tensor


def can_take_fast_path(*tensors: Tensor) -> bool:
    """Return whether inputs and weights are float32 on a CPU, with no autocast, gradient or compiler at work.

    Elsewhere a layer computes as PyTorch's own does, differentiably and in any precision.
    """
    if torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu"):
        return False
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        return False
    return all(tensor.dtype == torch.float32 and tensor.device.type == "cpu" for tensor in tensors)
