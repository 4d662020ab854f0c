import errno
import os

import numpy as np
import pytest
from PIL import Image, ImageFile

from maskrcnn.data.picture_files import find_pictures, picture_fault, read_header


def test_find_pictures_in_files_folders_and_globs(tmp_path):
    (tmp_path / "deep").mkdir()
    for name in ("b.jpg", "a.PNG", "deep/c.tif", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    a, b, c, notes = (tmp_path / name for name in ("a.PNG", "b.jpg", "deep/c.tif", "notes.txt"))
    assert find_pictures([tmp_path]) == [a, b, c]
    assert find_pictures([f"{tmp_path}/*"]) == [a, b]
    assert find_pictures([f"{tmp_path}/**/*.tif", b, notes, tmp_path]) == [c, b, notes, a]
    for nothing in (tmp_path / "none.jpg", f"{tmp_path}/*.webp", "", "a\0b"):
        with pytest.raises(FileNotFoundError, match=r"no such picture, nor a folder"):
            find_pictures([b, nothing])


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
    (tmp_path / "a.png").touch()

    def refuse(path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(ValueError, match=rf"^{tmp_path}: cannot be read: Permission denied$"):
        find_pictures([tmp_path])
    with pytest.raises(ValueError, match=r"cannot be read: File name too long$"):
        find_pictures(["x" * 5000])


@pytest.fixture
def picture():
    """40 rows and 60 columns, which no format stores in a few bytes."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8))


@pytest.fixture
def undecoded(monkeypatch):
    """Fail where a picture is decoded."""
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("decoded"))


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp", "bmp"])
def test_headers_of_whole_files_are_read_without_decoding(picture, tmp_path, suffix, request):
    path = tmp_path / f"a.{suffix}"
    picture.save(path)
    request.getfixturevalue("undecoded")
    assert picture_fault(path) == ""
    assert read_header(path) == ((40, 60), (40, 60), False)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_turned_pictures_have_two_sizes(picture, tmp_path, suffix):
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(tmp_path / f"a.{suffix}", exif=exif)
    header = read_header(tmp_path / f"a.{suffix}")
    assert header.upright_hw == (60, 40) and header.is_turned


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_files_that_are_cut_off_are_named(picture, tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    picture.save(path)
    whole = path.read_bytes()
    path.write_bytes(whole + b"trailer" * 500)  # as phones append to their pictures
    assert picture_fault(path) == ""
    path.write_bytes(whole[: len(whole) // 2])
    assert picture_fault(path).startswith(f"{path}: cannot be read as a picture: ")
    path.write_bytes(b"")
    assert picture_fault(path) == f"{path}: an empty file"
    path.unlink()
    assert picture_fault(path) == f"{path}: no such picture"
