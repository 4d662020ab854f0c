import copy

import pytest
import torch
from torch import nn

from maskrcnn.fast.fold_norms import fold_norms
from maskrcnn.network.backbone import FPN
from maskrcnn.network.mobilenet import MobileNetV2
from maskrcnn.network.norms import FrozenBatchNorm2d, batch_norm, conv_norm, frozen_batch_norm, group_norm
from maskrcnn.network.resnets import res5_stage, resnet18


def draw_norms(model: nn.Module) -> nn.Module:
    for norm in model.modules():
        if isinstance(norm, FrozenBatchNorm2d | nn.BatchNorm2d):
            nn.init.uniform_(norm.weight, 0.5, 1.0)
            nn.init.uniform_(norm.running_var, 0.5, 2.0)
            nn.init.normal_(norm.bias, std=0.1)
            nn.init.normal_(norm.running_mean, std=0.1)
    return model


def norms_of(model: nn.Module) -> list[nn.Module]:
    return [m for m in model.modules() if isinstance(m, FrozenBatchNorm2d | nn.BatchNorm2d)]


@pytest.mark.parametrize("norm", [frozen_batch_norm, batch_norm])
@pytest.mark.parametrize("body", [resnet18, MobileNetV2])
def test_folded_answers_are_equal_and_the_original_is_untouched(body, norm):
    model = draw_norms(FPN(body(norm=norm), 32, norm=norm)).eval()
    model.train()
    before = copy.deepcopy(model.state_dict())
    folded = fold_norms(model)
    assert not norms_of(folded) and not folded.training
    assert model.training and all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    images = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        expected = model.eval()(images)
        for ours, theirs in zip(folded(images), expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * theirs.abs().max().item())


def test_a_stage_shared_by_two_branches_is_folded_once_and_stays_shared():
    stage = draw_norms(res5_stage())
    model = nn.ModuleDict({"box": nn.Sequential(stage), "mask": nn.Sequential(stage, nn.ReLU())})
    folded = fold_norms(model)
    assert folded["box"][0] is folded["mask"][0]
    x = torch.randn(1, 1024, 4, 4)
    torch.testing.assert_close(folded["box"](x), model["box"](x), rtol=1e-4, atol=1e-4)


def test_a_bias_before_the_norm_is_kept():
    model = draw_norms(nn.Sequential(nn.Conv2d(3, 4, 1), FrozenBatchNorm2d(4)))
    x = torch.randn(1, 3, 2, 2)
    torch.testing.assert_close(fold_norms(model)(x), model(x))


def test_other_norms_stay():
    folded = fold_norms(conv_norm(3, 32, 1, norm=group_norm))
    assert isinstance(folded.norm, nn.GroupNorm)
