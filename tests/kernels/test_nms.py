import pytest
import torch

from maskrcnn import kernels
from maskrcnn.ops import boxes as box_ops
from maskrcnn.ops.nms_cuda import keep_in_blocks

pytest.importorskip("triton", reason="Triton is not installed")


def kernel(boxes, segments, threshold, device):
    from maskrcnn.kernels.nms import keep_in_order

    return keep_in_order(boxes.to(device), segments.to(device), threshold).cpu()


def random_boxes(count):
    """A tenth of them are empty. All have whole coordinates, so that many IoUs equal the threshold."""
    corner = (torch.rand(count, 2) * 30).round()
    side = (torch.rand(count, 2) * 20).round() * (torch.rand(count, 1) > 0.1)
    return torch.cat((corner, corner + side), -1)


@pytest.mark.parametrize("count", [1, 63, 64, 65, 200])
@pytest.mark.parametrize("segments", [1, 4])
def test_equals_the_operator_of_the_cpu(device, count, segments):
    boxes, segment = random_boxes(count), torch.randint(-1, segments, (count,)).sort().values
    for threshold in (0.5, 0.7):
        expected = box_ops.keep_in_order(boxes, segment, threshold)
        assert torch.equal(kernel(boxes, segment, threshold, device), expected)


def test_a_chain_across_blocks(device):
    """The longest dependency there is: every box suppresses its successor, if it is itself kept."""
    x = torch.arange(150) * 2.5
    boxes = torch.stack((x, torch.zeros(150), x + 10, torch.full((150,), 10.0)), 1)
    keep = kernel(boxes, torch.zeros(150, dtype=torch.int64), 0.5, device)
    assert keep.tolist() == [i % 2 == 0 for i in range(150)]


def test_many_segments_begin_among_the_same_boxes(device):
    boxes = torch.tensor([[0.0, 0, 10, 10]]).repeat(130, 1)
    segments = torch.arange(130) // 2
    assert kernel(boxes, segments, 0.5, device).tolist() == [True, False] * 65


def test_no_slots_and_no_boxes(device):
    keep = kernel(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), 0.5, device)
    assert keep.shape == (0,) and keep.dtype == torch.bool
    assert not kernel(random_boxes(70), torch.full((70,), -1), 0.5, device).any()


def test_empty_boxes_are_kept(device):
    points = torch.full((3, 4), 5.0)
    assert kernel(points, torch.zeros(3, dtype=torch.int64), 0.5, device).all()


def test_passes_its_check(device):
    assert kernels._passes("nms", False, torch.device(device), torch.float32, keep_in_blocks)


def test_a_wrong_kernel_fails_its_check(monkeypatch, device):
    from maskrcnn.kernels import nms

    monkeypatch.setattr(nms, "keep_in_order", lambda boxes, segments, threshold: segments >= 0)
    with pytest.warns(UserWarning, match="kernel nms is not used .*AssertionError: Tensor-likes are not"):
        assert not kernels._passes("nms", False, torch.device(device), torch.float32, keep_in_blocks)
