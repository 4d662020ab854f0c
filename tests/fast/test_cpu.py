"""Convolutions and sums in faster forms, against PyTorch's own, most of them in float64."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from maskrcnn.fast.cpu import ChannelsLastLinear, ConvTranspose2x2, OnePassSum, QuarterMerge, optimize_for_cpu
from maskrcnn.fast.winograd import WinogradConv2d, transforms
from maskrcnn.network.boxes import LinearHead
from maskrcnn.network.fpn import TopDownAdd
from maskrcnn.network.mask_ablations import MLPHead
from maskrcnn.network.resnet import AddReLU


def test_the_transforms_convolve_one_tile() -> None:
    of_tile, of_kernel, of_answer = transforms()
    tile = torch.arange(6, dtype=torch.float64) ** 2  # 0 1 4 9 16 25
    kernel = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    answer = of_answer @ ((of_kernel @ kernel) * (of_tile @ tile))
    by_hand = [0 - 2 + 12, 1 - 8 + 27, 4 - 18 + 48, 9 - 32 + 75]
    assert answer.tolist() == pytest.approx(by_hand)


@pytest.mark.parametrize("size_hw", [(8, 12), (1, 1), (7, 9), (45, 3), (3, 700)])
@pytest.mark.parametrize("pictures", [1, 3])
def test_winograd_convolves(pictures: int, size_hw: tuple[int, int]) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(5, 7, 3, padding=1).requires_grad_(False)
    x = torch.randn(pictures, 5, *size_hw)
    answer = WinogradConv2d(conv)(x)
    torch.testing.assert_close(answer, conv.double()(x.double()).float(), atol=2e-6, rtol=1e-5)
    assert answer.is_contiguous(memory_format=torch.channels_last)


def test_winograd_rounds_as_its_points_allow() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(256, 32, 3, padding=1).requires_grad_(False)
    x = torch.randn(2, 256, 16, 16)
    answer = WinogradConv2d(conv)(x)
    exact = conv.double()(x.double())
    assert (answer - exact).std() < 2e-6 * exact.std()  # 3e-6 with the points 0, ±1, ±2


def test_winograd_without_pictures_or_bias() -> None:
    conv = WinogradConv2d(nn.Conv2d(5, 7, 3, padding=1, bias=False).requires_grad_(False))
    assert conv(torch.zeros(0, 5, 14, 14)).shape == (0, 7, 14, 14)
    assert not conv(torch.zeros(1, 5, 4, 4)).any()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("pictures", [0, 1, 11])
def test_doubling_deconvolves(pictures: int, bias: bool) -> None:
    torch.manual_seed(0)
    conv = nn.ConvTranspose2d(6, 3, 2, 2, bias=bias)
    x = torch.randn(pictures, 6, 14, 9)
    torch.testing.assert_close(ConvTranspose2x2(conv)(x), conv(x), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
def test_doubling_learns_what_a_deconvolution_learns(bias: bool) -> None:
    torch.manual_seed(0)
    conv = nn.ConvTranspose2d(6, 3, 2, 2, bias=bias).double()
    x = torch.randn(11, 6, 14, 9, dtype=torch.float64, requires_grad=True)
    wanted = conv(x)
    slopes = torch.randn_like(wanted)
    parameters = (x, *conv.parameters())
    for ours, theirs in zip(
        torch.autograd.grad(ConvTranspose2x2(conv)(x), parameters, slopes),
        torch.autograd.grad(wanted, parameters, slopes),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


def test_only_what_gains_is_replaced() -> None:
    model = nn.Sequential(
        nn.Conv2d(128, 128, 3, padding=1),
        nn.Conv2d(64, 128, 3, padding=1),
        nn.Conv2d(128, 128, 3, padding=1, stride=2),
        nn.Conv2d(128, 128, 3, padding=2, dilation=2),
        nn.Conv2d(128, 128, 3, padding=1, groups=2),
        nn.Conv2d(128, 128, 3),
        nn.Conv2d(128, 128, 1),
        nn.ConvTranspose2d(128, 17, 4, 2, 1),
        nn.Sequential(nn.ConvTranspose2d(128, 128, 2, 2)),
        AddReLU(),
        TopDownAdd(),
    )
    x = torch.randn(1, 128, 9, 9)
    wanted, names = model[0](x), model.state_dict().keys()
    quickened = optimize_for_cpu(model)
    assert [type(layer).__name__ for layer in quickened.modules()].count("Conv2d") == 6
    assert quickened.state_dict().keys() == names
    assert isinstance(quickened[0], WinogradConv2d) and isinstance(quickened[8][0], ConvTranspose2x2)
    assert type(quickened[7]) is nn.ConvTranspose2d
    assert isinstance(quickened[9], OnePassSum) and isinstance(quickened[10], QuarterMerge)
    torch.testing.assert_close(quickened[0](x), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size_hw", [(48, 44), (47, 49), (21, 70), (8, 12)])
def test_winograd_learns_what_a_convolution_learns(size_hw: tuple[int, int]) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(5, 7, 3, padding=1).double()
    x = torch.randn(3, 5, *size_hw, dtype=torch.float64, requires_grad=True)
    wanted = conv(x)
    slopes = torch.randn_like(wanted)
    parameters = (x, conv.weight, conv.bias)
    answer = WinogradConv2d(conv)(x)
    torch.testing.assert_close(answer, wanted)
    for ours, theirs in zip(
        torch.autograd.grad(answer, parameters, slopes),
        torch.autograd.grad(wanted, parameters, slopes),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("learns", [True, False])
def test_weights_are_shared_and_followed(learns: bool) -> None:
    conv = nn.Conv2d(5, 7, 3, padding=1).requires_grad_(learns)
    winograd = WinogradConv2d(conv)
    assert winograd.state_dict().keys() == conv.state_dict().keys()
    x = torch.randn(1, 5, 40, 40)
    winograd(x).sum()
    with torch.no_grad():
        conv.weight.mul_(2)
    torch.testing.assert_close(winograd(x), conv(x), atol=1e-5, rtol=1e-5)


def test_a_fused_step_is_followed() -> None:
    conv = nn.Conv2d(5, 7, 3, padding=1)
    winograd, x = WinogradConv2d(conv), torch.randn(1, 5, 40, 40)
    winograd(x).sum().backward()
    torch.optim.SGD(conv.parameters(), 1.0, fused=True).step()  # does not count as a change of the weights
    torch.testing.assert_close(winograd(x), conv(x), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize(
    "head", [LinearHead(6, 3, convolutions=1, hidden=(5, 4)), MLPHead(6, 2, bins=3, side=4, hidden=(5,))]
)
def test_heads_read_regions_as_they_lie(head: nn.Module, memory_format: torch.memory_format) -> None:
    regions = torch.randn(7, 6, 3, 3).to(memory_format=memory_format)
    learns = optimize_for_cpu(copy.deepcopy(head))
    assert not any(isinstance(layer, ChannelsLastLinear) for layer in learns.modules())
    rests = optimize_for_cpu(optimize_for_cpu(copy.deepcopy(head).requires_grad_(False)))
    assert [type(layer) for layer in rests.modules()].count(ChannelsLastLinear) == 1
    torch.testing.assert_close(rests(regions), head(regions))


def test_regions_are_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    monkeypatch.setattr(F, "linear", lambda x, *rest: read.append(x) or x)
    regions = torch.randn(7, 6, 3, 3).contiguous(memory_format=torch.channels_last)
    ChannelsLastLinear(nn.Linear(6 * 3 * 3, 5), 3)(regions)
    assert read[0].data_ptr() == regions.data_ptr() and read[0].shape == (7, 54)


def test_a_residual_sum_in_one_pass() -> None:
    assert_same_sum(AddReLU(), OnePassSum(), (2, 5, 6, 7), (2, 5, 6, 7))


@pytest.mark.parametrize("coarser", [(1, 1), (4, 6), (3, 1)])
@pytest.mark.parametrize("less", [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_a_merge_by_quarters(coarser: tuple[int, int], less: tuple[int, int]) -> None:
    finer = (2 * coarser[0] - less[0], 2 * coarser[1] - less[1])
    assert_same_sum(TopDownAdd(), QuarterMerge(), (2, 5, *finer), (2, 5, *coarser))


@pytest.mark.parametrize("finer", [(8, 8), (7, 8), (2, 2), (5, 9)])
def test_maps_that_are_not_half_as_large_are_merged_too(finer: tuple[int, int]) -> None:
    assert_same_sum(TopDownAdd(), QuarterMerge(), (2, 5, *finer), (2, 5, 2, 2))


def assert_same_sum(plain: nn.Module, quick: nn.Module, *shapes: tuple[int, ...]) -> None:
    """Both are to answer the same in the memory of the first map, and to lead the same gradients back."""
    torch.manual_seed(0)
    maps = [torch.randn(shape, requires_grad=True) for shape in shapes]
    answers, gradients = [], []
    for layer in (plain, quick):
        first, second = (1 * each.contiguous(memory_format=torch.channels_last) for each in maps)
        answer = layer(first, second)
        assert answer.data_ptr() == first.data_ptr()
        torch.manual_seed(1)
        answers.append(answer.detach())
        gradients.append(torch.autograd.grad(answer, maps, torch.randn(answer.shape)))
    torch.testing.assert_close(*answers, atol=0, rtol=0)
    torch.testing.assert_close(*gradients)
