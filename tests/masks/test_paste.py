"""Pasting against `grid_sample`, and torchvision's by hand."""

import torch
import torch.nn.functional as F
from torch import Tensor

from maskrcnn.masks.paste import paste, paste_dense, paste_in_whole_pixels


def _grid_sampled(probs: Tensor, boxes: Tensor, height: int, width: int) -> Tensor:
    """Return the mask of each box sampled at every pixel's centre, as Detectron2 writes it."""
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
