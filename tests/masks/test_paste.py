"""torchvision's pasting, by hand."""

import torch
from torch import Tensor

from maskrcnn.masks.paste import paste_like_torchvision


def test_whole_pixel_pasting_widens_the_box() -> None:
    def paste(box: list[float]) -> Tensor:
        return paste_like_torchvision(torch.ones(1, 4, 4), torch.tensor([box]), (12, 10))[0]

    # 4 px become 6 with the border, 1 … 7 and 2 … 8, and 7 with the far edge: 6 cells over 7 pixels
    profile = torch.tensor([0, 11 / 14, 1, 1, 1, 11 / 14, 0])
    inside = paste([2.0, 3.0, 6.0, 7.0])
    torch.testing.assert_close(inside[2:9, 1:8], profile[:, None] * profile)
    assert inside.sum() == inside[2:9, 1:8].sum()
    cut = paste([-3.0, 3.0, 1.0, 7.0])  # the same, 5 pixels to the left
    torch.testing.assert_close(cut[2:9, :3], (profile[:, None] * profile)[:, 4:])
    assert cut.sum() == cut[2:9, :3].sum()
    assert (paste([9.4, 9.4, 9.6, 9.6]) > 0).nonzero().tolist() == [[9, 9]]  # never less than a pixel
