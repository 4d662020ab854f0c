"""Normalisation layers. A norm is a function from a number of channels to a layer, which networks take.

Another epsilon or number of groups is another function, e.g. ``partial(FrozenBatchNorm2d, eps=0.0)``.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn

Norm = Callable[[int], nn.Module]


class FrozenBatchNorm2d(nn.Module):
    """Batch normalisation whose four vectors never change: a fixed scale and shift per channel.

    They are buffers: no optimiser updates them, and they do not count as parameters.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Return `x` scaled and shifted, in its own precision."""
        scale, shift = scale_and_shift(self)
        # Unlike batch_norm, addcmul saves no copy of x for the backward pass, which needs the scale alone.
        return torch.addcmul(shift.to(x.dtype)[:, None, None], x, scale.to(x.dtype)[:, None, None])

    def extra_repr(self) -> str:
        """Return the text for print."""
        return f"{self.weight.numel()}, eps={self.eps}"


def scale_and_shift(
    norm: FrozenBatchNorm2d | nn.modules.batchnorm._BatchNorm,
) -> tuple[Float[Tensor, " C"], Float[Tensor, " C"]]:
    """Return `scale`, `shift` such that `norm` in evaluation is ``scale * x + shift`` per channel."""
    assert norm.running_mean is not None and norm.running_var is not None
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    return scale, norm.bias - norm.running_mean * scale


def frozen_batch_norm(channels: int) -> nn.Module:
    """Fixed statistics: for training from published weights with few images a step, as the paper does."""
    return FrozenBatchNorm2d(channels)


def batch_norm(channels: int) -> nn.Module:
    """Statistics of the batch on one device."""
    return nn.BatchNorm2d(channels)


def sync_batch_norm(channels: int) -> nn.Module:
    """Statistics of the batch over all processes; `batch_norm` where there is only one."""
    return nn.SyncBatchNorm(channels)


def group_norm(channels: int) -> nn.Module:
    """Statistics of one image over 32 groups of channels (Wu and He 2018), or fewer that divide."""
    return nn.GroupNorm(math.gcd(32, channels), channels)


def conv_norm(
    in_channels: int, out_channels: int, kernel: int, *, norm: Norm | None, stride: int = 1
) -> nn.Sequential:
    """Return `conv`, padded to keep the size at stride 1, and `norm`; without a norm, `conv` has a bias."""
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=norm is None)
    if norm is None:
        return nn.Sequential(OrderedDict(conv=conv))
    return nn.Sequential(OrderedDict(conv=conv, norm=norm(out_channels)))


def stacked(layers: Iterable[nn.Module]) -> nn.Sequential:
    """Return the layers in sequence, each followed by a ReLU."""
    return nn.Sequential(*(part for layer in layers for part in (layer, nn.ReLU(inplace=True))))


def freeze_norms(module: nn.Module) -> None:
    """Replace every BatchNorm inside `module` by a `FrozenBatchNorm2d` that holds the same four vectors."""
    for name, child in module.named_children():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            frozen = FrozenBatchNorm2d(child.num_features, child.eps)
            frozen.load_state_dict({key: child.state_dict()[key] for key in frozen.state_dict()})
            setattr(module, name, frozen)
        else:
            freeze_norms(child)
