import numpy as np
import pytest

from cities import add_picture
from maskrcnn.data.folder import find_split


def layout(folder, *files):
    for name in files:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


@pytest.mark.parametrize(
    ("annotations", "pictures"),
    [
        ("annotations/instances_val.json", "val"),
        ("annotations/instances_val2017.json", "val2017"),
        ("annotations/instances_val2014.json", "images/val2014"),
        ("annotations/person_keypoints_val2017.json", "val2017"),
        ("valid/_annotations.coco.json", "valid"),
    ],
)
def test_layouts(tmp_path, annotations, pictures):
    layout(tmp_path, annotations, f"{pictures}/a.jpg")
    assert find_split(tmp_path, "val") == (tmp_path / annotations, tmp_path / pictures)


def test_the_kind_asked_for_first_comes_first(tmp_path):
    layout(
        tmp_path, *(f"annotations/{kind}_val.json" for kind in ("instances", "person_keypoints")), "val/a.jpg"
    )
    assert find_split(tmp_path, "val")[0].name == "instances_val.json"
    assert (
        find_split(tmp_path, "val", ("person_keypoints", "instances"))[0].name == "person_keypoints_val.json"
    )


def test_cityscapes(tmp_path, monkeypatch):
    monkeypatch.setenv("MASKRCNN_CACHE", str(tmp_path / "cache"))
    add_picture(tmp_path, "val", "ulm_000000_000019", np.full((8, 8), 7))
    file, pictures = find_split(tmp_path, "val")
    assert file.is_file() and file.is_relative_to(tmp_path / "cache")
    assert pictures == tmp_path / "leftImg8bit" / "val"
    with pytest.raises(FileNotFoundError, match=r"no 'train' split; .*leftImg8bit/train/ with gtFine/train/"):
        find_split(tmp_path, "train")
    layout(
        tmp_path, "annotations/instances_val.json", "val/a.jpg"
    )  # somebody's own, which is as they want it
    assert find_split(tmp_path, "val")[0].name == "instances_val.json"


def test_a_split_that_is_not_there_is_explained(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        find_split(tmp_path / "none", "train")
    layout(tmp_path, "annotations/instances_val.json", "pictures/a.jpg")
    with pytest.raises(
        FileNotFoundError, match=r"no 'train' split; looked for .*instances.*; found .*pictures/"
    ):
        find_split(tmp_path, "train")
