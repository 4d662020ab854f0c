import numpy as np
import torch

from maskrcnn.ops import masks
from maskrcnn.ops.packed import pack, to_rle, unpack

SIZE_HW = (30, 40)


def random_masks(count=20):
    corner = torch.rand(count, 2) * 40 - 5
    boxes = torch.cat((corner, corner + torch.rand(count, 2) * 30), 1)
    boxes[3], boxes[7] = torch.tensor([0.0, 0, 40, 30]), torch.tensor([5.0, 5, 5, 9])
    return torch.rand(count, 7, 7), boxes


def test_bits_by_hand():
    """A mask of ones over 3 columns of 9 rows: each column takes two bytes, 8 ones and 1."""
    packed = pack(torch.ones(1, 1, 1), torch.tensor([[2.0, 4, 5, 13]]), SIZE_HW)
    rows = (torch.arange(4, 13) + 0.5 - 4) / 9 - 0.5  # a mask of one cell fades towards the ends of its box
    assert packed.origins_yx.tolist() == [[4, 2]] and packed.sizes_hw.tolist() == [[9, 3]]
    middle = [int(((1 - rows.abs()) >= 0.5)[:8].numpy() @ 2 ** np.arange(8)), int(1 - abs(rows[8]) >= 0.5)]
    assert packed.bits[2:4].tolist() == middle == [255, 1]


def test_unpacks_to_what_is_pasted():
    probs, boxes = random_masks()
    packed = pack(probs, boxes, SIZE_HW)
    for index, (crop, origin_yx) in enumerate(masks.paste(probs, boxes, SIZE_HW)):
        got, got_origin = unpack(packed, index)
        assert np.array_equal(got, (crop >= 0.5).numpy())
        assert got_origin == origin_yx


def test_run_lengths_are_those_of_the_crops():
    probs, boxes = random_masks()
    probs[3] = 1.0  # fills the picture from top to bottom: runs go on from column to column
    expected = [
        masks.crop_to_rle((crop >= 0.5).numpy(), origin_yx, SIZE_HW)
        for crop, origin_yx in masks.paste(probs, boxes, SIZE_HW)
    ]
    assert to_rle(pack(probs, boxes, SIZE_HW), SIZE_HW) == expected


def test_nothing_to_pack():
    packed = pack(torch.zeros(0, 7, 7), torch.zeros(0, 4), SIZE_HW)
    assert to_rle(packed, SIZE_HW) == [] and packed.bits.numel() == 0
