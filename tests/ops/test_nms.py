import pytest
import torch

from maskrcnn.ops import nms


def greedy(boxes, scores, groups, valid, threshold):
    """The definition, box by box."""
    keep = torch.zeros(len(boxes), dtype=torch.bool)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    for i in scores.argsort(descending=True, stable=True).tolist():
        if not valid[i]:
            continue
        rivals = keep & (groups == groups[i])
        low, high = torch.maximum(boxes[i, :2], boxes[:, :2]), torch.minimum(boxes[i, 2:], boxes[:, 2:])
        shared = (high - low).clamp(min=0).prod(1)
        keep[i] = not ((shared / (area[i] + area - shared) > threshold) & rivals).any()
    return keep


def random_boxes(batch, count, *, empty=0.1, span=60.0):
    corner = torch.rand(batch, count, 2) * span
    side = torch.rand(batch, count, 2) * 40 * (torch.rand(batch, count, 1) > empty)
    return torch.cat((corner, corner + side), -1)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("count", [1, 127, 128, 300, 517])
def test_equals_the_definition(seed, count):
    torch.manual_seed(seed)
    boxes = random_boxes(2, count)
    scores = (torch.rand(2, count) * 20).round() / 20  # many ties
    groups = torch.randint(0, 1 + seed, (2, count))
    valid = torch.rand(2, count) > 0.1
    keep = nms.suppress(boxes, scores, groups, valid, 0.4)
    for i in range(2):
        assert torch.equal(keep[i], greedy(boxes[i], scores[i], groups[i], valid[i], 0.4))


def test_the_first_of_equal_scores_wins():
    boxes = torch.tensor([[[0.0, 0, 10, 10]] * 3])
    keep = nms.suppress(
        boxes, torch.ones(1, 3), torch.zeros(1, 3, dtype=torch.int64), torch.ones(1, 3).bool(), 0.5
    )
    assert keep.tolist() == [[True, False, False]]


def test_a_suppressed_box_suppresses_nothing():
    # a chain: each overlaps the next by 0.6, the ends do not reach 0.5
    boxes = torch.tensor([[[0.0, 0, 10, 10], [2.5, 0, 12.5, 10], [5, 0, 15, 10]]])
    scores = torch.tensor([[0.9, 0.8, 0.7]])
    keep = nms.suppress(boxes, scores, torch.zeros(1, 3, dtype=torch.int64), torch.ones(1, 3).bool(), 0.5)
    assert keep.tolist() == [[True, False, True]]


def test_a_chain_across_blocks():
    """The longest dependency there is: every box suppresses its successor, if it is itself kept."""
    count = 400
    x = torch.arange(count) * 2.5
    boxes = torch.stack((x, torch.zeros(count), x + 10, torch.full((count,), 10.0)), 1)[None]
    scores = torch.linspace(1, 0, count)[None]
    keep = nms.suppress(
        boxes, scores, torch.zeros(1, count, dtype=torch.int64), torch.ones(1, count).bool(), 0.5
    )
    assert keep[0].tolist() == [i % 2 == 0 for i in range(count)]


def test_empty_boxes_are_kept_and_no_boxes_are_no_error():
    point = torch.tensor([[[5.0, 5, 5, 5]] * 2])
    groups, valid = torch.zeros(1, 2, dtype=torch.int64), torch.ones(1, 2).bool()
    assert nms.suppress(point, torch.ones(1, 2), groups, valid, 0.5).all()
    assert not nms.suppress(point, torch.ones(1, 2), groups, ~valid, 0.5).any()
    nothing = nms.suppress(point[:, :0], torch.ones(1, 0), groups[:, :0], valid[:, :0], 0.5)
    assert nothing.shape == (1, 0)


def test_the_fixed_point_equals_the_blocks():
    """What runs on a GPU against what runs on a CPU."""
    torch.manual_seed(3)
    boxes = random_boxes(1, 500)[0]
    segments = torch.randint(-1, 3, (500,)).sort().values
    blocks = nms.keep_in_order(boxes, segments, 0.3)
    assert torch.equal(blocks, nms.keep_at_once(boxes, segments, 0.3))


def test_the_operator_is_registered_as_pytorch_expects():
    boxes = random_boxes(1, 20)[0]
    segments = torch.zeros(20, dtype=torch.int64)
    torch.library.opcheck(nms.keep_in_order, (boxes, segments, 0.5))
