"""The one channel that a region needs, against all channels and a choice among them."""

import pytest
import torch

from maskrcnn.masks.targets import binary_targets
from maskrcnn.network.mask_ablations import CLASS_AGNOSTIC, SOFTMAX, MLPHead
from maskrcnn.network.masks import SIGMOID, FCNHead, MaskBranch

HEADS = {
    "fcn": lambda channels: FCNHead(6, channels, convolutions=1, channels=8),
    "c4": lambda channels: FCNHead(6, channels, convolutions=0, channels=8),
    "mlp": lambda channels: MLPHead(6, channels, bins=3, side=6, hidden=(10,)),
}
LABELS = torch.tensor([2, 0, 2, 1])


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_a_region_learns_its_own_channel_alone(head):
    torch.manual_seed(0)
    head = head(3)
    torch.nn.init.normal_(head.logits.weight)
    torch.nn.init.normal_(head.logits.bias)
    features = torch.randn(4, 6, 3, 3, requires_grad=True)
    learnt = [features, *head.parameters()]
    found = head(features, LABELS)
    weight = torch.randn_like(found)
    gradients = torch.autograd.grad((found * weight).sum(), learnt)
    every = head(features)
    expected = torch.stack([every[i, label] for i, label in enumerate(LABELS)])[:, None]
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradients, torch.autograd.grad((expected * weight).sum(), learnt))


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_no_regions(head):
    branch = MaskBranch(None, head(3), SIGMOID, binary_targets)
    assert branch.detect(torch.zeros(0, 6, 3, 3), LABELS[:0]).shape == (0, 6, 6)


def test_what_the_codings_make_of_a_heads_channels():
    torch.manual_seed(0)
    features, each = torch.randn(4, 6, 3, 3), torch.arange(4)
    heads = {coding: HEADS["c4"](coding.channels(3)) for coding in (SIGMOID, CLASS_AGNOSTIC, SOFTMAX)}
    found = {
        coding: MaskBranch(None, head, coding, binary_targets).detect(features, LABELS)
        for coding, head in heads.items()
    }
    every = {coding: head(features) for coding, head in heads.items()}
    torch.testing.assert_close(found[SIGMOID], every[SIGMOID][each, LABELS].sigmoid())
    torch.testing.assert_close(found[CLASS_AGNOSTIC], every[CLASS_AGNOSTIC][:, 0].sigmoid())
    scores = every[SOFTMAX].exp()  # of three classes and background
    torch.testing.assert_close(found[SOFTMAX], scores[each, LABELS] / scores.sum(1))
    assert [head.logits.out_channels for head in heads.values()] == [3, 1, 4]
