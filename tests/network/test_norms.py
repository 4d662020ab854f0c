import copy
import pickle

import pytest
import torch
from torch import nn

from maskrcnn.network.norms import (
    FrozenBatchNorm2d,
    batch_norm,
    conv_norm,
    freeze_norms,
    frozen_batch_norm,
    group_norm,
    sync_batch_norm,
)


def drawn_batch_norm(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels)
    for vector in (norm.weight, norm.running_var):
        nn.init.uniform_(vector, 0.5, 2.0)
    for vector in (norm.bias, norm.running_mean):
        nn.init.normal_(vector)
    return norm.eval()


def test_frozen_batch_norm_by_hand():
    norm = FrozenBatchNorm2d(2, eps=1.0)
    norm.weight.copy_(torch.tensor([2.0, 1.0]))
    norm.bias.copy_(torch.tensor([1.0, 0.0]))
    norm.running_mean.copy_(torch.tensor([3.0, 0.0]))
    norm.running_var.copy_(torch.tensor([3.0, 0.0]))  # standard deviations 2 and 1 with epsilon
    x = torch.tensor([5.0, 7.0]).reshape(1, 2, 1, 1)
    assert norm(x).flatten().tolist() == [2 * (5 - 3) / 2 + 1, 7.0]


def test_frozen_batch_norm_never_learns_and_equals_batch_norm_in_evaluation():
    reference = drawn_batch_norm(6)
    module = nn.Sequential(nn.Sequential(copy.deepcopy(reference)))
    freeze_norms(module)
    module.train()
    x = torch.randn(2, 6, 5, 7)
    torch.testing.assert_close(module(x), reference(x))
    assert isinstance(module[0][0], FrozenBatchNorm2d)
    assert not list(module.parameters())
    assert set(module[0][0].state_dict()) == {"weight", "bias", "running_mean", "running_var"}


def test_frozen_batch_norm_keeps_precision_and_layout():
    x = torch.randn(2, 4, 5, 6).to(torch.bfloat16, memory_format=torch.channels_last)
    y = FrozenBatchNorm2d(4)(x)
    assert y.dtype == torch.bfloat16
    assert y.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("channels", "groups"), [(256, 32), (64, 32), (24, 8), (9, 1)])
def test_group_norm_takes_as_many_groups_as_divide(channels, groups):
    norm = group_norm(channels)
    assert isinstance(norm, nn.GroupNorm) and norm.num_groups == groups


@pytest.mark.parametrize("norm", [frozen_batch_norm, batch_norm, sync_batch_norm, group_norm])
def test_norms_keep_the_shape_and_pickle(norm):
    x = torch.randn(2, 32, 4, 3)
    assert pickle.loads(pickle.dumps(norm))(32)(x).shape == x.shape


def test_conv_norm_has_a_bias_only_without_a_norm():
    assert set(conv_norm(3, 4, 1, norm=None).state_dict()) == {"conv.weight", "conv.bias"}
    with_norm = conv_norm(3, 4, 3, norm=frozen_batch_norm, stride=2)
    assert with_norm.conv.bias is None
    assert with_norm(torch.randn(1, 3, 7, 8)).shape == (1, 4, 4, 4)
