import torch
import torch.nn.functional as F
from torch import nn

from maskrcnn.network.fpn import FPN
from maskrcnn.network.norms import group_norm


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


def test_convolutions_start_uniform_without_bias():
    fpn = FPN(Given([torch.randn(1, 64, 2, 2)], (4,)), 64)
    weight = fpn.output[0].conv.weight
    bound = (3 / (64 * 9)) ** 0.5
    assert 0.98 * bound < weight.abs().max() <= bound
    assert not fpn.output[0].conv.bias.any() and not fpn.lateral[0].conv.bias.any()


def test_a_norm_takes_the_place_of_the_bias():
    fpn = FPN(Given([torch.randn(1, 64, 2, 2)], (4,)), 64, norm=group_norm)
    assert fpn.lateral[0].conv.bias is None and isinstance(fpn.output[0].norm, nn.GroupNorm)
