from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from maskrcnn.network.backbone import FPN, Bottleneck, ResNet
from maskrcnn.network.init import freeze
from maskrcnn.network.norms import FrozenBatchNorm2d, batch_norm, frozen_batch_norm, group_norm
from maskrcnn.network.resnets import res5_stage, resnet18, resnet34, resnet50, resnet101, resnext101


@pytest.mark.parametrize(
    ("make", "published"),
    [  # parameters of torchvision's classifiers, and of their last layer
        (resnet18, 11_689_512 - 513_000),
        (resnet34, 21_797_672 - 513_000),
        (resnet50, 25_557_032 - 2_049_000),
        (resnet101, 44_549_160 - 2_049_000),
        (resnext101, 88_791_336 - 2_049_000),
        (partial(resnext101, 64, 4), 83_455_272 - 2_049_000),
    ],
)
def test_bodies_have_the_published_number_of_parameters(make, published):
    with torch.device("meta"):
        body = make(norm=batch_norm)
    assert sum(p.numel() for p in body.parameters()) == published


@pytest.mark.parametrize(
    ("body", "strides", "channels"),
    [
        (resnet18(), (4, 8, 16, 32), (64, 128, 256, 512)),
        (resnet50(stages=("res4",)), (16,), (1024,)),
        (resnet50(stages=("res5",), stride_in_1x1=True), (32,), (2048,)),
        (resnet50(stages=("res5",), dilate_c5=True), (16,), (2048,)),
        (resnet18(stages=("res3", "res5"), in_channels=1), (8, 32), (128, 512)),
    ],
)
def test_maps_are_as_announced(body, strides, channels):
    assert (body.strides, body.out_channels) == (strides, channels)
    maps = body(torch.randn(1, body.stem.conv.in_channels, 65, 40))
    expected = [(1, c, -(-65 // s), -(-40 // s)) for s, c in zip(strides, channels, strict=True)]
    assert [tuple(x.shape) for x in maps] == expected


def test_stages_behind_the_last_are_not_built():
    assert [name for name, _ in resnet18(stages=("res3",)).named_children()] == ["stem", "res2", "res3"]


@pytest.mark.parametrize("stages", [(), ("res6",), ("res5", "res4"), ("res2", "res2")])
def test_impossible_stages_are_named(stages):
    with pytest.raises(ValueError, match="stages are some of"):
        resnet18(stages=stages)


def test_names_of_a_block():
    names = {name.rpartition(".")[0] for name in resnet50(stages=("res2",)).state_dict()}
    block = {f"res2.0.{part}{i}" for part in ("conv", "norm") for i in (1, 2, 3)}
    assert {"stem.conv", "stem.norm", "res2.0.shortcut.conv", "res2.0.shortcut.norm"} | block <= names


@pytest.mark.parametrize("stride_in_1x1", [False, True])
def test_the_stride_is_in_the_chosen_convolution(stride_in_1x1):
    body = resnet50(stages=("res3",), stride_in_1x1=stride_in_1x1)
    expected = (2, 1) if stride_in_1x1 else (1, 2)
    assert (body.res3[0].conv1.stride[0], body.res3[0].conv2.stride[0]) == expected
    assert {block.conv2.stride[0] for block in body.res3[1:]} == {1}


def test_dilation_computes_the_undilated_map_at_every_pixel():
    """Behind the first block, a dilated res5 sampled at every second pixel is the res5 of stride 2 there."""
    plain, dilated = resnet18(stages=("res5",)), resnet18(stages=("res5",), dilate_c5=True)
    dilated.load_state_dict(plain.state_dict())
    plain.res5[0], dilated.res5[0] = nn.Identity(), nn.Identity()
    x = torch.randn(1, 512, 8, 10)
    torch.testing.assert_close(dilated.res5(x)[:, :, ::2, ::2], plain.res5(x[:, :, ::2, ::2]))
    for block in dilated.res5[1:]:
        assert block.conv1.dilation == block.conv2.dilation == (2, 2)


def test_a_block_by_its_formula():
    block = Bottleneck(64, 256, norm=group_norm, groups=4, width_per_group=8)
    nn.init.uniform_(block.norm3.weight)
    x = torch.randn(1, 64, 6, 6)
    y = block.norm1(torch.nn.functional.conv2d(x, block.conv1.weight)).relu()
    y = block.norm2(torch.nn.functional.conv2d(y, block.conv2.weight, padding=1, groups=4)).relu()
    y = block.norm3(torch.nn.functional.conv2d(y, block.conv3.weight))
    torch.testing.assert_close(block(x), (y + block.shortcut.norm(block.shortcut.conv(x))).relu())
    assert block.conv2.weight.shape == (32, 8, 3, 3)


@pytest.mark.parametrize(("norm", "scale"), [(batch_norm, 1.0), (frozen_batch_norm, 0.2)])
def test_only_frozen_branches_begin_quietly(norm, scale):
    body = resnet50(stages=("res2",), norm=norm)
    assert (body.res2[1].norm3.weight == scale).all() and (body.res2[1].norm1.weight == 1).all()


def test_a_deep_frozen_body_without_weights_stays_finite_and_alive():
    maps = resnet101(stages=("res5",))(torch.randn(1, 3, 64, 64))
    assert 1e-2 < maps[0].std() < 1e2
    maps[0].mean().backward()


def test_res5_stage_equals_the_stage_of_a_body():
    body = resnext101(stages=("res5",))
    stage = res5_stage(partial(Bottleneck, groups=32, width_per_group=8))
    stage.load_state_dict(body.res5.state_dict())
    x = torch.randn(3, 1024, 14, 14)
    assert stage(x).shape == (3, 2048, 7, 7)
    torch.testing.assert_close(stage(x), body.res5(x))


def test_frozen_stages_do_not_learn_and_keep_their_statistics():
    body = resnet18(stages=("res3",), norm=batch_norm)
    names = set(body.state_dict())
    freeze(body, ("stem", "res2"))
    before = {name: tensor.clone() for name, tensor in body.state_dict().items()}
    body.train()(torch.randn(2, 3, 32, 32))[0].sum().backward()
    learning = {name.split(".")[0] for name, p in body.named_parameters() if p.grad is not None}
    assert learning == {"res3"}
    assert isinstance(body.stem.norm, FrozenBatchNorm2d)
    changed = {name for name, tensor in body.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed and all(name.startswith("res3.") for name in changed)
    assert all(name.endswith("num_batches_tracked") for name in names - set(before))


def test_freezing_what_does_not_exist_is_named():
    with pytest.raises(ValueError, match="cannot freeze 'layer1': the body's parts are stem, res2"):
        freeze(resnet18(stages=("res2",)), ("layer1",))


def test_initial_convolutions_have_the_variance_of_their_fan_out():
    conv = resnext101(stages=("res2",)).res2[0].conv2  # 32 groups of 8 outputs, 3×3
    assert conv.weight.std().item() == pytest.approx((2 / (8 * 9)) ** 0.5, rel=0.03)


def test_any_block_and_depths():
    body = ResNet(partial(Bottleneck, width_per_group=8), (1, 1, 1, 1), channels=32, norm=group_norm)
    assert [x.shape[1] for x in body(torch.randn(2, 3, 64, 64))] == [32, 64, 128, 256]


class Given(nn.Module):
    """A body that returns what it was given."""

    def __init__(self, maps, strides):
        super().__init__()
        self.maps, self.strides = maps, strides
        self.out_channels = tuple(x.shape[1] for x in maps)

    def forward(self, images):
        return list(self.maps)


def test_the_pyramid_by_its_formula():
    fine, coarse = torch.randn(1, 3, 5, 7), torch.randn(1, 6, 3, 4)
    fpn = FPN(Given([fine, coarse], (4, 8)), 8)
    p2, p3, p4 = fpn(torch.empty(1, 3, 20, 28))
    merged3 = fpn.lateral[1](coarse)
    rows, columns = (
        torch.arange(5) * 3 // 5,
        torch.arange(7) * 4 // 7,
    )  # nearest, to exactly the finer map's size
    merged2 = fpn.lateral[0](fine) + merged3[:, :, rows][:, :, :, columns]
    torch.testing.assert_close(p3, F.conv2d(merged3, fpn.output[1].conv.weight, padding=1))
    torch.testing.assert_close(p2, F.conv2d(merged2, fpn.output[0].conv.weight, padding=1))
    torch.testing.assert_close(p4, p3[:, :, ::2, ::2])
    assert (fpn.strides, fpn.out_channels) == ((4, 8, 16), (8, 8, 8))


def test_convolutions_of_a_pyramid_start_uniform_without_bias():
    fpn = FPN(Given([torch.randn(1, 64, 2, 2)], (4,)), 64)
    weight = fpn.output[0].conv.weight
    bound = (3 / (64 * 9)) ** 0.5
    assert 0.98 * bound < weight.abs().max() <= bound
    assert not fpn.output[0].conv.bias.any() and not fpn.lateral[0].conv.bias.any()


def test_a_norm_takes_the_place_of_the_bias_in_a_pyramid():
    fpn = FPN(Given([torch.randn(1, 64, 2, 2)], (4,)), 64, norm=group_norm)
    assert fpn.lateral[0].conv.bias is None and isinstance(fpn.output[0].norm, nn.GroupNorm)
