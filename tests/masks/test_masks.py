import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco
from torch import Tensor

from maskrcnn.masks.paste import paste, paste_dense, paste_in_whole_pixels
from maskrcnn.masks.polygons import polygons
from maskrcnn.masks.rle import compress, crop_to_rle, decode, decompress, rle_counts, rle_to_crop
from maskrcnn.masks.targets import binary_targets, crop_targets, soft_legacy_targets
from maskrcnn.types import MaskTable


def _table(crops: list[Tensor], affine: list[tuple[float, ...]]) -> MaskTable:
    """A table of one picture for each crop, with an empty slot before it."""
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
    """The value at a continuous point of a mask whose pixels have their centres at +0.5, zeros all around."""
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
    picture, object_ = torch.tensor([0, 0]), torch.tensor([1, 0])
    boxes = torch.tensor([box, box])
    got = crop_targets(_table([crop], [affine]), picture, object_, boxes, 3, sampling_ratio=0)
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


def _grid_sampled(probs: Tensor, boxes: Tensor, height: int, width: int) -> Tensor:
    """Every pixel's centre looked up in the mask of its box, as Detectron2 writes it."""
    x1, y1, x2, y2 = boxes.T[..., None]
    gx = (torch.arange(width) + 0.5 - x1) / (x2 - x1) * 2 - 1
    gy = (torch.arange(height) + 0.5 - y1) / (y2 - y1) * 2 - 1
    grid = torch.stack(torch.broadcast_tensors(gx[:, None], gy[:, :, None]), -1)
    return F.grid_sample(probs[:, None], grid, align_corners=False)[:, 0]


BOXES = torch.tensor(
    [
        [3.2, 5.7, 20.9, 17.1],
        [0.0, 0.0, 40.0, 30.0],
        [-5.5, -3.0, 10.0, 44.0],
        [12.5, 8.5, 13.5, 9.5],
        [7.1, 7.1, 7.3, 7.4],
        [33.0, 25.5, 90.0, 31.0],
        [50.0, 50.0, 60.0, 60.0],
    ]
)


def test_pasting_equals_grid_sample() -> None:
    probs = torch.rand(len(BOXES), 28, 28)
    want = _grid_sampled(probs, BOXES, 30, 40)
    for (crop, (y0, x0)), dense, box in zip(paste(probs, BOXES, (30, 40)), want, BOXES, strict=True):
        torch.testing.assert_close(
            crop, dense[y0 : y0 + crop.shape[0], x0 : x0 + crop.shape[1]], atol=1e-5, rtol=0
        )
        centres_x, centres_y = torch.arange(40) + 0.5, torch.arange(30) + 0.5
        assert crop.shape[1] == int(((centres_x >= box[0]) & (centres_x <= box[2])).sum())
        assert crop.shape[0] == int(((centres_y >= box[1]) & (centres_y <= box[3])).sum())
    assert torch.equal(paste_dense(probs, BOXES, (30, 40)), want >= 0.5)
    assert torch.equal(
        paste_dense(probs.round(), BOXES, (30, 40)), _grid_sampled(probs.round(), BOXES, 30, 40) >= 0.5
    )


def test_a_box_without_area_pastes_nothing() -> None:
    [(crop, _)] = paste(torch.ones(1, 28, 28), torch.tensor([[5.5, 2.0, 5.5, 9.0]]), (10, 10))
    assert crop.numel() == 0
    assert paste_dense(torch.ones(0, 28, 28), torch.zeros(0, 4), (10, 11)).shape == (0, 10, 11)


def _picture(crop: np.ndarray, origin_yx: tuple[int, int], size_hw: tuple[int, int]) -> np.ndarray:
    picture = np.zeros(size_hw, bool)
    picture[origin_yx[0] : origin_yx[0] + crop.shape[0], origin_yx[1] : origin_yx[1] + crop.shape[1]] = crop
    return picture


def _coco(picture: np.ndarray) -> dict:
    rle = coco.encode(np.asfortranarray(picture, np.uint8))
    return {"size": rle["size"], "counts": rle["counts"].decode()}


crops = hnp.arrays(bool, st.tuples(st.integers(0, 9), st.integers(0, 9)))
margins = st.tuples(*[st.integers(0, 3)] * 4)


@given(crops, margins)
@settings(max_examples=300, deadline=None)
def test_run_lengths_equal_pycocotools(crop: np.ndarray, margins: tuple[int, int, int, int]) -> None:
    above, below, left, right = margins
    size_hw = (crop.shape[0] + above + below + 1, crop.shape[1] + left + right)
    picture = _picture(crop, (above, left), size_hw)
    rle = crop_to_rle(crop, (above, left), size_hw)
    assert rle == _coco(picture)
    assert np.array_equal(decode(rle), picture)
    for form in (
        rle,
        {**rle, "counts": rle_counts(rle).tolist()},
        {**rle, "counts": rle["counts"].encode()},
    ):
        tight, origin = rle_to_crop(form)
        assert np.array_equal(_picture(tight, origin, size_hw), picture)
        if tight.size:
            assert all(edge.any() for edge in (tight[0], tight[-1], tight[:, 0], tight[:, -1]))


@pytest.mark.parametrize("size_hw", [(6, 5), (1, 9), (9, 1), (1, 1)])
def test_masks_as_high_as_their_picture_run_on_from_column_to_column(size_hw: tuple[int, int]) -> None:
    for picture in (
        np.ones(size_hw, bool),
        np.zeros(size_hw, bool),
        np.random.default_rng(0).random(size_hw) < 0.9,
    ):
        rle = crop_to_rle(picture, (0, 0), size_hw)
        assert rle == _coco(picture)
        assert np.array_equal(decode(rle), picture)


@given(st.lists(st.integers(0, 2**40), min_size=1, max_size=12))
def test_compressed_counts_come_back(counts: list[int]) -> None:
    assert decompress(compress(np.array(counts))).tolist() == counts


def test_long_runs_equal_pycocotools() -> None:
    big = np.zeros((3000, 1500), bool)
    big[17:2900, 3:1200] = True
    big[500:600, 1300:] = True
    assert crop_to_rle(big, (0, 0), big.shape) == _coco(big)


def test_runs_of_no_length_are_understood() -> None:
    rle = {"size": [2, 3], "counts": [0, 1, 0, 2, 1, 0, 2]}
    assert decode(rle).tolist() == [[True, True, False], [True, False, False]]
    crop, origin = rle_to_crop(rle)
    assert crop.tolist() == [[True, True], [True, False]]
    assert origin == (0, 0)
    at_both_ends = {"size": [2, 3], "counts": [0, 0, 2, 1, 3, 0]}
    crop, origin = rle_to_crop(at_both_ends)
    assert crop.tolist() == [[True]]
    assert origin == (0, 1)


@pytest.mark.parametrize(
    ("counts", "complaint"),
    [
        ("", "not COCO's"),
        ("0 1", "not COCO's"),
        ("04ü", "not COCO's"),
        ("P", "not COCO's"),  # says that more follows
        ("o" * 30 + "0", "50 bits"),
        ([3, 4], "sum to 7, but their picture has 2x3"),
        ([2**63, 2**63, 6], "integers"),
        ([7, -1], "at least 0"),
        ([2.5, 3.5], "integers"),
        ([[6]], "integers"),
        ("O7", "at least 0"),
    ],
)
def test_broken_run_lengths_are_refused(counts: object, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        rle_to_crop({"size": [2, 3], "counts": counts})


def _even_odd(rings: list[np.ndarray], size_hw: tuple[int, int]) -> np.ndarray:
    """Count, for each pixel's centre, the vertical edges to the left of it."""
    crossings = np.zeros(size_hw, int)
    for ring in rings:
        for (xa, ya), (xb, yb) in zip(ring, np.roll(ring, -1, 0), strict=True):
            assert (xa == xb) != (ya == yb)
            if xa == xb:
                crossings[int(min(ya, yb)) : int(max(ya, yb)), int(xa) :] += 1
    return crossings % 2 == 1


@given(crops)
@settings(max_examples=300, deadline=None)
def test_outlines_fill_to_the_same_mask(crop: np.ndarray) -> None:
    rings = polygons(crop, (2, 1))
    size_hw = (crop.shape[0] + 1, crop.shape[1] + 2)
    assert np.array_equal(_even_odd(rings, size_hw), _picture(crop, (1, 2), size_hw))


def test_outlines_by_hand() -> None:
    ring = np.ones((3, 3), bool)
    ring[1, 1] = False
    outer, hole = polygons(ring, (10, 20))
    assert outer.tolist() == [[10, 20], [13, 20], [13, 23], [10, 23]]
    assert hole.tolist() == [[11, 21], [12, 21], [12, 22], [11, 22]]
    for touching in (np.eye(2, dtype=bool), np.eye(2, dtype=bool)[::-1]):
        assert [len(square) for square in polygons(touching)] == [4, 4]
    assert polygons(np.zeros((3, 3), bool)) == []
    assert polygons(np.zeros((0, 0), bool)) == []


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


def test_whole_pixel_pasting_widens_the_box() -> None:
    def paste(box: list[float]) -> Tensor:
        return paste_in_whole_pixels(torch.ones(1, 4, 4), torch.tensor([box]), (12, 10))[0]

    # 4 px become 6 with the border, 1 … 7 and 2 … 8, and 7 with the far edge: 6 cells over 7 pixels
    profile = torch.tensor([0, 11 / 14, 1, 1, 1, 11 / 14, 0])
    inside = paste([2.0, 3.0, 6.0, 7.0])
    torch.testing.assert_close(inside[2:9, 1:8], profile[:, None] * profile)
    assert inside.sum() == inside[2:9, 1:8].sum()
    cut = paste([-3.0, 3.0, 1.0, 7.0])  # the same, 5 pixels to the left
    torch.testing.assert_close(cut[2:9, :3], (profile[:, None] * profile)[:, 4:])
    assert cut.sum() == cut[2:9, :3].sum()
    assert (paste([9.4, 9.4, 9.6, 9.6]) > 0).nonzero().tolist() == [[9, 9]]  # never less than a pixel
