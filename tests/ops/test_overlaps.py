import pytest
import torch

from maskrcnn.ops.overlaps import covered, iou

TEN = torch.tensor([[0.0, 0.0, 10.0, 10.0]])


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ([0, 0, 10, 10], 1.0),
        ([5, 0, 15, 10], 50 / 150),
        ([10, 0, 20, 10], 0.0),  # they touch
        ([2, 2, 4, 4], 4 / 100),
        ([3, 3, 3, 3], 0.0),
    ],
)
def test_iou_by_hand(other, expected):
    assert iou(TEN, torch.tensor([other], dtype=torch.float32)).item() == pytest.approx(expected)


def test_two_empty_boxes_have_no_overlap_rather_than_nan():
    assert iou(torch.zeros(1, 4), torch.zeros(1, 4)).item() == 0.0
    assert covered(torch.zeros(1, 4), TEN).item() == 0.0


def test_covered_is_the_share_of_the_first():
    inside = torch.tensor([[5.0, 5.0, 15.0, 10.0]])
    assert covered(inside, TEN).item() == pytest.approx(0.5)
