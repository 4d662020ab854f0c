import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from maskrcnn.ops import boxes as box_ops
from maskrcnn.ops import nms_cuda


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
    keep = box_ops.suppress(boxes, scores, groups, valid, 0.4)
    for i in range(2):
        assert torch.equal(keep[i], greedy(boxes[i], scores[i], groups[i], valid[i], 0.4))


def test_the_first_of_equal_scores_wins():
    boxes = torch.tensor([[[0.0, 0, 10, 10]] * 3])
    keep = box_ops.suppress(
        boxes, torch.ones(1, 3), torch.zeros(1, 3, dtype=torch.int64), torch.ones(1, 3).bool(), 0.5
    )
    assert keep.tolist() == [[True, False, False]]


def test_a_suppressed_box_suppresses_nothing():
    # a chain: each overlaps the next by 0.6, the ends do not reach 0.5
    boxes = torch.tensor([[[0.0, 0, 10, 10], [2.5, 0, 12.5, 10], [5, 0, 15, 10]]])
    scores = torch.tensor([[0.9, 0.8, 0.7]])
    keep = box_ops.suppress(boxes, scores, torch.zeros(1, 3, dtype=torch.int64), torch.ones(1, 3).bool(), 0.5)
    assert keep.tolist() == [[True, False, True]]


def test_a_chain_across_blocks():
    """The longest dependency there is: every box suppresses its successor, if it is itself kept."""
    count = 400
    x = torch.arange(count) * 2.5
    boxes = torch.stack((x, torch.zeros(count), x + 10, torch.full((count,), 10.0)), 1)[None]
    scores = torch.linspace(1, 0, count)[None]
    keep = box_ops.suppress(
        boxes, scores, torch.zeros(1, count, dtype=torch.int64), torch.ones(1, count).bool(), 0.5
    )
    assert keep[0].tolist() == [i % 2 == 0 for i in range(count)]


def test_empty_boxes_are_kept_and_no_boxes_are_no_error():
    point = torch.tensor([[[5.0, 5, 5, 5]] * 2])
    groups, valid = torch.zeros(1, 2, dtype=torch.int64), torch.ones(1, 2).bool()
    assert box_ops.suppress(point, torch.ones(1, 2), groups, valid, 0.5).all()
    assert not box_ops.suppress(point, torch.ones(1, 2), groups, ~valid, 0.5).any()
    nothing = box_ops.suppress(point[:, :0], torch.ones(1, 0), groups[:, :0], valid[:, :0], 0.5)
    assert nothing.shape == (1, 0)


@pytest.mark.parametrize("block", [17, 64, 1024])
@pytest.mark.parametrize("segments", [1, 3, 40, 500])
def test_blocks_on_the_device_equal_the_host(segments, block):
    """Where CUDA has no Triton; here on the CPU."""
    boxes = random_boxes(1, 500, span=200.0 / segments**0.5)[0].round()
    segment = torch.randint(-1, segments, (500,)).sort().values
    for threshold in (0.3, 0.5):
        expected = box_ops.keep_in_order(boxes, segment, threshold)
        assert 50 < expected.sum() < (segment >= 0).sum()
        assert torch.equal(nms_cuda.keep_in_blocks(boxes, segment, threshold, block=block), expected)


def test_blocks_on_the_device_of_no_boxes_and_of_a_chain():
    nothing = torch.zeros(0, dtype=torch.int64)
    assert nms_cuda.keep_in_blocks(torch.zeros(0, 4), nothing, 0.5).shape == (0,)
    assert not nms_cuda.keep_in_blocks(random_boxes(1, 9)[0], torch.full((9,), -1), 0.5).any()
    x = torch.arange(50) * 2.5
    boxes = torch.stack((x, torch.zeros(50), x + 10, torch.full((50,), 10.0)), 1)
    keep = nms_cuda.keep_in_blocks(boxes, torch.zeros(50, dtype=torch.int64), 0.5, block=16)
    assert keep.tolist() == [i % 2 == 0 for i in range(50)]


class LargestTensor(TorchDispatchMode):
    """Records the number of elements of the largest tensor that an operator returns."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        outputs = result if isinstance(result, tuple | list) else (result,)
        sizes = [output.numel() for output in outputs if isinstance(output, torch.Tensor)]
        self.elements = max(self.elements, *sizes, 0)
        return result


@pytest.mark.parametrize("segments", [1, 40])
def test_blocks_on_the_device_bound_the_memory(segments):
    count, block = 4000, 100
    boxes, segment = random_boxes(1, count)[0], torch.randint(segments, (count,)).sort().values
    with LargestTensor() as largest:
        nms_cuda.keep_in_blocks(boxes, segment, 0.5, block=block)
    assert block**2 <= largest.elements <= max(block**2, 4 * count)


def test_blocks_on_the_device_are_compared_within_their_segments_alone(monkeypatch):
    """Work grows with the number of segments, not with its square."""
    overlapping, comparisons = nms_cuda._overlapping, []
    monkeypatch.setattr(
        nms_cuda, "_overlapping", lambda *args: comparisons.append(args[2:4]) or overlapping(*args)
    )
    for count, expected in ((1000, 15), (2000, 30)):
        comparisons.clear()
        nms_cuda.keep_in_blocks(random_boxes(1, count)[0], torch.arange(count) // 200, 0.5, block=100)
        assert len(comparisons) == expected  # of two blocks of a segment, three


def test_the_operator_is_registered_as_pytorch_expects():
    boxes = random_boxes(1, 20)[0]
    segments = torch.zeros(20, dtype=torch.int64)
    torch.library.opcheck(box_ops.keep_in_order, (boxes, segments, 0.5))
