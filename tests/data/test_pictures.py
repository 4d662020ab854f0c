import errno
import os
from pathlib import Path

import jaxtyping
import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image

from maskrcnn.data.formats import FORMATS
from maskrcnn.data.picture_files import find_pictures
from maskrcnn.data.pictures import read_picture, read_to_resize
from maskrcnn.data.values import WHITES
from maskrcnn.data.white import common_white

RGB = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)


def test_rgb_is_the_same_from_file_image_array_and_tensor(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "a.png")
    expected = torch.from_numpy(RGB).permute(2, 0, 1)
    for source in (
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        Image.fromarray(RGB),
        RGB,
        expected,
        expected / 255,
    ):
        assert torch.equal(read_picture(source), expected)


# What a viewer does with a stored picture of each EXIF orientation
UPRIGHT = {
    1: lambda stored: stored,
    2: np.fliplr,
    3: lambda stored: np.rot90(stored, 2),
    4: np.flipud,
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: np.rot90(stored.swapaxes(0, 1), 2),
    8: np.rot90,
}
WITH_EXIF = {  # how an asymmetric picture is stored
    "JPEG": {"quality": 100, "subsampling": 0},
    "MPO": {"quality": 100, "subsampling": 0},
    "PNG": {},
    "TIFF": {},
    "TIFF compressed": {"compression": "tiff_lzw"},
    "WEBP": {"lossless": True},
    "AVIF": {"quality": 100, "subsampling": "4:4:4"},
}


def save(path, pixels, format_, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(path, format_.split()[0], exif=exif, **WITH_EXIF.get(format_, {}))


def asymmetric(height=32, width=48):
    """Four quarters of different colours: every mirror and turn of it differs."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2], pixels[: height // 2, width // 2 :] = (255, 0, 0), (0, 255, 0)
    pixels[height // 2 :, : width // 2], pixels[height // 2 :, width // 2 :] = (0, 0, 255), (255, 255, 0)
    return pixels


@pytest.mark.parametrize("shrink", [1, 4])
@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("format_", WITH_EXIF)
def test_every_format_comes_upright(tmp_path, format_, orientation, shrink):
    """The orientation is applied once: by Pillow (TIFF) or by us."""
    pixels = asymmetric()
    save(tmp_path / "a", pixels, format_, orientation)
    expected = UPRIGHT[orientation](pixels)
    picture = read_to_resize(tmp_path / "a", lambda size_hw: (size_hw[0] // shrink, size_hw[1] // shrink))
    height, width = expected.shape[:2]
    assert picture.file_hw == (height, width)
    assert picture.target_hw == (height // shrink, width // shrink)
    scale = shrink if "JPEG" in format_ or format_ == "MPO" else 1  # others are decoded whole
    assert picture.image.shape == (3, height // scale, width // scale)
    assert picture.extent == (0, 0, width / scale, height / scale)
    decoded = picture.image.permute(1, 2, 0).numpy()
    assert np.abs(decoded.astype(int) - expected[::scale, ::scale]).max() <= 6  # of lossy formats
    image = Image.open(tmp_path / "a")
    assert np.abs(read_picture(image).permute(1, 2, 0).numpy().astype(int) - expected).max() <= 6


@pytest.mark.parametrize("format_", ["PNG", "TIFF", "TIFF compressed"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_grey_values_come_upright(tmp_path, format_, orientation):
    """Pillow decodes these TIFF files in another way than colours."""
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    for stored in (pixels, pixels.astype(np.uint16) * 257):
        save(tmp_path / "a", stored, format_, orientation)
        picture = read_picture(tmp_path / "a", channels=1, white=65535)
        assert np.array_equal(picture[0], UPRIGHT[orientation](pixels))


@pytest.mark.parametrize("format_", ["BMP", "GIF", "PPM"])
def test_formats_without_exif(tmp_path, format_):
    pixels = asymmetric()
    Image.fromarray(pixels).save(tmp_path / "a", format_)
    assert np.array_equal(read_picture(tmp_path / "a").permute(1, 2, 0), pixels)


def test_all_formats_are_tested_here():
    assert {name.split()[0] for name in WITH_EXIF} | {"BMP", "GIF", "PPM", "HEIF"} == {*FORMATS, "MPO"}


@pytest.mark.parametrize("white", [None, *WHITES])
def test_eight_bits_have_no_other_white(tmp_path, white):
    Image.fromarray(RGB).save(tmp_path / "a.png")
    for source in (tmp_path / "a.png", RGB, Image.fromarray(RGB), RGB / 255, RGB[:, :, 0] > 9):
        assert torch.equal(read_picture(source, 3, white), read_picture(source))


def test_a_common_white_is_that_of_the_brightest(tmp_path):
    def write(name, largest):
        Image.fromarray(np.array([[0, largest]], np.uint16)).save(tmp_path / name)
        return tmp_path / name

    Image.fromarray(RGB).save(tmp_path / "eight.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "eight.png").read_bytes()[:40])
    eight = [tmp_path / "eight.png", tmp_path / "cut.png", tmp_path / "none.png", RGB, RGB / 255]
    assert common_white([]) is None and common_white(eight) is None
    dark = write("dark.png", 700)
    assert common_white([*eight, dark]) == 1023
    assert common_white([*eight, dark, write("b.tif", 1024)]) == 4095
    assert common_white([dark, torch.from_numpy(np.array([[0, 4096]], np.uint16))]) == 16383
    assert common_white([Image.fromarray(np.array([[0, 20000]], np.uint16)), *eight]) == 65535
    assert common_white([dark] * 2000 + [write("c.png", 5000)] * 8) == 16383  # one in 8 is looked at


def test_modes_become_rgb():
    white, black = [255, 255, 255], [0, 0, 0]
    bilevel = Image.new("1", (2, 1))
    bilevel.putpixel((0, 0), 1)
    assert read_picture(bilevel)[:, 0].T.tolist() == [white, black]

    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putpixel((1, 0), 1)
    assert read_picture(palette)[:, 0].T.tolist() == [[10, 20, 30], [40, 50, 60]]
    palette.info["transparency"] = 0
    assert read_picture(palette)[:, 0].T.tolist() == [white, [40, 50, 60]]

    half = Image.new("RGBA", (1, 1), (100, 0, 200, 51))  # 0.2 of the colour, 0.8 of white
    assert read_picture(half).flatten().tolist() == [224, 204, 244]
    assert read_picture(half, channels=4).flatten().tolist() == [100, 0, 200, 51]
    assert read_picture(Image.new("LA", (1, 1), (100, 0))).flatten().tolist() == white
    assert read_picture(Image.new("CMYK", (1, 1), (0, 0, 0, 255))).flatten().tolist() == black
    assert read_picture(Image.new("RGB", (1, 1), (100, 200, 50)), channels=1).item() == 153  # BT.601


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (RGB.astype(np.int64), "type int64"),
        (RGB.astype(np.float32), "expected 0 … 1"),
        (np.full((2, 2), np.nan), "expected 0 … 1"),
        (np.zeros((2, 2, 5), np.uint8), "5 channels, where 3"),
        (np.zeros((0, 2), np.uint8), r"shape \(0, 2\)"),
        (Image.new("I", (1, 1), 70000), "32-bit values"),
    ],
)
def test_what_has_no_meaning_is_refused(source, message):
    with pytest.raises(ValueError, match=message):
        read_picture(source)


@pytest.mark.parametrize("source", [[[1, 2]], b"abc", None])
def test_other_types_are_refused(monkeypatch, source):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as it is for users
    with pytest.raises(ValueError, match=f"this one is of type {type(source).__name__}$"):
        read_picture(source)


def test_unreadable_files_are_named(tmp_path, monkeypatch):
    def refused(name, kind=ValueError):
        with pytest.raises(kind) as caught:
            read_picture(tmp_path / name)
        message = str(caught.value)
        assert message.startswith(f"{tmp_path / name}: ") and "\n" not in message
        return message.removeprefix(f"{tmp_path / name}: ")

    assert refused("none.png", FileNotFoundError) == "no such picture"
    with monkeypatch.context() as patch:
        patch.setattr(Path, "exists", lambda _: True)  # deleted right after
        assert refused("none.png", FileNotFoundError) == "no such picture"
    assert refused("") == "a folder, where a picture was expected"
    (tmp_path / "text.png").write_text("hello")
    assert refused("text.png").startswith(
        "cannot be read as a picture: it is in none of the supported formats ("
    )
    (tmp_path / "phone.jpg").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64))
    assert "it is in HEIF format, which needs another package" in refused("phone.jpg")
    (tmp_path / "empty.png").touch()
    assert refused("empty.png") == "an empty file"
    os.mkfifo(tmp_path / "pipe.png")
    assert refused("pipe.png") == "not a regular file"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(tmp_path / "a.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:1500])
    assert "truncated" in refused("cut.jpg")
    with monkeypatch.context() as patch:
        patch.setattr(Image, "MAX_IMAGE_PIXELS", 64)
        assert "limit against decompression bombs" in refused("a.jpg")
    for number in (errno.EACCES, errno.EMFILE):

        def refuse(*_, number=number, **__):
            raise OSError(number, os.strerror(number), "a.jpg")

        with monkeypatch.context() as patch:
            patch.setattr(Path, "open", refuse)
            assert refused("a.jpg") == f"cannot be read as a picture: {os.strerror(number)}"
        with monkeypatch.context() as patch:
            patch.setattr(Path, "exists", refuse)
            assert refused("a.jpg") == f"cannot be read: {os.strerror(number)}"


EPS = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 8 8
%%EndComments
(exec) print showpage
%%EOF
"""


@pytest.mark.parametrize("name", ["a.jpg", "a.eps", "a.png"])
def test_ghostscript_is_never_started(tmp_path, monkeypatch, name):
    """Pillow gives an EPS file to `gs`, whatever its name is."""
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path / 'started'}\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    (tmp_path / name).write_bytes(EPS)
    with pytest.raises(ValueError, match=rf"{name}: .* in none of the supported formats \(JPEG, .*\)$"):
        read_picture(tmp_path / name)
    assert not (tmp_path / "started").exists()
    with pytest.raises(OSError), Image.open(tmp_path / name) as image:
        image.load()
    assert (tmp_path / "started").exists()  # so it would have been


def test_heif_is_read_where_its_plug_in_is_registered(tmp_path, monkeypatch):
    Image.init()
    factory, _ = Image.OPEN["PPM"]
    monkeypatch.setitem(
        Image.OPEN, "HEIF", (lambda *_: factory(tmp_path / "a.ppm"), lambda head: head[4:8] == b"ftyp")
    )
    Image.fromarray(RGB).save(tmp_path / "a.ppm")
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(64))
    assert find_pictures([tmp_path]) == [tmp_path / "a.heic", tmp_path / "a.ppm"]
    assert np.array_equal(read_picture(tmp_path / "a.heic").permute(1, 2, 0), RGB)


def test_a_damaged_pillow_image_is_named(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(tmp_path / "a.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:1500])
    with pytest.raises(ValueError, match=r"cut\.jpg: cannot be read as a picture: .*truncated"):
        read_picture(Image.open(tmp_path / "cut.jpg"))


def test_a_read_array_is_not_shared_with_the_callers():
    mine = RGB.copy()
    read_picture(mine).zero_()
    assert np.array_equal(mine, RGB)


def test_what_is_not_shrunk_is_the_whole_picture_to_the_bit(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (75, 50, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.jpg")
    Image.fromarray(noise).save(tmp_path / "a.png")
    for name, target in (("a.jpg", (75, 50)), ("a.jpg", (50, 34)), ("a.jpg", (150, 100)), ("a.png", (9, 6))):
        picture = read_to_resize(tmp_path / name, lambda _, target=target: target)
        expected = np.array(Image.open(tmp_path / name))
        assert np.array_equal(picture.image.permute(1, 2, 0), expected)
        assert picture.extent == (0, 0, 50, 75) and picture.file_hw == (75, 50)
    array = read_to_resize(noise, lambda _: (9, 6))
    assert np.array_equal(array.image.permute(1, 2, 0), noise) and array.target_hw == (9, 6)
