import numpy as np
import torch

from maskrcnn.data.prepare import pad, prepare, resize


def test_resize_keeps_to_both_sides_and_gives_the_exact_ratio():
    picture = np.zeros((40, 60, 3), np.uint8)
    for short, long, expected in ((20, 1000, (20, 30)), (80, 100, (67, 100)), (33, 1000, (33, 50))):
        resized = prepare(picture, resize(short, long))
        assert resized.image.shape[-2:] == expected and resized.size_hw == (40, 60)
        assert resized.affine == (expected[1] / 60, 0, expected[0] / 40, 0)
    sides = {resize((20, 30), 99)((40, 60), np.random.default_rng(seed))[0] for seed in range(20)}
    assert sides == {20, 30}
    assert prepare(np.zeros((2, 60, 3), np.uint8), resize(1, 1)).image.shape[-2:] == (2, 2)


def image(height, width):
    return torch.full((3, height, width), 7, dtype=torch.uint8)


def test_pictures_lie_in_the_upper_left_corner_of_padded_ones():
    batch = pad([image(33, 64), image(50, 20)], stride=32)
    assert batch.images.shape == (2, 3, 64, 64) and batch.sizes_hw.tolist() == [[33, 64], [50, 20]]
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert (batch.images[0, :, :33] == 7).all() and (batch.images[1, :, :50, :20] == 7).all()
    assert batch.images.sum() == 7 * 3 * (33 * 64 + 50 * 20)
