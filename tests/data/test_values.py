import numpy as np
import pytest
from PIL import Image

from maskrcnn.data.pictures import read_picture
from maskrcnn.data.values import WHITES


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    values = np.array([[0, 257, 65535, 32896]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    for source in (tmp_path / "a.png", values):
        assert read_picture(source, channels=1).tolist() == [[[0, 1, 255, 128]]]
    every = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    assert np.array_equal(read_picture(every, channels=1)[0], np.rint(every / 257))


@pytest.mark.parametrize("white", WHITES)
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_fewer_bits_keep_all_levels(tmp_path, white, suffix):
    """10, 12, 14 bits in a 16-bit file: the picture looks as its 8-bit version, black and white included."""
    gradient = np.linspace(0, white, 1024).round().astype(np.uint16).reshape(32, 32)
    Image.fromarray(gradient).save(tmp_path / f"a.{suffix}")
    expected = np.rint(np.arange(1024).reshape(32, 32) * 255 / 1023)
    for source in (tmp_path / f"a.{suffix}", gradient, Image.fromarray(gradient)):
        picture = read_picture(source, channels=1)[0].numpy()
        assert len(np.unique(picture)) == 256
        assert np.abs(picture - expected).max() <= 1 and np.array_equal(
            picture, read_picture(source, 1, white)[0]
        )


def test_a_given_white_holds_for_every_picture():
    dark, bright = (np.array([[0, 500, value]], np.uint16) for value in (900, 4000))
    assert read_picture(dark, 1)[0, 0, 1] != read_picture(bright, 1)[0, 0, 1]  # guessed one by one
    assert read_picture(dark, 1, 4095).tolist() == [[[0, 31, 56]]]
    assert read_picture(bright, 1, 4095).tolist() == [[[0, 31, 249]]]
    assert read_picture(np.array([[0, 5000, 65535]], np.uint16), 1, 4095).tolist() == [[[0, 255, 255]]]
