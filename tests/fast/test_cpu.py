"""Networks with faster layers for a CPU, against the networks before."""

import copy
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from maskrcnn.fast import cpu
from maskrcnn.fast.cpu import optimize_for_cpu
from maskrcnn.fast.fold_norms import fold_norms
from maskrcnn.fast.winograd import Probe
from maskrcnn.network.backbone import AddReLU, TopDownAdd
from maskrcnn.network.box_heads import LinearHead
from maskrcnn.network.mask_ablations import MLPHead
from maskrcnn.network.model import MaskRCNN
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
