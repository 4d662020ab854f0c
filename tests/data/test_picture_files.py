import errno
import os

import pytest

from maskrcnn.data.picture_files import find_pictures


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
