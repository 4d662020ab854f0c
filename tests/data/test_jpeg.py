import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from maskrcnn.data.pictures import read_to_resize


def jpeg_with_square(path, size_hw, orientation=1):
    """Write a JPEG of a black rectangle with an EXIF orientation; return its upright size and box."""
    height, width = size_hw
    pixels = np.full((height, width), 255, np.uint8)
    y, x = height // 3, width // 5
    pixels[y : y + 40, x : x + 60] = 0
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(path, quality=100, exif=exif)
    with Image.open(path) as image:
        upright = np.array(ImageOps.exif_transpose(image)) < 128
    rows, columns = upright.any(1).nonzero()[0], upright.any(0).nonzero()[0]
    return upright.shape, (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size_hw", [(201, 323), (322, 207)])
def test_what_a_shrunk_jpeg_shows_is_where_it_says(tmp_path, size_hw, orientation):
    """The centre of the darkness, to a twentieth of a pixel."""
    file_hw, square = jpeg_with_square(tmp_path / "a.jpg", size_hw, orientation)
    picture = read_to_resize(tmp_path / "a.jpg", lambda size: (size[0] // 5, size[1] // 5))
    assert picture.file_hw == file_hw and picture.target_hw == (file_hw[0] // 5, file_hw[1] // 5)
    assert picture.image.shape == (3, -(-file_hw[0] // 4), -(-file_hw[1] // 4))  # a quarter is not below it
    x1, y1, x2, y2 = picture.extent
    assert (x2 - x1, y2 - y1) == (file_hw[1] / 4, file_hw[0] / 4)
    darkness = 1 - picture.image[0].double() / 255
    for axis, first, (low, high) in ((0, x1, square[::2]), (1, y1, square[1::2])):
        profile = darkness.sum(axis) / darkness.sum()
        centre = (profile * (torch.arange(len(profile)) + 0.5)).sum()
        assert centre == pytest.approx(first + (low + high) / 2 / 4, abs=0.05)


def test_a_jpeg_is_never_decoded_below_what_is_wanted(tmp_path):
    jpeg_with_square(tmp_path / "a.jpg", (240, 320))
    for target, expected in (
        ((240, 320), (240, 320)),
        ((121, 160), (240, 320)),
        ((120, 160), (120, 160)),
        ((61, 20), (120, 160)),
        ((2, 2), (30, 40)),
        ((480, 640), (240, 320)),
    ):
        image = read_to_resize(tmp_path / "a.jpg", lambda _, target=target: target).image
        assert image.shape == (3, *expected)
