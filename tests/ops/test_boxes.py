import math

import pytest
import torch

from maskrcnn.ops import boxes as box_ops

TEN = torch.tensor([[0.0, 0.0, 10.0, 10.0]])


def test_area_is_width_times_height_without_a_pixel_more():
    assert box_ops.area(torch.tensor([[1.0, 2.0, 4.0, 4.0], [5.0, 5.0, 5.0, 9.0]])).tolist() == [6.0, 0.0]


def test_clip_knows_width_from_height_and_picture_from_picture():
    boxes = torch.tensor([[[-5.0, -5.0, 50.0, 50.0]]] * 2)
    clipped = box_ops.clip(boxes, torch.tensor([[20, 30], [40, 10]]))
    assert clipped.tolist() == [[[0, 0, 30, 20]], [[0, 0, 10, 40]]]


def test_is_larger_removes_thin_and_infinite_boxes():
    boxes = torch.tensor([[0.0, 0, 2, 2], [0, 0, 1, 9], [0, 0, math.inf, 9], [0, 0, math.nan, 9]])
    assert box_ops.is_larger(boxes, 1.0).tolist() == [True, False, False, False]


def test_encode_by_hand():
    anchor, box = torch.tensor([[0.0, 0, 10, 20]]), torch.tensor([[5.0, 0, 25, 20]])
    # centre 15 against 5 in units of width 10; width 20 against 10
    expected = [10 * 1.0, 0.0, 5 * math.log(2), 0.0]
    assert box_ops.encode(box, anchor, (10.0, 10.0, 5.0, 5.0))[0].tolist() == pytest.approx(expected)


def test_decode_inverts_encode():
    corners = torch.rand(50, 2, 2) * 100
    boxes = torch.cat((corners[:, 0], corners[:, 0] + corners[:, 1] + 1), 1)
    anchors = boxes.roll(1, 0)
    weights = (10.0, 10.0, 5.0, 5.0)
    decoded = box_ops.decode(box_ops.encode(boxes, anchors, weights), anchors, weights)
    torch.testing.assert_close(decoded, boxes, atol=1e-3, rtol=1e-4)


def test_decode_limits_growth_to_1000_over_16():
    decoded = box_ops.decode(torch.tensor([[0.0, 0, 1e6, 0]]), TEN, (1.0, 1.0, 1.0, 1.0))
    assert (decoded[0, 2] - decoded[0, 0]).item() == pytest.approx(10 * 1000 / 16)


def test_empty_boxes_encode_to_finite_numbers():
    assert box_ops.encode(torch.zeros(1, 4), torch.zeros(1, 4), (10.0, 10.0, 5.0, 5.0)).isfinite().all()
