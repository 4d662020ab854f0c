"""Recomputed activations: less memory in a training step, for the time of a second forward pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import MethodType

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from maskrcnn.network.backbone import Bottleneck
from maskrcnn.network.mobilenet import InvertedResidual
from maskrcnn.network.resnets import BasicBlock

_BLOCKS = BasicBlock | Bottleneck | InvertedResidual


def recompute_activations(model: nn.Module) -> None:
    """Let each block of the body keep only its input for the backward pass, which computes the rest again.

    Blocks of frozen weights keep nothing anyway. Losses, gradients and running statistics are those of the
    plain network, to the bit on a CPU: the second pass draws no random numbers and leaves the statistics of
    batch norms alone. Names of weights stay as they are, and a copy of the network recomputes, too (Chen et
    al. 2016, "Training Deep Nets with Sublinear Memory Cost").
    """
    for block in model.modules():
        if isinstance(block, _BLOCKS):
            block.forward = MethodType(_recomputed, block)  # type: ignore[method-assign]


def _recomputed(block: nn.Module, x: Tensor) -> Tensor:
    """Compute the block; where a gradient is needed, again in the backward pass."""
    if not torch.is_grad_enabled():
        return type(block).forward(block, x)
    norms = [module for module in block.modules() if isinstance(module, _BatchNorm)]

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _statistics_kept(norms)

    forward = type(block).forward
    output: Tensor = checkpoint(
        forward, block, x, use_reentrant=False, preserve_rng_state=False, context_fn=contexts
    )
    return output


@contextmanager
def _statistics_kept(norms: list[_BatchNorm]) -> Iterator[None]:
    """Let batch norms update copies of their running statistics: the forward pass has updated their own."""
    originals = [(norm, *buffer) for norm in norms for buffer in norm.named_buffers(recurse=False)]
    for norm, name, buffer in originals:
        setattr(norm, name, buffer.clone())
    try:
        yield
    finally:
        for norm, name, buffer in originals:
            setattr(norm, name, buffer)
