"""What the RPN learns from drawn anchors alone, against whole maps of answers and their gradients."""

import pytest
import torch
import torch.nn.functional as F

from maskrcnn.network.learning import gather_windows, rpn_losses
from maskrcnn.network.rpn import RPN, Anchors, RPNHead, TopN
from maskrcnn.ops import boxes as box_ops
from maskrcnn.ops.matching import IGNORED, match
from maskrcnn.ops.roi_align import flatten_levels, map_slices
from maskrcnn.types import Targets

STRIDES = (8, 16)


def some_rpn(convolutions):
    torch.manual_seed(0)
    anchors = Anchors(((12.0,), (24.0,)), (0.5, 1.0, 2.0), STRIDES)
    head = RPNHead(6, anchors.per_cell, convolutions=convolutions)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    topn = TopN(100, 100)
    return RPN(head, anchors, train_topn=topn, test_topn=topn, samples_per_image=10_000)  # all are sampled


def some_features():
    return [torch.randn(2, 6, height, width, requires_grad=True) for height, width in ((6, 8), (3, 4))]


def some_targets():
    boxes = torch.tensor([[[0.0, 0, 14, 11], [30, 20, 58, 46]], [[40.0, 30, 52, 44], [0, 0, 0, 0]]])
    valid = torch.tensor([[True, True], [True, False]])
    return Targets(boxes, torch.zeros(2, 2, dtype=torch.long), valid, crowd=torch.zeros_like(valid))


@pytest.mark.parametrize("convolutions", [1, 2])
def test_losses_and_gradients_are_those_of_whole_maps(convolutions):
    rpn, features, targets = some_rpn(convolutions), some_features(), some_targets()
    learnt = [*features, *rpn.parameters()]
    candidates = rpn(features)
    losses = rpn_losses(rpn, flatten_levels(features, STRIDES), candidates, targets)
    gradients = torch.autograd.grad(sum(losses.values()), learnt)

    logits, deltas = (torch.cat(parts, 1) for parts in zip(*map(rpn.head, features), strict=True))
    anchors = candidates.anchors.expand(2, -1, -1)
    matched = match(
        anchors, targets.boxes, targets.valid, negative_below=0.3, positive_from=0.7, low_quality=True
    )
    used, positive = matched != IGNORED, matched >= 0
    objectness = F.binary_cross_entropy_with_logits(logits[used], positive[used].float())
    truth = targets.boxes.gather(1, matched.clamp(min=0)[..., None].expand(-1, -1, 4))
    wanted = box_ops.encode(truth, anchors, (1.0, 1.0, 1.0, 1.0))
    box = F.smooth_l1_loss(deltas[positive], wanted[positive], beta=1 / 9, reduction="sum") / used.sum()
    assert positive.sum() >= 3
    torch.testing.assert_close(losses["loss_rpn_objectness"], objectness)
    torch.testing.assert_close(losses["loss_rpn_box"], box)
    torch.testing.assert_close(gradients, torch.autograd.grad(objectness + box, learnt))


def test_surroundings_are_padded_by_zeros_and_never_reach_into_another_map():
    maps = [torch.arange(1.0, 13).view(2, 1, 2, 3), torch.arange(13.0, 15).view(2, 1, 1, 1)]
    pyramid = flatten_levels(maps, STRIDES)
    picture, level = torch.tensor([1, 0, 1]), torch.tensor([0, 0, 1])
    row, column = torch.tensor([1, 0, 0]), torch.tensor([0, 2, 0])
    cells, inside = gather_windows(pyramid, map_slices(pyramid, picture, level), row, column, 1)
    assert cells[:, 0].tolist() == [
        [[0, 7, 8], [0, 10, 11], [0, 0, 0]],
        [[0, 0, 0], [2, 3, 0], [5, 6, 0]],
        [[0, 0, 0], [0, 14, 0], [0, 0, 0]],
    ]
    assert torch.equal(inside, cells != 0)
