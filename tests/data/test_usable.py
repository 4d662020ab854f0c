"""Pictures that cannot be read are left out before a training, and classes are matched by name."""

import json

import numpy as np
import pytest
from PIL import Image

from maskrcnn.data.dataset import Dataset
from maskrcnn.data.readers.coco import read_coco
from maskrcnn.data.usable import with_classes, with_usable_pictures
from maskrcnn.messages import Faults


@pytest.fixture
def data(tmp_path):
    """Write pictures of 32 rows and 36 columns, one object of each class in each; return the data set."""

    def write(names=("a.jpg", "b.jpg", "c.jpg"), classes=((1, "cat"), (2, "dog"))):
        images, annotations = [], []
        for number, name in enumerate(names, 1):
            pixels = np.random.default_rng(number).integers(0, 256, (32, 36, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / name)
            images.append({"id": number, "file_name": name, "height": 32, "width": 36})
            for id_, _ in classes:
                entry = {"id": len(annotations) + 1, "image_id": number, "category_id": id_}
                annotations.append(entry | {"bbox": [2, 2, 9, 9], "segmentation": [[2, 2, 11, 2, 11, 11]]})
        categories = [{"id": id_, "name": name, "supercategory": "pet"} for id_, name in classes]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (tmp_path / "a.json").write_text(json.dumps(content))
        return read_coco(tmp_path / "a.json", tmp_path)

    return write


def turned(path, size=(36, 32)):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", size).save(path, exif=exif)


def test_a_data_set_without_faults_is_returned_itself(data):
    dataset = data()
    assert with_usable_pictures(dataset) is dataset


def test_unreadable_cut_and_resized_pictures_are_left_out_and_named(data, tmp_path):
    dataset = data([f"{name}.jpg" for name in "abcde"])
    (tmp_path / "a.jpg").write_bytes(b"no picture")
    (tmp_path / "b.jpg").write_bytes((tmp_path / "b.jpg").read_bytes()[:-200])
    Image.new("RGB", (32, 36)).save(tmp_path / "c.jpg")
    turned(tmp_path / "d.jpg")
    with pytest.warns(UserWarning) as caught:
        usable = with_usable_pictures(dataset)
    [warning] = [str(one.message) for one in caught]
    assert f"{dataset.source}: left out 4 pictures that cannot be used (" in warning
    exchanged = "the picture has 32 x 36 pixels, its entry says 36 x 32 (height and width are exchanged)"
    by_exif = "the picture has 32 x 36 pixels, stored turned by EXIF, its entry says 36 x 32"
    for words in ("a.jpg: cannot be read as a picture", "b.jpg: cannot", exchanged, by_exif):
        assert words in warning
    assert usable.image_ids.tolist() == [5] and [path.name for path in usable.paths] == ["e.jpg"]


def test_all_are_named_where_none_is_left(data, tmp_path):
    dataset = data()
    for name in "abc":
        (tmp_path / f"{name}.jpg").write_bytes(b"")
    with pytest.raises(Faults) as caught:
        with_usable_pictures(dataset)
    assert [sentence.rpartition("/")[2] for sentence in caught.value.sentences] == [
        f"{name}.jpg: an empty file" for name in "abc"
    ]


def test_classes_are_matched_by_name(data):
    dataset = data(classes=((1, "dog"), (5, "cat")))
    with pytest.warns(UserWarning, match="2 classes have other category ids than the training's"):
        matched = with_classes(dataset, ("bird", "cat", "dog"), (1, 2, 3))
    assert isinstance(matched, Dataset) and len(matched) == 3
    assert dataset.objects(0).labels.tolist() == [0, 1] and matched.objects(0).labels.tolist() == [2, 1]
    truth = matched.truth()
    assert [(one["id"], one["name"], one["supercategory"]) for one in truth["categories"]] == [
        (3, "dog", "pet"),
        (2, "cat", "pet"),
    ]
    assert [entry["category_id"] for entry in truth["annotations"]] == [3, 2] * 3
    assert matched.paths == dataset.paths and matched.image_ids.tolist() == [1, 2, 3]


def test_the_same_classes_and_unknown_ones_stay(data):
    dataset = data()
    for names, ids in ((("cat", "dog"), (1, 2)), (("cat", "bird"), (1, 2))):
        assert with_classes(dataset, names, ids) is dataset


def test_labels_are_those_of_the_network_where_it_has_more_classes(data, recwarn):
    matched = with_classes(data(), ("ant", "cat", "dog"), (0, 1, 2))
    assert matched.objects(0).labels.tolist() == [1, 2] and not recwarn.list
