"""Initialisation and freezing of backbones."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from maskrcnn.network.norms import freeze_norms


def init_convolutions(body: nn.Module) -> None:
    """Initialise every convolution from N(0, 2 / fan_out) (He et al. 2015), with the fan_out of one group."""
    for conv in body.modules():
        if isinstance(conv, nn.Conv2d):
            fan_out = conv.weight[0, 0].numel() * conv.out_channels // conv.groups
            nn.init.normal_(conv.weight, std=(2 / fan_out) ** 0.5)


def damp(norm: nn.Module) -> None:
    """Set the scale of a frozen norm at the end of a residual branch to 0.2.

    Without published weights, a scale of 1 would double the variance in each of up to 33 blocks. A norm that
    learns keeps 1: with 0 (Goyal et al. 2017, §5.1) networks learnt more slowly in the few hundred steps
    tried.
    """
    if not isinstance(norm.weight, nn.Parameter):
        nn.init.constant_(norm.weight, 0.2)  # type: ignore[arg-type]


def freeze(body: nn.Module, stages: Iterable[str]) -> None:
    """Freeze the named parts of `body`, e.g. ``("stem", "res2")``.

    Their BatchNorms become frozen ones, so that their statistics do not change either.
    Raises ValueError for a part that does not exist.
    """
    for name in stages:
        part = dict(body.named_modules()).get(name)
        if part is None:
            known = ", ".join(child for child, _ in body.named_children())
            raise ValueError(f"cannot freeze {name!r}: the body's parts are {known}")
        part.requires_grad_(False)
        freeze_norms(part)
