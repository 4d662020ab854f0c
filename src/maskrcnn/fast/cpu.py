"""Puts the faster layers for a CPU (float32) into a frozen network. Outputs are equal up to rounding."""

from __future__ import annotations

from functools import cache

import torch
from torch import nn

from maskrcnn.fast.layers import ChannelsLastLinear, ConvTranspose2x2, FusedAddReLU, StridedTopDownAdd
from maskrcnn.fast.winograd import WinogradConv2d, fits_winograd, probe_winograd
from maskrcnn.network.backbone import AddReLU, TopDownAdd
from maskrcnn.network.box_heads import LinearHead
from maskrcnn.network.mask_ablations import MLPHead


def optimize_for_cpu(model: nn.Module) -> nn.Module:
    """Replace layers of a frozen `model`, in place, by forms that detect faster on a CPU; return the model.

    3×3 convolutions of many channels take Winograd's algorithm where `probe_winograd` finds that it pays on
    this machine. That is a measurement: on a machine where both take about as long, two processes may choose
    differently and their outputs differ by rounding. `torch.use_deterministic_algorithms(True)` leaves
    these convolutions as they are.

    Every replacement computes as the original does outside float32 and a CPU, under autocast, where a
    gradient is needed, and when compiled. Raises ValueError where a parameter requires a gradient: the
    replacements are for the frozen copy that `fold_norms` returns.
    """
    if trained := [name for name, parameter in model.named_parameters() if parameter.requires_grad]:
        raise ValueError(
            f"optimize_for_cpu needs a frozen network, but {len(trained)} parameters require a gradient "
            f"({trained[0]}, …): pass fold_norms(model)"
        )
    winograd = not torch.are_deterministic_algorithms_enabled() and any(map(fits_winograd, model.modules()))
    winograd = winograd and probe_winograd().pays
    for parent in list(model.modules()):
        for name, layer in parent.named_children():
            if (faster := _faster(layer, winograd=winograd)) is not None:
                setattr(parent, name, faster)
        if isinstance(parent, LinearHead | MLPHead):
            _skip_flatten(parent)
    return model


def _faster(layer: nn.Module, *, winograd: bool) -> nn.Module | None:
    """Return the faster form of a layer, None where there is none. Subclasses may compute something else."""
    if winograd and fits_winograd(layer):
        return WinogradConv2d(layer)
    if type(layer) is nn.ConvTranspose2d and _is_2x2(layer):
        return ConvTranspose2x2(layer)
    if type(layer) is AddReLU and _has_add_relu():
        return FusedAddReLU()
    if type(layer) is TopDownAdd:
        return StridedTopDownAdd()
    return None


@cache
def _has_add_relu() -> bool:
    """Return whether this version of PyTorch has a working in-place sum and ReLU, which is not public."""
    branch, shortcut = torch.tensor([[-2.0, 3.0], [1.0, 1.0]], dtype=torch.float32, device="cpu")
    try:
        return bool(torch._add_relu_(branch, shortcut).tolist() == [0.0, 4.0])
    except (AttributeError, RuntimeError, TypeError):
        return False


def _skip_flatten(head: LinearHead | MLPHead) -> None:
    """Let the first linear layer of `head` read channels-last regions in place: flattening copies them."""
    hidden = head.get_submodule("hidden")
    assert isinstance(hidden, nn.Sequential)
    if isinstance(first := hidden[0], nn.Linear):
        head.flatten, hidden[0] = nn.Identity(), ChannelsLastLinear(first, head.bins)


def _is_2x2(conv: nn.ConvTranspose2d) -> bool:
    is_plain = conv.dilation == (1, 1) and conv.groups == 1 and conv.output_padding == (0, 0)
    return is_plain and conv.kernel_size == conv.stride == (2, 2) and conv.padding == (0, 0)
