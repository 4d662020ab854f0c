"""Mask targets against sampling written out point by point, and by hand."""

import numpy as np
import pytest
import torch
from torch import Tensor

from maskrcnn.masks.targets import binary_targets, crop_targets, soft_legacy_targets
from maskrcnn.types import MaskTable


def _table(crops: list[Tensor], affine: list[tuple[float, ...]]) -> MaskTable:
    """Return a table of one image for each crop, each with an empty slot before the crop."""
    pixels = torch.cat([crop.flatten() for crop in crops])
    starts = torch.tensor([crop.numel() for crop in crops]).cumsum(0) - torch.tensor(
        [c.numel() for c in crops]
    )
    sizes = torch.tensor([crop.shape for crop in crops])
    empty = torch.zeros_like(starts)
    return MaskTable(
        pixels,
        torch.stack([empty, starts], 1),
        torch.stack([torch.zeros_like(sizes), sizes], 1),
        torch.stack([torch.zeros(len(crops), 4), torch.tensor(affine)], 1),
    )


def _dense_bilinear(mask: Tensor, x: float, y: float) -> float:
    """Return the value at a point of a mask whose pixels have their centres at +0.5, zeros around it."""
    total = 0.0
    for row in range(mask.shape[0]):
        for column in range(mask.shape[1]):
            near = max(0.0, 1 - abs(row + 0.5 - y)) * max(0.0, 1 - abs(column + 0.5 - x))
            total += near * float(mask[row, column])
    return total


def _naive_target(mask: Tensor, affine: tuple, box: list[float], size: int, down: int, across: int) -> Tensor:
    x1, y1, x2, y2 = box
    target = torch.zeros(size, size)
    for i, j, k, m in np.ndindex(size, size, down, across):
        x = x1 + (j + (m + 0.5) / across) / size * (x2 - x1)
        y = y1 + (i + (k + 0.5) / down) / size * (y2 - y1)
        value = _dense_bilinear(mask, affine[0] * x + affine[1], affine[2] * y + affine[3])
        target[i, j] += value / (down * across)
    return target


AFFINES = [(1.0, 0.0, 1.0, 0.0), (0.6, -1.3, 0.5, 0.4), (-0.7, 6.0, 1.1, -2.0), (-1.0, 9.0, -0.5, 7.0)]


@pytest.mark.parametrize("sampling_ratio", [1, 2, 3])
def test_targets_equal_sampling_the_mask_point_by_point(sampling_ratio: int) -> None:
    crops = [torch.randint(0, 2, (h, w), dtype=torch.uint8) for h, w in [(5, 7), (3, 2), (6, 6), (1, 8)]]
    boxes = torch.tensor(
        [[0.5, -1.0, 7.3, 4.9], [1.0, 2.0, 6.0, 3.0], [-3.0, 1.0, 9.0, 9.5], [0.0, 0.0, 11.0, 12.0]]
    )
    pictures, objects = torch.arange(4), torch.ones(4, dtype=torch.long)
    got = crop_targets(_table(crops, AFFINES), pictures, objects, boxes, 4, sampling_ratio=sampling_ratio)
    for n in range(4):
        want = _naive_target(crops[n], AFFINES[n], boxes[n].tolist(), 4, sampling_ratio, sampling_ratio)
        torch.testing.assert_close(got[n], want, atol=1e-5, rtol=0)


def test_adaptive_targets_take_as_many_samples_as_the_bin_spans_pixels_of_the_crop() -> None:
    crop = torch.randint(0, 2, (9, 11), dtype=torch.uint8)
    affine, box = (
        (-1.5, 12.0, 0.5, 0.0),
        [0.0, 0.0, 7.9, 14.1],
    )  # bins of 11.85 / 3 and 7.05 / 3 pixels of the crop
    picture, gt_index = torch.tensor([0, 0]), torch.tensor([1, 0])
    boxes = torch.tensor([box, box])
    got = crop_targets(_table([crop], [affine]), picture, gt_index, boxes, 3, sampling_ratio=0)
    torch.testing.assert_close(got[0], _naive_target(crop, affine, box, 3, 3, 4), atol=1e-5, rtol=0)
    assert not got[1].any()


def test_target_of_half_a_mask_by_hand() -> None:
    crop = torch.tensor([[1, 1, 0, 0]] * 4, dtype=torch.uint8)
    table = _table([crop], [(1.0, 0.0, 1.0, 0.0)])
    one = torch.tensor([0]), torch.tensor([1])
    half = crop_targets(table, *one, torch.tensor([[0.25, 0.5, 2.75, 3.5]]), 2, sampling_ratio=1)
    assert half[0].tolist() == [[1.0, 0.375], [1.0, 0.375]]  # columns sampled at 0.875 and 2.125
    mirrored = table._replace(affine=torch.tensor([[[0.0] * 4, [-1.0, 4.0, 1.0, 0.0]]]))
    turned = crop_targets(mirrored, *one, torch.tensor([[1.25, 0.5, 3.75, 3.5]]), 2, sampling_ratio=1)
    assert torch.equal(turned, half.flip(-1))


def test_objects_without_masks_have_targets_of_zeros() -> None:
    none = MaskTable(
        torch.zeros(0, dtype=torch.uint8),
        torch.zeros(1, 1, dtype=torch.long),
        torch.zeros(1, 1, 2, dtype=torch.long),
        torch.zeros(1, 1, 4),
    )
    index = torch.zeros(3, dtype=torch.long)
    for ratio in (0, 2):
        targets = crop_targets(none, index, index, torch.rand(3, 4), 5, sampling_ratio=ratio)
        assert targets.shape == (3, 5, 5)
        assert not targets.any()
        nothing = crop_targets(none, index[:0], index[:0], torch.rand(0, 4), 5, sampling_ratio=ratio)
        assert nothing.shape == (0, 5, 5)


def test_targets_keep_their_precision_under_autocast() -> None:
    crop = torch.randint(0, 2, (30, 30), dtype=torch.uint8)
    table, boxes = _table([crop], [(1.0, 0.0, 1.0, 0.0)]), torch.tensor([[1.3, 2.2, 28.9, 27.1]])
    want = crop_targets(table, torch.tensor([0]), torch.tensor([1]), boxes, 14)
    with torch.autocast("cpu", torch.bfloat16):
        got = crop_targets(table, torch.tensor([0]), torch.tensor([1]), boxes, 14)
    assert torch.equal(got, want)


def test_targets_compile_to_one_graph() -> None:
    graphs: list[torch.fx.GraphModule] = []

    def count(graph: torch.fx.GraphModule, _: list) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    inside = crop_targets
    plain = getattr(inside, "__wrapped__", inside)  # without the shape checks, which dynamo cannot trace
    table = _table([torch.ones(4, 4, dtype=torch.uint8)], [(1.0, 0.0, 1.0, 0.0)])
    arguments = table, torch.tensor([0]), torch.tensor([1]), torch.tensor([[0.0, 0.0, 4.0, 4.0]])
    got = torch.compile(plain, backend=count, fullgraph=True)(*arguments, 4)
    assert len(graphs) == 1
    torch.testing.assert_close(got, inside(*arguments, 4))


def test_binary_targets_are_halves_of_bins() -> None:
    crop = torch.ones(2, 3, dtype=torch.uint8)
    one = torch.zeros(1, dtype=torch.long), torch.ones(1, dtype=torch.long)
    table, box = _table([crop], [(1.0, 0.0, 1.0, 0.0)]), torch.tensor([[0.0, 0.0, 8.0, 2.0]])
    got = binary_targets(table, *one, box, 2, sampling_ratio=4)
    # of the left bins, 4 columns wide, 3 are the object's; linear samples fade out over half a pixel
    assert got.tolist() == [[[1, 0], [1, 0]]]


def test_soft_legacy_targets_read_half_a_pixel_aside() -> None:
    crop = torch.tensor([[0, 1, 1, 0]], dtype=torch.uint8).expand(4, 4).contiguous()
    one = torch.zeros(1, dtype=torch.long), torch.ones(1, dtype=torch.long)
    got = soft_legacy_targets(
        _table([crop], [(1.0, 0.0, 1.0, 0.0)]), *one, torch.tensor([[0.0, 0.0, 3.0, 3.0]]), 3
    )
    # bins are one pixel, their samples at 0.5, 1.5, 2.5, where pixel i stands at i: between two pixels each
    assert got[0, 0].tolist() == [0.5, 1.0, 0.5]
