"""Winograd's convolution against PyTorch's, and the choice between them."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from maskrcnn.fast import winograd
from maskrcnn.fast.winograd import (
    Probe,
    WinogradConv2d,
    fits_winograd,
    probe_winograd,
    recover_weight,
    transform_kernel,
    transforms,
    winograd_conv2d,
)


def conv3x3(in_channels: int, out_channels: int, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=bias).requires_grad_(False)


def test_the_transforms_convolve_one_tile() -> None:
    of_input, of_kernel, of_output = map(torch.from_numpy, transforms())
    tile = torch.arange(6, dtype=torch.float64) ** 2  # 0 1 4 9 16 25
    kernel = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    outputs = of_output @ ((of_kernel @ kernel) * (of_input @ tile))
    by_hand = [0 - 2 + 12, 1 - 8 + 27, 4 - 18 + 48, 9 - 32 + 75]
    assert outputs.tolist() == pytest.approx(by_hand)


@pytest.mark.parametrize("size_hw", [(8, 12), (1, 1), (7, 9), (45, 3), (3, 700), (48, 44)])
@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("bias", [True, False])
def test_equals_the_convolution(batch_size: int, size_hw: tuple[int, int], bias: bool) -> None:
    conv = conv3x3(5, 7, bias).double()
    x = torch.randn(batch_size, 5, *size_hw, dtype=torch.float64)
    output = winograd_conv2d(x, transform_kernel(conv.weight), conv.bias)
    torch.testing.assert_close(output, conv(x))
    assert output.is_contiguous(memory_format=torch.channels_last)


def test_no_images() -> None:
    assert WinogradConv2d(conv3x3(5, 7))(torch.zeros(0, 5, 14, 14)).shape == (0, 7, 14, 14)


def test_the_rounding_error_is_that_of_its_points() -> None:
    conv, x = conv3x3(256, 32), torch.randn(2, 256, 16, 16)
    output = WinogradConv2d(conv)(x)
    exact = conv.double()(x.double())
    assert (output - exact).std() < 2e-6 * exact.std()  # 3e-6 with the points 0, ±1, ±2


def test_the_weight_is_recovered() -> None:
    weight = torch.randn(9, 8, 3, 3, dtype=torch.float64)
    torch.testing.assert_close(recover_weight(transform_kernel(weight)), weight)
    assert (recover_weight(transform_kernel(weight.float())) - weight).abs().max() < 2e-6


CASES = ["float64", "autocast", "input gradient", "compiled"]


@pytest.mark.parametrize("case", CASES)
def test_computes_the_plain_convolution_where_the_fast_path_does_not_apply(
    monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    conv, x = conv3x3(5, 7), torch.randn(2, 5, 6, 9)
    layer = WinogradConv2d(conv)
    monkeypatch.setattr(winograd, "winograd_conv2d", None)  # would fail if it were called
    if case == "autocast":
        with torch.autocast("cpu", torch.bfloat16):
            output, expected = layer(x), conv(x)
        assert output.dtype == torch.bfloat16
        torch.testing.assert_close(output, expected, atol=0.05, rtol=0.05)
        return
    if case == "compiled":
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    if case == "float64":
        layer, conv, x = layer.double(), conv.double(), x.double()
    if case == "input gradient":
        x.requires_grad_()
        gradients = [torch.autograd.grad(each(x).square().sum(), x)[0] for each in (layer, conv)]
        torch.testing.assert_close(*gradients, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(layer(x), conv(x), atol=1e-5, rtol=1e-5)


def test_is_used_in_inference_mode_and_outside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    conv, x, calls = conv3x3(5, 7), torch.randn(2, 5, 6, 9), []
    layer = WinogradConv2d(conv)
    monkeypatch.setattr(winograd, "winograd_conv2d", lambda *a: calls.append(1) or winograd_conv2d(*a))
    outputs = [layer(x)]
    for mode in (torch.inference_mode, torch.no_grad):
        with mode():
            outputs.append(layer(x))
    assert len(calls) == 3
    for output in outputs:
        torch.testing.assert_close(output, conv(x), atol=1e-5, rtol=1e-5)


def test_a_weight_that_is_written_is_never_answered_by_an_older_kernel() -> None:
    """Whatever can be written is what is computed with; what cannot be computed with cannot be written."""
    conv = conv3x3(5, 7, bias=False)
    layer, x = WinogradConv2d(conv), torch.randn(1, 5, 8, 8)
    first = layer(x)
    for parameter in layer.parameters():
        parameter.data.mul_(2)  # leaves no trace in the parameter's version
    torch.testing.assert_close(layer(x), 2 * first)
    other = WinogradConv2d(conv3x3(5, 7, bias=False))
    layer.load_state_dict(other.state_dict())
    torch.testing.assert_close(layer(x), other(x))

    with pytest.raises(RuntimeError, match="kernel"):
        layer.load_state_dict(conv.state_dict())
    with pytest.raises(AttributeError):
        layer.weight.data.mul_(2)
    for value in (nn.Parameter(conv.weight), conv.weight.data):
        with pytest.raises(AttributeError, match="transform_kernel"):
            layer.weight = value
    layer.kernel.data = transform_kernel(conv.weight)
    torch.testing.assert_close(layer(x), first)
    torch.testing.assert_close(copy.deepcopy(layer)(x), first)


def test_layers_that_fit() -> None:
    class Subclass(nn.Conv2d):
        pass

    assert fits_winograd(nn.Conv2d(128, 128, 3, padding=1))
    for layer in (
        nn.Conv2d(64, 128, 3, padding=1),
        nn.Conv2d(128, 128, 3, padding=1, stride=2),
        nn.Conv2d(128, 128, 3, padding=2, dilation=2),
        nn.Conv2d(128, 128, 3, padding=1, groups=2),
        nn.Conv2d(128, 128, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(128, 128, 3),
        nn.Conv2d(128, 128, 1),
        nn.Conv2d(128, 128, 3, padding=1, dtype=torch.float64),
        Subclass(128, 128, 3, padding=1),
        nn.Linear(128, 128),
    ):
        assert not fits_winograd(layer)


def test_the_probe_measures_once_for_a_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[str] = []
    monkeypatch.setattr(winograd, "winograd_conv2d", lambda *a: runs.append("winograd"))
    monkeypatch.setattr(F, "conv2d", lambda *a, **k: runs.append("plain"))
    winograd._probe.cache_clear()
    random_state = torch.get_rng_state()
    first = probe_winograd()
    measured = len(runs)
    assert runs.count("winograd") == runs.count("plain") > 1
    assert probe_winograd() is first and len(runs) == measured
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    probe_winograd()
    assert len(runs) == 2 * measured
    assert torch.equal(torch.get_rng_state(), random_state)
    winograd._probe.cache_clear()


def test_the_probe_computes_both_convolutions() -> None:
    winograd._probe.cache_clear()
    with torch.autocast("cpu", torch.bfloat16):
        probe = probe_winograd()
    assert min(probe) > 0.1  # 3.6 Gflop, or a quarter of them
    assert Probe(2.0, 1.0).pays and not Probe(2.0, 1.9).pays and not Probe(1.0, 2.0).pays
