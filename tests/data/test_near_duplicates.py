import numpy as np
from PIL import Image, ImageEnhance

from maskrcnn.data.near_duplicates import near_duplicates, read_thumbnail, thumbnail


def blocks(seed, side=128):
    cells = np.random.default_rng(seed).integers(0, 256, (16, 16), np.uint8)
    return Image.fromarray(cells).resize((side, side), Image.Resampling.BICUBIC)


def test_resized_noisy_and_recoded_copies_are_found(tmp_path):
    picture = blocks(0)
    noise = np.random.default_rng(1).integers(-6, 7, (128, 128))
    noisy = Image.fromarray((np.asarray(picture) + noise).clip(0, 255).astype(np.uint8))
    picture.save(tmp_path / "a.jpg", quality=40)
    pictures = [picture, blocks(1), picture.resize((90, 70)), noisy]
    thumbnails = [*map(thumbnail, pictures), read_thumbnail(tmp_path / "a.jpg")]
    assert list(near_duplicates(thumbnails)) == [(0, 2), (0, 3), (0, 4)]


def test_the_same_shapes_in_other_light_are_another_picture():
    darker = ImageEnhance.Brightness(blocks(0)).enhance(0.8)
    assert list(near_duplicates([thumbnail(blocks(0)), thumbnail(darker)])) == []


def test_plain_and_unreadable_pictures_are_like_no_other(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no picture")
    plain = Image.new("L", (40, 30), 90)
    pictures = [thumbnail(plain), thumbnail(plain), read_thumbnail(tmp_path / "a.png"), None]
    assert pictures == [None] * 4 and list(near_duplicates(pictures)) == []
