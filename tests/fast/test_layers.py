"""Faster layers for a CPU, each against the layer that it replaces."""

from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from maskrcnn.fast.layers import (
    ChannelsLastLinear,
    ConvTranspose2x2,
    FusedAddReLU,
    StridedTopDownAdd,
    can_take_fast_path,
)
from maskrcnn.network.backbone import AddReLU, TopDownAdd


def test_the_fast_path_is_for_float32_without_gradients_alone() -> None:
    x, learns = torch.zeros(1), torch.zeros(1, requires_grad=True)
    assert can_take_fast_path(x, x)
    assert not can_take_fast_path(x, x.double()) and not can_take_fast_path(x, x.to("meta"))
    assert not can_take_fast_path(x, learns)
    with torch.no_grad():
        assert can_take_fast_path(x, learns)
    with torch.inference_mode():
        assert can_take_fast_path(x, learns)
        with torch.autocast("cpu", torch.bfloat16):
            assert not can_take_fast_path(x)


MODES = ["plain", "no_grad", "inference_mode", "autocast", "float64", "learns"]


def assert_equal_layers(original: nn.Module, faster: nn.Module, *shapes: tuple[int, ...], mode: str) -> None:
    """Outputs are equal in every mode, and the gradients where the inputs require one."""
    dtype = torch.float64 if mode == "float64" else torch.float32
    inputs = [torch.randn(shape, dtype=dtype, requires_grad=mode == "learns") for shape in shapes]
    context = {
        "no_grad": torch.no_grad,
        "inference_mode": torch.inference_mode,
        "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    }.get(mode, nullcontext)
    outputs, gradients = [], []
    for layer in (original.to(dtype), faster.to(dtype)):
        with context():
            maps = [(1 * each).contiguous(memory_format=torch.channels_last) for each in inputs]
            output = layer(*maps)
        if isinstance(layer, AddReLU | TopDownAdd):
            assert output.data_ptr() == maps[0].data_ptr()
        outputs.append(output.detach())
        if mode == "learns":
            gradients.append(torch.autograd.grad(output.square().sum(), inputs))
    close = {"atol": 0.05, "rtol": 0.05} if mode == "autocast" else {"atol": 1e-6, "rtol": 1e-5}
    torch.testing.assert_close(*outputs, **close)
    if gradients:
        torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("mode", MODES)
def test_a_sum_and_relu_in_one_pass(mode: str) -> None:
    assert_equal_layers(AddReLU(), FusedAddReLU(), (2, 5, 6, 7), (2, 5, 6, 7), mode=mode)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("coarser", [(1, 1), (4, 6), (3, 1)])
@pytest.mark.parametrize("less", [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_a_top_down_sum_by_strides(coarser: tuple[int, int], less: tuple[int, int], mode: str) -> None:
    finer = (2 * coarser[0] - less[0], 2 * coarser[1] - less[1])
    assert_equal_layers(TopDownAdd(), StridedTopDownAdd(), (2, 5, *finer), (2, 5, *coarser), mode=mode)


@pytest.mark.parametrize("finer", [(8, 8), (7, 8), (2, 2), (5, 9)])
def test_a_top_down_sum_of_maps_of_another_ratio(finer: tuple[int, int]) -> None:
    assert_equal_layers(TopDownAdd(), StridedTopDownAdd(), (2, 5, *finer), (2, 5, 2, 2), mode="plain")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("regions", [1, 11])
def test_a_transposed_convolution_as_a_product(regions: int, bias: bool, mode: str) -> None:
    conv = nn.ConvTranspose2d(6, 3, 2, 2, bias=bias).requires_grad_(False)
    assert_equal_layers(conv, ConvTranspose2x2(conv), (regions, 6, 14, 9), mode=mode)


def test_a_transposed_convolution_of_no_regions_and_of_another_size() -> None:
    conv = nn.ConvTranspose2d(6, 3, 2, 2)
    faster = ConvTranspose2x2(conv.requires_grad_(False))
    assert faster(torch.zeros(0, 6, 14, 9)).shape == (0, 3, 28, 18)
    assert faster(torch.zeros(1, 6, 14, 9), output_size=[28, 18]).shape == (1, 3, 28, 18)


def test_a_transposed_convolution_follows_its_weight() -> None:
    conv = nn.ConvTranspose2d(6, 3, 2, 2).requires_grad_(False)
    faster, x = ConvTranspose2x2(conv), torch.randn(2, 6, 4, 4)
    faster(x)
    faster.weight.data.mul_(2)
    torch.testing.assert_close(faster(x), conv(x))
    assert faster.state_dict().keys() == conv.state_dict().keys()


def test_channels_last_regions_are_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = []
    monkeypatch.setattr(F, "linear", lambda x, *rest: inputs.append(x) or x)
    regions = torch.randn(7, 6, 3, 3).contiguous(memory_format=torch.channels_last)
    ChannelsLastLinear(nn.Linear(6 * 3 * 3, 5), 3)(regions)
    assert inputs[0].data_ptr() == regions.data_ptr() and inputs[0].shape == (7, 54)
