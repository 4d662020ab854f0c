import math
from functools import partial

import pytest
import torch

from maskrcnn.ops.roi_align import assign_levels, flatten_levels, roi_align, scatter_to_slots, valid_indices
from maskrcnn.ops.roi_align_adaptive import adaptive_roi_align
from maskrcnn.ops.roi_pool import maximum, roi_pool, roi_warp


def interpolate(level, y, x):
    """Bilinear value where cell i has its value at i, in the words of the original kernel."""
    channels, height, width = level.shape
    if y < -1 or y > height or x < -1 or x > width:
        return torch.zeros(channels)
    y, x = min(max(y, 0.0), height - 1), min(max(x, 0.0), width - 1)
    y0, x0 = int(y), int(x)
    y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
    dy, dx = y - y0, x - x0
    top = level[:, y0, x0] * (1 - dx) + level[:, y0, x1] * dx
    bottom = level[:, y1, x0] * (1 - dx) + level[:, y1, x1] * dx
    return top * (1 - dy) + bottom * dy


def naive_align(level, box, stride, bins, ratio=2, aligned=True, reduce=torch.mean):
    x1, y1, x2, y2 = (float(v) / stride for v in box)
    width, height = x2 - x1, y2 - y1
    if aligned:
        x1, y1 = x1 - 0.5, y1 - 0.5
    else:
        width, height = max(width, 1.0), max(height, 1.0)
    down, across = (ratio or math.ceil(height / bins)), (ratio or math.ceil(width / bins))
    out = torch.zeros(level.shape[0], bins, bins)
    for i in range(bins):
        for j in range(bins):
            samples = [
                interpolate(
                    level,
                    y1 + (i + (a + 0.5) / down) * height / bins,
                    x1 + (j + (b + 0.5) / across) * width / bins,
                )
                for a in range(down)
                for b in range(across)
            ]
            if samples:
                stacked = torch.stack(samples)
                out[:, i, j] = stacked.mean(0) if reduce is torch.mean else stacked.amax(0)
    return out


def naive_pool(level, box, stride, bins):
    x1, y1, x2, y2 = (math.floor(float(v) / stride + 0.5) for v in box)
    height, width = max(y2 - y1 + 1, 1), max(x2 - x1 + 1, 1)
    out = torch.zeros(level.shape[0], bins, bins)
    for i in range(bins):
        for j in range(bins):
            rows = range(
                max(y1 + i * height // bins, 0), min(y1 - (-(i + 1) * height // bins), level.shape[1])
            )
            columns = range(
                max(x1 + j * width // bins, 0), min(x1 - (-(j + 1) * width // bins), level.shape[2])
            )
            if len(rows) and len(columns):
                out[:, i, j] = level[:, rows.start : rows.stop, columns.start : columns.stop].amax((1, 2))
    return out


BOXES = torch.tensor(
    [
        [10.0, 12.0, 60.0, 90.0],
        [-30.0, -20.0, 40.0, 33.0],  # crosses the border
        [0.0, 0.0, 128.0, 96.0],  # everything
        [50.0, 50.0, 50.0, 50.0],  # a point
        [300.0, 300.0, 340.0, 360.0],  # outside
        [33.3, 7.7, 35.1, 8.2],  # less than a cell
        [100.0, 80.0, 150.0, 110.0],
    ]
)


@pytest.fixture
def pyramid_maps():
    torch.manual_seed(0)
    return [torch.randn(2, 3, 12, 16), torch.randn(2, 3, 6, 8)]


def read(operator, maps, bins=4):
    """Read every box from both levels of both pictures, as one call, and name where each was read."""
    pyramid = flatten_levels(maps, (8, 16))
    count = len(BOXES)
    pictures = torch.arange(2).repeat_interleave(2 * count)
    levels = torch.arange(2).repeat_interleave(count).repeat(2)
    boxes = BOXES.repeat(4, 1)
    places = list(zip(boxes, pictures.tolist(), levels.tolist(), strict=True))
    return operator(pyramid, boxes, pictures, levels, bins), places


@pytest.mark.parametrize("ratio", [1, 2, 3, 0])
@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("reduction", ["mean", "maximum"])
def test_roi_align_equals_the_loops(pyramid_maps, ratio, aligned, reduction):
    operator = partial(roi_align, sampling_ratio=ratio) if ratio else adaptive_roi_align
    operator = partial(operator, aligned=aligned)
    if reduction == "maximum":
        operator = partial(operator, reduction=maximum)
    answer, places = read(operator, pyramid_maps)
    reduce = torch.mean if reduction == "mean" else torch.amax
    for got, (box, picture, level) in zip(answer, places, strict=True):
        expected = naive_align(pyramid_maps[level][picture], box, (8, 16)[level], 4, ratio, aligned, reduce)
        torch.testing.assert_close(got, expected, atol=2e-5, rtol=0)


def test_roi_pool_equals_the_loops(pyramid_maps):
    answer, places = read(roi_pool, pyramid_maps)
    for got, (box, picture, level) in zip(answer, places, strict=True):
        expected = naive_pool(pyramid_maps[level][picture], box, (8, 16)[level], 4)
        assert torch.equal(got, expected)


@pytest.mark.parametrize("ratio", [2, 3, 0])
def test_roi_warp_is_roi_align_of_the_rounded_box(pyramid_maps, ratio):
    align = {2: roi_align, 3: partial(roi_align, sampling_ratio=3), 0: adaptive_roi_align}[ratio]
    answer, places = read(partial(roi_warp, align=align), pyramid_maps)
    for got, (box, picture, level) in zip(answer, places, strict=True):
        stride = (8, 16)[level]
        x1, y1, x2, y2 = (math.floor(float(v) / stride + 0.5) for v in box)
        rounded = [v * stride for v in (x1, y1, max(x2, x1 + 1), max(y2, y1 + 1))]
        expected = naive_align(pyramid_maps[level][picture], rounded, stride, 4, ratio)
        torch.testing.assert_close(got, expected, atol=2e-5, rtol=0)


def test_a_ramp_by_hand():
    """On the picture f(x) = x, pixel centres at + 0.5, a bin's mean is the coordinate of its centre."""
    ramp = (torch.arange(20) + 0.5).expand(1, 1, 20, 20)
    pyramid = flatten_levels([ramp], (1,))
    zero = torch.zeros(1, dtype=torch.int64)
    answer = roi_align(pyramid, torch.tensor([[3.0, 3.0, 11.0, 11.0]]), zero, zero, 4)
    assert answer[0, 0, 0].tolist() == pytest.approx([4.0, 6.0, 8.0, 10.0])
    legacy = roi_align(pyramid, torch.tensor([[3.0, 3.0, 11.0, 11.0]]), zero, zero, 4, aligned=False)
    assert legacy[0, 0, 0].tolist() == pytest.approx([4.5, 6.5, 8.5, 10.5])


def test_the_four_operators_differ():
    torch.manual_seed(0)
    pyramid = flatten_levels([torch.randn(1, 4, 20, 20)], (16,))
    zero = torch.zeros(1, dtype=torch.int64)
    box = torch.tensor([[21.0, 30.0, 203.0, 247.0]])
    operators = [roi_align, partial(roi_align, reduction=maximum), roi_warp, roi_pool]
    answers = [operator(pyramid, box, zero, zero, 7) for operator in operators]
    for i, first in enumerate(answers):
        assert all((first - second).abs().max() > 0.05 for second in answers[i + 1 :])


@pytest.mark.parametrize(
    "operator",
    [
        roi_align,
        adaptive_roi_align,
        partial(roi_align, reduction=maximum),
        roi_warp,
        roi_pool,
    ],
)
def test_no_regions_give_no_features(operator):
    pyramid = flatten_levels([torch.randn(1, 3, 4, 4)], (16,))
    nothing = torch.zeros(0, dtype=torch.int64)
    assert operator(pyramid, torch.zeros(0, 4), nothing, nothing, 7).shape == (0, 3, 7, 7)


@pytest.mark.parametrize("operator", [roi_align, adaptive_roi_align, roi_warp])
def test_gradients_reach_the_cells(operator):
    maps = torch.randn(1, 2, 6, 8, dtype=torch.float64, requires_grad=True)
    boxes = torch.tensor([[3.0, 5.0, 50.0, 40.0], [-9.0, 2.0, 20.0, 99.0]])
    zero = torch.zeros(2, dtype=torch.int64)
    assert torch.autograd.gradcheck(lambda m: operator(flatten_levels([m], (8,)), boxes, zero, zero, 3), maps)


def test_pool_sends_its_gradient_to_the_largest_cell():
    level = torch.arange(16.0).view(1, 1, 4, 4).requires_grad_()
    zero = torch.zeros(1, dtype=torch.int64)
    roi_pool(flatten_levels([level], (1,)), torch.tensor([[0.0, 0, 3, 3]]), zero, zero, 2).sum().backward()
    expected = torch.zeros(4, 4)
    expected[1, 1] = expected[1, 3] = expected[3, 1] = expected[3, 3] = 1
    assert torch.equal(level.grad[0, 0], expected)


def test_levels_by_the_rule():
    sides = torch.tensor([10.0, 111.9, 112.0, 223.9, 224.0, 448.0, 5000.0, 0.0])
    boxes = torch.stack((torch.zeros(8), torch.zeros(8), sides, sides), 1)
    assert assign_levels(boxes, first=2, last=5).tolist() == [0, 0, 1, 1, 2, 3, 3, 0]


def test_scattering_inverts_compaction():
    valid = torch.tensor([[True, False, True], [False, False, True]])
    values = torch.arange(6.0).view(2, 3)
    index = valid_indices(valid)
    assert index.tolist() == [0, 2, 5]
    assert scatter_to_slots(values.flatten()[index], index, (2, 3)).tolist() == [[0, 0, 2], [0, 0, 5]]


def test_where_shapes_are_fixed_the_first_slots_are_taken(monkeypatch):
    monkeypatch.setattr("maskrcnn.ops.roi_align.is_static", lambda values: True)
    valid = torch.tensor([[True, False, False], [False, False, False]])
    assert valid_indices(valid).tolist() == [0, 1, 2, 3, 4, 5]
    assert valid_indices(valid, capacity=2).tolist() == [0, 1, 3, 4]
