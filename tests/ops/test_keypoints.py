import math

import torch
import torch.nn.functional as F

from maskrcnn.ops.keypoints import heatmaps_to_keypoints, keypoints_to_heatmap_index


def test_cells_by_hand() -> None:
    box = torch.tensor([[10.0, 20.0, 18.0, 24.0]])
    cells = {
        (10.0, 20.0, 2.0): 0,  # the upper left corner
        (11.9, 20.9, 1.0): 0,  # still the first cell of 2 × 1 pixels; hidden keypoints count
        (12.0, 20.9, 2.0): 1,
        (12.0, 21.0, 2.0): 5,
        (18.0, 24.0, 2.0): 15,  # the far edges belong to the last cell
        (18.0, 20.0, 2.0): 3,
        (18.1, 20.0, 2.0): None,
        (9.99, 20.0, 2.0): None,
        (11.0, 24.5, 2.0): None,
        (11.0, 21.0, 0.0): None,  # not labelled
    }
    index, valid = keypoints_to_heatmap_index(torch.tensor([list(cells)]), box, 4)
    assert valid[0].tolist() == [cell is not None for cell in cells.values()]
    assert index[0].tolist() == [cell or 0 for cell in cells.values()]


def test_a_box_without_area_gives_numbers() -> None:
    index, _ = keypoints_to_heatmap_index(torch.tensor([[[3.0, 3.0, 2.0]]]), torch.full((1, 4), 3.0), 56)
    assert 0 <= int(index) < 56 * 56


def _pixel_by_pixel(heatmap: torch.Tensor, box: list[float]) -> list[float]:
    """Bicubic interpolation (a = -0.75, edges repeated) written out for every pixel of the box."""
    width, height = max(box[2] - box[0], 1), max(box[3] - box[1], 1)
    columns, rows = math.ceil(width), math.ceil(height)

    def kernel(t: float) -> float:
        t, a = abs(t), -0.75
        if t <= 1:
            return (a + 2) * t**3 - (a + 3) * t**2 + 1
        return a * (t**3 - 5 * t**2 + 8 * t - 4) if t < 2 else 0.0

    def weights(pixel: int, pixels: int, cells: int) -> torch.Tensor:
        place = (pixel + 0.5) * cells / pixels - 0.5
        row = torch.zeros(cells, dtype=torch.float64)
        for cell in range(math.floor(place) - 1, math.floor(place) + 3):
            row[min(max(cell, 0), cells - 1)] += kernel(place - cell)
        return row

    best = (-math.inf, 0, 0)
    for y in range(rows):
        for x in range(columns):
            value = (
                weights(y, rows, heatmap.shape[0]) @ heatmap.double() @ weights(x, columns, heatmap.shape[1])
            )
            best = max(best, (float(value), y, x))
    value, y, x = best
    return [box[0] + (x + 0.5) * width / columns, box[1] + (y + 0.5) * height / rows, value]


def test_keypoints_are_read_from_the_heatmap_resized_to_its_box() -> None:
    heatmaps = F.interpolate(torch.randn(3, 2, 3, 3), 8, mode="bilinear")
    boxes = torch.tensor([[10.0, 20.0, 25.3, 31.8], [1.5, 2.5, 4.0, 20.0], [7.0, 7.0, 7.4, 7.2]])
    got = heatmaps_to_keypoints(heatmaps, boxes)
    for n, box in enumerate(boxes.tolist()):
        for j in range(2):
            want = torch.tensor(_pixel_by_pixel(heatmaps[n, j], box))
            torch.testing.assert_close(got[n, j], want, atol=1e-4, rtol=0)


def test_there_and_back_stays_within_a_cell() -> None:
    box = torch.tensor([[100.0, 50.0, 212.0, 162.0]])  # 112 pixels: a cell of 56 is two of them
    keypoints = torch.cat(
        [100 + 112 * torch.rand(1, 17, 1), 50 + 112 * torch.rand(1, 17, 1), torch.ones(1, 17, 1)], 2
    )
    index, valid = keypoints_to_heatmap_index(keypoints, box, 56)
    assert valid.all()
    heatmaps = F.one_hot(index, 56 * 56).float().view(1, 17, 56, 56)
    assert (heatmaps_to_keypoints(heatmaps, box)[..., :2] - keypoints[..., :2]).abs().max() <= 2


def test_no_boxes_no_keypoints() -> None:
    assert heatmaps_to_keypoints(torch.zeros(0, 17, 56, 56), torch.zeros(0, 4)).shape == (0, 17, 3)
