"""Faster layers for a CPU, each against the layer that it replaces."""

import copy
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from maskrcnn.fast import cpu
from maskrcnn.fast.cpu import (
    ChannelsLastLinear,
    ConvTranspose2x2,
    FusedAddReLU,
    StridedTopDownAdd,
    optimize_for_cpu,
)
from maskrcnn.fast.fold_norms import fold_norms
from maskrcnn.fast.guard import can_take_fast_path
from maskrcnn.fast.winograd import Probe
from maskrcnn.network.box_heads import LinearHead
from maskrcnn.network.fpn import TopDownAdd
from maskrcnn.network.mask_ablations import MLPHead
from maskrcnn.network.model import MaskRCNN
from maskrcnn.network.resnet import AddReLU
from maskrcnn.types import Batch
from networks import small


@pytest.fixture
def winograd_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "probe_winograd", lambda: Probe(2.0, 1.0))


def names(model: nn.Module) -> list[str]:
    return [type(layer).__name__ for layer in model.modules()]


def test_every_layer_that_gains_is_replaced(winograd_pays: None) -> None:
    class OtherSum(AddReLU):
        pass

    model = nn.Sequential(
        nn.Conv2d(128, 128, 3, padding=1),
        nn.Conv2d(128, 128, 1),
        nn.ConvTranspose2d(128, 17, 4, 2, 1),
        nn.Sequential(nn.ConvTranspose2d(128, 128, 2, 2)),
        AddReLU(),
        TopDownAdd(),
        OtherSum(),
    ).requires_grad_(False)
    x = torch.randn(1, 128, 9, 9)
    expected = model[0](x)
    assert optimize_for_cpu(optimize_for_cpu(model)) is model
    assert names(model)[1:] == [
        "WinogradConv2d",
        "Conv2d",
        "ConvTranspose2d",
        "Sequential",
        "ConvTranspose2x2",
        "FusedAddReLU",
        "StridedTopDownAdd",
        "OtherSum",
    ]
    torch.testing.assert_close(model[0](x), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("deterministic", [True, False])
def test_convolutions_stay_where_winograd_does_not_pay(
    monkeypatch: pytest.MonkeyPatch, deterministic: bool
) -> None:
    monkeypatch.setattr(cpu, "probe_winograd", lambda: Probe(2.0, 1.0 if deterministic else 2.0))
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: deterministic)
    model = nn.Sequential(nn.Conv2d(128, 128, 3, padding=1)).requires_grad_(False)
    assert type(optimize_for_cpu(model)[0]) is nn.Conv2d


def test_a_network_without_wide_convolutions_is_not_probed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "probe_winograd", None)  # would fail if it were called
    optimize_for_cpu(nn.Sequential(nn.Conv2d(8, 8, 3, padding=1)).requires_grad_(False))


def test_a_network_that_is_not_frozen_is_refused() -> None:
    with pytest.raises(ValueError, match=r"needs a frozen network, but 2 parameters .*0\.weight.*fold_norms"):
        optimize_for_cpu(nn.Sequential(nn.Conv2d(3, 4, 1)))


def test_the_operator_of_sum_and_relu_may_be_missing_or_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*maps: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("internal assertion")

    for operator in (None, broken, torch.add):  # the last one does not clamp
        monkeypatch.setattr(torch, "_add_relu_", operator, raising=False)
        cpu._has_add_relu.cache_clear()
        assert names(optimize_for_cpu(nn.Sequential(AddReLU())))[1] == "AddReLU"
    monkeypatch.delattr(torch, "_add_relu_")
    cpu._has_add_relu.cache_clear()
    assert names(optimize_for_cpu(nn.Sequential(AddReLU())))[1] == "AddReLU"
    monkeypatch.undo()
    cpu._has_add_relu.cache_clear()
    assert names(optimize_for_cpu(nn.Sequential(AddReLU())))[1] == "FusedAddReLU"


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


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize(
    "head", [LinearHead(6, 3, convolutions=1, hidden=(5, 4)), MLPHead(6, 2, bins=3, side=4, hidden=(5,))]
)
def test_heads_read_regions_without_flattening_them(
    head: nn.Module, memory_format: torch.memory_format
) -> None:
    regions = torch.randn(7, 6, 3, 3).to(memory_format=memory_format)
    faster = optimize_for_cpu(optimize_for_cpu(copy.deepcopy(head).requires_grad_(False)))
    assert names(faster).count("ChannelsLastLinear") == 1
    torch.testing.assert_close(faster(regions), head(regions))
    with pytest.raises(RuntimeError, match="size mismatch"):  # instead of columns in another order
        faster.load_state_dict(head.state_dict())


def test_channels_last_regions_are_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = []
    monkeypatch.setattr(F, "linear", lambda x, *rest: inputs.append(x) or x)
    regions = torch.randn(7, 6, 3, 3).contiguous(memory_format=torch.channels_last)
    ChannelsLastLinear(nn.Linear(6 * 3 * 3, 5), 3)(regions)
    assert inputs[0].data_ptr() == regions.data_ptr() and inputs[0].shape == (7, 54)


@pytest.fixture
def networks(winograd_pays: None) -> tuple[MaskRCNN, MaskRCNN]:
    """A folded network, and the same one with every faster layer."""
    folded = fold_norms(small(**{"pyramid.channels": 128, "masks.channels": 128}).build()).to(
        memory_format=torch.channels_last
    )
    faster = optimize_for_cpu(copy.deepcopy(folded))
    layers = names(faster)
    for name in ("WinogradConv2d", "ConvTranspose2x2", "ChannelsLastLinear", "FusedAddReLU"):
        assert name in layers
    return folded, faster


@pytest.mark.parametrize("mode", ["plain", "no_grad", "inference_mode"])
def test_a_detection_is_the_same(networks: tuple[MaskRCNN, MaskRCNN], mode: str) -> None:
    batch = Batch(torch.randint(256, (2, 3, 160, 192), dtype=torch.uint8), torch.tensor([[160, 190]] * 2))
    context = {"plain": nullcontext, "no_grad": torch.no_grad, "inference_mode": torch.inference_mode}[mode]
    with context():
        expected, detections = (network.detect(batch) for network in networks)
    assert expected.valid.any()
    torch.testing.assert_close(detections, expected, atol=2e-3, rtol=1e-4)


def test_autocast_around_a_detection(networks: tuple[MaskRCNN, MaskRCNN]) -> None:
    """Products of 8 bits change the order of detections: the maps are compared instead."""
    batch = Batch(torch.randint(256, (1, 3, 160, 192), dtype=torch.uint8), torch.tensor([[160, 190]]))
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        expected, maps = (network.backbone(batch.images.float() / 64 - 2) for network in networks)
        detections = networks[1].detect(batch)
    for ours, theirs in zip(maps, expected, strict=True):
        assert ours.dtype == torch.bfloat16
        torch.testing.assert_close(ours, theirs, atol=0.05 * theirs.abs().max().item(), rtol=0)
    assert detections.valid.any() and detections.boxes.isfinite().all()


def test_a_detection_in_float64(networks: tuple[MaskRCNN, MaskRCNN]) -> None:
    batch = Batch(torch.randint(256, (1, 3, 160, 192), dtype=torch.uint8), torch.tensor([[160, 190]]))
    expected, detections = (network.double().detect(batch) for network in networks)
    assert expected.valid.any()
    torch.testing.assert_close(detections, expected, atol=2e-3, rtol=1e-4)


def test_weights_written_after_loading_are_computed_with(networks: tuple[MaskRCNN, MaskRCNN]) -> None:
    """Through `data`, which leaves no trace that a cache could see."""
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        before = networks[1].backbone(images)
        for network in networks:
            for parameter in network.backbone.parameters():
                parameter.data.mul_(1.1)
        expected, maps = (network.backbone(images) for network in networks)
    for ours, theirs, old in zip(maps, expected, before, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4 * theirs.abs().max().item(), rtol=0)
        assert not torch.allclose(ours, old)
