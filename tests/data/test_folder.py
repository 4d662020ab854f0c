import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cities import add_picture
from maskrcnn.data.folder import has_one_export, has_split, read_one_export, read_split


def layout(folder, annotations, images):
    """Write a data set of one picture in the given layout."""
    for path in (folder / annotations, folder / images / "a.png"):
        path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 4)).save(folder / images / "a.png")
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": 4, "width": 6}],
        "annotations": [],
        "categories": [{"id": 1, "name": "cup"}],
    }
    (folder / annotations).write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("annotations", "images"),
    [
        ("annotations/instances_val.json", "val"),
        ("annotations/instances_val2017.json", "val2017"),
        ("annotations/instances_val2014.json", "images/val2014"),
        ("annotations/person_keypoints_val2017.json", "val2017"),
        ("valid/_annotations.coco.json", "valid"),
        ("annotations/instances_val.json", "images"),
        ("annotations/instances_val2017.json", "train2017"),
    ],
)
def test_layouts(tmp_path, annotations, images):
    assert not has_split(tmp_path, "val")
    layout(tmp_path, annotations, images)
    assert has_split(tmp_path, "val") and not has_split(tmp_path, "train")
    dataset = read_split(tmp_path, "val")
    assert dataset.source == tmp_path / annotations and dataset.paths == [tmp_path / images / "a.png"]


def test_a_folder_of_a_split_is_preferred_to_one_for_all(tmp_path):
    layout(tmp_path, "annotations/instances_val.json", "images")
    layout(tmp_path, "annotations/instances_val.json", "images/val")
    assert read_split(tmp_path, "val").image_folder == tmp_path / "images" / "val"


def test_roboflows_test_split(tmp_path):
    layout(tmp_path, "test/_annotations.coco.json", "test")
    assert has_split(tmp_path, "test") and not has_split(tmp_path, "val")
    assert len(read_split(tmp_path, "test")) == 1


def test_annotations_whose_pictures_are_missing_are_not_passed_over(tmp_path):
    layout(tmp_path, "annotations/instances_val.json", "elsewhere")
    assert has_split(tmp_path, "val")
    with pytest.raises(
        FileNotFoundError, match=r"instances_val\.json: no folder of its pictures; looked for .*images/val/"
    ):
        read_split(tmp_path, "val")


@pytest.mark.parametrize(
    ("annotations", "images"),
    [
        ("_annotations.coco.json", ""),
        ("labels.json", "data"),  # FiftyOne
        ("result.json", "images"),  # Label Studio
        ("annotations/instances_default.json", "images/default"),  # CVAT
        ("annotations/anything.json", "images"),
    ],
)
def test_one_export_of_all_pictures(tmp_path, annotations, images):
    assert not has_one_export(tmp_path)
    layout(tmp_path, annotations, images)
    assert has_one_export(tmp_path) and not has_split(tmp_path, "train")
    dataset = read_one_export(tmp_path)
    assert dataset.source == tmp_path / annotations and dataset.paths == [tmp_path / images / "a.png"]


def test_two_exports_and_missing_pictures_are_explained(tmp_path):
    layout(tmp_path, "a.json", "elsewhere")
    with pytest.raises(FileNotFoundError, match=r"a\.json: its first picture, a\.png, is in none of "):
        read_one_export(tmp_path)
    layout(tmp_path, "annotations/b.json", "images")
    with pytest.raises(FileNotFoundError, match=r"no annotation file, or several; expected one JSON file"):
        read_one_export(tmp_path)


def test_the_first_kind_is_preferred(tmp_path):
    for kind in ("instances", "person_keypoints"):
        layout(tmp_path, f"annotations/{kind}_val.json", "val")
    assert read_split(tmp_path, "val").source.name == "instances_val.json"
    kinds = ("person_keypoints", "instances")
    assert read_split(tmp_path, "val", kinds).source.name == "person_keypoints_val.json"


def test_cityscapes(tmp_path, monkeypatch):
    monkeypatch.setenv("MASKRCNN_CACHE", str(tmp_path / "cache"))
    add_picture(tmp_path, "val", "ulm_000000_000019", np.full((8, 8), 7))
    dataset = read_split(tmp_path, "val")
    assert has_split(tmp_path, "val") and dataset.source.is_relative_to(tmp_path / "cache")
    assert dataset.image_folder == tmp_path / "leftImg8bit" / "val"
    with pytest.raises(FileNotFoundError, match=r"no 'train' split; .*leftImg8bit/train/ with gtFine/train/"):
        read_split(tmp_path, "train")
    layout(tmp_path, "annotations/instances_val.json", "val")  # the user's own conversion is preferred
    assert read_split(tmp_path, "val").source.name == "instances_val.json"


def test_a_missing_split_is_explained(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        read_split(tmp_path / "none", "train")
    layout(tmp_path, "annotations/instances_val.json", "pictures")
    with pytest.raises(
        FileNotFoundError,
        match=r"no 'train' split; looked for .*instances.*; the folder has .*pictures/",
    ):
        read_split(tmp_path, "train")


def test_a_folder_without_permission_is_named(tmp_path, monkeypatch):
    layout(tmp_path, "annotations/instances_val.json", "val")

    def refuse(path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "is_file", refuse)
    for function in (has_split, read_split):
        with pytest.raises(ValueError, match=rf"^{tmp_path}: cannot be read: Permission denied$"):
            function(tmp_path, "val")
