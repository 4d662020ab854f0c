"""Faster CPU (float32) replacements for layers of a frozen network. Outputs are equal up to rounding."""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from maskrcnn.fast.guard import can_take_fast_path
from maskrcnn.fast.winograd import WinogradConv2d, fits_winograd, probe_winograd
from maskrcnn.network.box_heads import LinearHead
from maskrcnn.network.fpn import TopDownAdd
from maskrcnn.network.mask_ablations import MLPHead
from maskrcnn.network.resnet import AddReLU

_CHUNK_CELLS = 1000  # cells deconvolved at once: their intermediate tensors fit into the caches


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


class FusedAddReLU(AddReLU):
    """Sum and ReLU in one pass over the maps, by an operator of PyTorch that has no gradient."""

    def forward(
        self, branch: Float[Tensor, "B C H W"], shortcut: Float[Tensor, "B C H W"]
    ) -> Float[Tensor, "B C H W"]:
        """Return the ReLU of the sum, in the memory of `branch`."""
        if not can_take_fast_path(branch, shortcut):
            return super().forward(branch, shortcut)
        return torch._add_relu_(branch, shortcut)


class StridedTopDownAdd(TopDownAdd):
    """The sum without an upsampled copy: the coarser map is added to every second cell, four times.

    A coarser map of another size than half the finer one's, rounded up, is interpolated as by `TopDownAdd`.
    """

    def forward(
        self, finer: Float[Tensor, "B C H W"], coarser: Float[Tensor, "B C h w"]
    ) -> Float[Tensor, "B C H W"]:
        """Return the sum, in the memory of `finer`."""
        half = tuple(-(-side // 2) for side in finer.shape[2:])
        if half != coarser.shape[2:] or not can_take_fast_path(finer, coarser):
            return super().forward(finer, coarser)
        for row in range(2):
            for column in range(2):
                cells = finer[:, :, row::2, column::2]
                cells += coarser[:, :, : cells.shape[2], : cells.shape[3]]
        return finer


def _skip_flatten(head: LinearHead | MLPHead) -> None:
    """Let the first linear layer of `head` read channels-last regions in place: flattening copies them."""
    hidden = head.get_submodule("hidden")
    assert isinstance(hidden, nn.Sequential)
    if isinstance(first := hidden[0], nn.Linear):
        head.flatten, hidden[0] = nn.Identity(), ChannelsLastLinear(first, head.bins)


class ChannelsLastLinear(nn.Module):
    """The linear layer `linear` of flattened regions of `bins` × `bins` cells, without flattening them.

    Its frozen weight (O, bins², C) is that of `linear`, reordered as channels-last regions are.
    """

    def __init__(self, linear: nn.Linear, bins: int) -> None:
        super().__init__()
        weight = linear.weight.detach().unflatten(1, (-1, bins**2)).transpose(1, 2).contiguous()
        self.weight, self.bias = nn.Parameter(weight, requires_grad=False), linear.bias

    def forward(self, regions: Float[Tensor, "N C h w"]) -> Float[Tensor, "N O"]:
        """Return the output of each region."""
        return F.linear(regions.permute(0, 2, 3, 1).flatten(1), self.weight.flatten(1), self.bias)


def _is_2x2(conv: nn.ConvTranspose2d) -> bool:
    is_plain = conv.dilation == (1, 1) and conv.groups == 1 and conv.output_padding == (0, 0)
    return is_plain and conv.kernel_size == conv.stride == (2, 2) and conv.padding == (0, 0)


class ConvTranspose2x2(nn.ConvTranspose2d):
    """A 2×2 transposed convolution of stride 2 as a matrix product: each cell becomes 2×2 outputs.

    It shares the parameters of `conv`.
    """

    def __init__(self, conv: nn.ConvTranspose2d) -> None:
        with torch.device("meta"):  # no weight is initialised
            super().__init__(conv.in_channels, conv.out_channels, 2, 2, bias=False)
        self.weight, self.bias = conv.weight, conv.bias

    def forward(
        self, x: Float[Tensor, "B C h w"], output_size: list[int] | None = None
    ) -> Float[Tensor, "B O H W"]:
        """Return the transposed convolution of `x`, channels-last on the fast path."""
        if output_size is not None or not can_take_fast_path(x, self.weight):
            return super().forward(x, output_size)
        return _conv_transpose_2x2(x, self.weight, self.bias)


def _conv_transpose_2x2(
    x: Float[Tensor, "B C h w"], weight: Float[Tensor, "C O 2 2"], bias: Float[Tensor, " O"] | None
) -> Float[Tensor, "B O 2*h 2*w"]:
    batch_size, _, height, width = x.shape
    channels = weight.shape[1]
    bias = weight.new_zeros(channels) if bias is None else bias
    kernel, biases = weight.permute(0, 2, 3, 1).flatten(1), bias.repeat(4)  # (C, 4 O), (4 O)
    cells = x.permute(0, 2, 3, 1)
    output = x.new_empty((batch_size, height, 2, width, 2, channels))
    images = max(1, _CHUNK_CELLS // max(1, height * width))
    for chunk, target in zip(cells.split(images), output.split(images), strict=True):
        products = torch.addmm(biases, chunk.flatten(0, 2), kernel)
        target.copy_(products.view(*chunk.shape[:3], 2, 2, channels).transpose(2, 3))
    return output.flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)
