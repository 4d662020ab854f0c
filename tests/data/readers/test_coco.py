import errno
import gc
import json
import os
import warnings
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pytest
import torch.multiprocessing  # noqa: F401  (teaches ForkingPickler to share tensors)
from PIL import Image

from maskrcnn.data.folder import read_split
from maskrcnn.data.readers.coco import read_coco
from maskrcnn.masks.rle import decode
from maskrcnn.messages import Faults

SHARED = Path(os.environ.get("MASKRCNN_SHARED", Path(__file__).parents[3] / "../shared"))


def content(**changes):
    """Two pictures of 4 rows and 6 columns, the second without objects; classes 2 (no example), 5 and 7."""
    square = [1, 1, 3, 1, 3, 3, 1, 3]
    annotation = {"id": 0, "image_id": 10, "category_id": 7, "bbox": [1, 1, 2, 2], "segmentation": [square]}
    runs = {"id": 0, "image_id": 10, "category_id": 5, "iscrowd": 1, "bbox": [0, 0, 1, 2]}
    runs["segmentation"] = {"size": [4, 6], "counts": [0, 2, 22]}
    return {
        "images": [{"id": id_, "file_name": f"{id_}.png", "height": 4, "width": 6} for id_ in (10, 3)],
        "annotations": [annotation, runs],
        "categories": [{"id": 7, "name": "cup"}, {"id": 2, "name": "cat"}, {"id": 5, "name": "dog"}],
    } | changes


def write(folder, content):
    for name in ("10.png", "3.png"):
        Image.new("RGB", (6, 4)).save(folder / name)
    (folder / "truth.json").write_text(json.dumps(content))
    return folder / "truth.json"


def read(folder, **changes):
    return read_coco(write(folder, content(**changes)), folder)


def annotation(**changes):
    return [content()["annotations"][0] | changes]


def test_classes_pictures_and_objects(tmp_path):
    dataset = read(tmp_path)
    assert (dataset.class_names, dataset.category_ids) == (("cat", "dog", "cup"), (2, 5, 7))
    assert dataset.image_ids.tolist() == [10, 3] and dataset.sizes_hw.tolist() == [[4, 6], [4, 6]]
    assert dataset.paths == [tmp_path / "10.png", tmp_path / "3.png"] and len(dataset) == 2
    objects = dataset.objects(0)
    assert objects.boxes.tolist() == [[1, 1, 3, 3], [0, 0, 1, 2]]
    assert objects.labels.tolist() == [2, 1] and objects.crowd.tolist() == [False, True]
    assert objects.masks[0][0].tolist() == [[1, 1], [3, 1], [3, 3], [1, 3]]
    assert decode(objects.masks[1]).nonzero() == (pytest.approx([0, 1]), pytest.approx([0, 0]))
    assert objects.ids.tolist() == [1, 2] and objects.keypoints is None
    assert len(dataset.objects(1).boxes) == 0


def test_compressed_and_plain_runs_are_read_alike(tmp_path):
    plain = {"size": [4, 6], "counts": [5, 3, 16]}
    compressed = {"size": [4, 6], "counts": "53`0"}
    objects = read(
        tmp_path, annotations=annotation(segmentation=plain) + annotation(segmentation=compressed)
    ).objects(0)
    assert objects.masks[0] == objects.masks[1] == compressed


def test_keypoints_are_centres_of_pixels_and_mirror(tmp_path):
    scheme = {"keypoints": ["nose", "left_eye", "right_eye"], "skeleton": [[1, 2], [1, 3]]}
    category = {"id": 7, "name": "cup"} | scheme
    given = annotation(keypoints=[1, 2, 2, 3, 0, 1, 9, 9, 0]) + annotation()
    dataset = read(tmp_path, annotations=given, categories=[category, {"id": 9, "name": "plain"}])
    assert dataset.keypoint_names == ("nose", "left_eye", "right_eye")
    assert dataset.keypoint_flip == (0, 2, 1) and dataset.skeleton == ((0, 1), (0, 2))
    expected = [[[1.5, 2.5, 2], [3.5, 0.5, 1], [0, 0, 0]], [[0, 0, 0]] * 3]
    assert dataset.objects(0).keypoints.tolist() == expected


def test_defects_that_are_left_out_are_counted(tmp_path):
    flat = annotation(bbox=[2, 2, 0, 3]) + annotation(bbox=[7, 0, 3, 3])  # the second lies beside the picture
    chipped = annotation(segmentation=[[0, 0, 1, 1], [0, 0, 2, 0, 2, 2]])
    with pytest.warns(
        UserWarning, match="left out 1 polygons of fewer than 3 points and 2 boxes without area"
    ):
        dataset = read(tmp_path, annotations=flat + chipped)
    assert dataset.objects(0).ids.tolist() == [3] and len(dataset.objects(0).masks[0]) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read(tmp_path)


IMAGE = content()["images"][0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"annotations": annotation(category_id=1)}, "annotation 0 of image 10: 'category_id' is 1, which"),
        ({"annotations": annotation(image_id=1)}, "annotation 0 of image 1: 'image_id' is 1, which"),
        ({"annotations": annotation(bbox=[0, 0, -1, 2])}, "annotation 0 of image 10: 'bbox' is .*≥ 0"),
        ({"annotations": annotation(bbox=[0, float("nan"), 1, 2])}, "'bbox' is not a list of finite numbers"),
        ({"annotations": annotation(bbox=[0, 0, 1])}, "x, y, width, height"),
        ({"annotations": annotation(bbox="wide")}, "'bbox' is not a list of finite numbers"),
        ({"annotations": annotation(segmentation=[{"size": [4, 6]}])}, "polygon 0 is not a list of finite"),
        (
            {"images": [{"id": 10, "file_name": "9.png", "width": 6}]},
            "image 10: the field 'height' is missing",
        ),
        ({"categories": [{"id": 7}]}, "category 7 has no name"),
        (
            {"annotations": [{"id": 4, "image_id": 10, "category_id": 7}]},
            "annotation 4 of .*'bbox' is missing",
        ),
        ({"annotations": ["x"]}, "an entry of 'annotations'"),
        ({"annotations": annotation(segmentation=[[0, 0, 1, 1, 2]])}, "polygon 0 has 5 numbers; an even"),
        ({"annotations": annotation(segmentation=[[0, 0, 1, 1]])}, "polygon 0 has 2 points"),
        ({"annotations": annotation(segmentation=[[0, 0, 1, 1, 1e30, 0]])}, "is outside the picture"),
        (
            {"annotations": annotation(segmentation={"size": [6, 4], "counts": [24]})},
            r"size \[6, 4\], but",
        ),
        (
            {"annotations": annotation(segmentation={"size": [4, 6], "counts": [23]})},
            "annotation 0 .* sum to 23",
        ),
        (
            {"annotations": annotation(segmentation={"size": [4, 6], "counts": "!"})},
            "annotation 0 of image 10",
        ),
        ({"images": [IMAGE, IMAGE]}, "the id 10 occurs 2 times in 'images'"),
        ({"images": []}, "the list 'images' is empty"),
        ({"images": [IMAGE | {"height": 2**31}]}, "image 10: its height is 2147483648"),
        ({"images": [IMAGE | {"id": 2.0**63}]}, "'id' does not fit into 64 bits"),
        ({"images": [IMAGE | {"id": True}]}, "'id' is True, where an integer"),
        ({"images": ["10.png"]}, "the list 'images' contains '10.png', where an object"),
        ({"categories": [{"id": 7, "name": None}]}, "category 7 has no name"),
        ({"annotations": annotation(bbox=[0, 10**400, 1, 2])}, "'bbox' is not a list of finite numbers"),
        ({"annotations": annotation(iscrowd="no")}, "'iscrowd' is 'no', where 0 or 1"),
        ({"images": [IMAGE | {"height": 0}]}, "image 10: its height is 0 and its width is 6 pixels"),
        ({"images": [IMAGE | {"id": ""}]}, "'id' is '', where an integer"),
        ({"annotations": annotation(segmentation=3)}, "'segmentation' is '3', where a list"),
        ({"categories": {}}, "it has no list 'categories'"),
    ],
)
def test_mistakes_are_named(tmp_path, changes, message):
    with pytest.raises(ValueError, match=r"truth\.json: .*" + message):
        read(tmp_path, **changes)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("../10.png", "leads out of the image folder"),
        ("/etc/10.png", "leads out of the image folder"),
        ("..\\10.png", "leads out of the image folder"),
        ("\\\\server\\10.png", "leads out of the image folder"),
        ("C:10.png", "leads out of the image folder"),
        ("https://host/10.png", "leads out of the image folder"),
        ("", "names no file"),
        (".", "names no file"),
        ("./.", "names no file"),
        ("///", "leads out of the image folder"),
        ("a\0.png", "has characters that no file name can have"),
        ("\ud800.png", "has characters that no file name can have"),
        (f"{'x' * 252}.png", "is longer than 255 bytes"),
        (f"{'ü' * 126}.png", "is longer than 255 bytes"),
        (None, "where a text was expected"),
        (10, "where a text was expected"),
        (["10.png"], "where a text was expected"),
    ],
)
def test_file_names_that_cannot_be_meant(tmp_path, name, problem):
    with pytest.raises(ValueError, match=rf"truth\.json: image 10: [^\n]*{problem}$"):
        read(tmp_path, images=[IMAGE | {"file_name": name}])


def test_file_names_with_odd_characters_are_read(tmp_path):
    name = "10:30 ü #%20 (copy)..png"
    Image.new("RGB", (6, 4)).save(tmp_path / name)
    assert read(tmp_path, images=[IMAGE | {"file_name": name}]).path(0) == tmp_path / name


def test_flags_and_areas_in_other_types(tmp_path):
    given = annotation(iscrowd="0", area=[3]) + annotation(iscrowd="1", area="4.5") + annotation(iscrowd=None)
    given += (
        annotation(iscrowd=True, area="wide") + annotation(iscrowd=0.0, area=-1) + annotation(area=10**400)
    )
    with pytest.warns(UserWarning, match="left out 3 areas that are not numbers"):
        truth = read(tmp_path, annotations=given).truth()["annotations"]
    assert [entry["iscrowd"] for entry in truth] == [0, 1, 0, 1, 0, 0]
    assert [entry.get("area") for entry in truth] == [3, 4.5, None, None, None, None]


@pytest.mark.parametrize(
    "text", ["{", "", "[" * 10**5, f'{{"images": [{"9" * 5000}]}}', "\ufeff{", b"\xff{}"]
)
def test_what_is_not_json_is_named(tmp_path, text):
    (tmp_path / "truth.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=r"truth\.json: not a JSON file"):
        read_coco(tmp_path / "truth.json", tmp_path)


def test_a_byte_order_mark_is_skipped(tmp_path):
    file = write(tmp_path, content())
    file.write_text("\ufeff" + file.read_text(), encoding="utf-8")
    assert len(read_coco(file, tmp_path)) == 2


def test_files_that_cannot_be_read_are_named(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"none\.json: no such file$"):
        read_coco(tmp_path / "none.json", tmp_path)
    with pytest.raises(ValueError, match=r"cannot be read: Is a directory$"):
        read_coco(tmp_path, tmp_path)
    file = write(tmp_path, content())

    def refuse(path):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(path))

    monkeypatch.setattr(Path, "is_file", refuse)
    with pytest.raises(ValueError, match=r"10\.png: cannot be read: Too many open files$"):
        read_coco(file, tmp_path)


def test_absent_pictures_are_left_out_and_named_until_none_is_left(tmp_path):
    file = write(tmp_path, content())
    (tmp_path / "10.png").unlink()
    with pytest.warns(UserWarning, match=r"left out 1 pictures that are not there \(10\.png\)$"):
        dataset = read_coco(file, tmp_path)
    assert dataset.image_ids.tolist() == [3] and len(dataset.objects(0).ids) == 0
    assert [image["id"] for image in dataset.truth()["images"]] == [3]
    (tmp_path / "3.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"none of its 2 pictures is in .*: 10\.png; 3\.png"):
        read_coco(file, tmp_path)


def test_unusable_annotations_are_left_out_and_named(tmp_path):
    bad = annotation(id=7, bbox=[0, 0, -1, 2]) + annotation(id=8, segmentation=[[0, 0, 1, 1]]) + ["x"]
    bad += annotation(id=9, category_id=99) + annotation(id=11, image_id=99) + annotation(id=12, bbox=[])
    bad[-1]["segmentation"] = None
    with pytest.warns(UserWarning) as caught:
        dataset = read(tmp_path, annotations=[*bad, *content()["annotations"]])
    [warning] = [str(one.message) for one in caught]
    assert "left out 6 annotations that cannot be used (" in warning and warning.endswith("; …)")
    for words in ("annotation 11 of image 99: 'image_id' is 99", "annotation 7 of image 10: 'bbox' is [0, 0"):
        assert words in warning
    assert dataset.objects(0).ids.tolist() == [7, 8]  # positions in the file
    assert [entry["id"] for entry in dataset.truth()["annotations"]] == [7, 8]


def test_what_can_be_meant_is_repaired_and_counted(tmp_path):
    ring, rle = [1, 1, 3, 1, 3, 3.5, 1, 3], {"size": [4, 6], "counts": [5, 2, 2, 2, 13]}
    texts = annotation(image_id="10", category_id="7", bbox=["1", "1", "2", "2.5"], iscrowd="0")
    texts[0]["segmentation"] = [[str(number) for number in ring]]
    pairs = [[ring[i : i + 2] for i in range(0, len(ring), 2)]]
    flat = annotation(segmentation=ring) + annotation(segmentation=pairs)
    boxless = annotation(bbox=None, segmentation=[ring]) + annotation(segmentation=rle)
    del boxless[1]["bbox"]
    images = [
        {"id": "10", "file_name": "10.png", "height": "4", "width": 6.0},
        {"id": 3, "file_name": "3.png", "width": 6},
    ]
    categories = [{"id": "7", "name": "cup"}]
    with pytest.warns(UserWarning) as caught:
        given = [*texts, *flat, *boxless]
        dataset = read(tmp_path, annotations=given, images=images, categories=categories)
    [warning] = [str(one.message) for one in caught]
    assert "left out" not in warning
    for words in (
        "5 numbers that are written as texts",
        "1 polygons that are not in a list",
        "1 polygons of pairs [x, y]",
        "2 boxes from their masks",
        "1 sizes of pictures from their files",
    ):
        assert words in warning
    assert dataset.sizes_hw.tolist() == [[4, 6], [4, 6]] and dataset.category_ids == (7,)
    square, taller = [1, 1, 3, 3], [1, 1, 3, 3.5]
    assert dataset.objects(0).boxes.tolist() == [taller, square, square, taller, square]
    polygons = dataset.objects(0).masks[:4]
    assert all(len(mask) == 1 and mask[0].ravel().tolist() == ring for mask in polygons)


def test_all_that_stops_the_reader_comes_at_once(tmp_path):
    images = [IMAGE | {"id": None}, IMAGE, IMAGE | {"id": [1]}]
    categories = [{"id": 7}, {"id": 2, "name": ""}]
    with pytest.raises(Faults) as caught:
        read(tmp_path, images=images, categories=categories)
    endings = [sentence.partition("truth.json: ")[2] for sentence in caught.value.sentences]
    assert endings == [
        "category 2 has no name",
        "category 7 has no name",
        "an entry of 'images': 'id' is None, where an integer was expected",
        "an entry of 'images': 'id' is [1], where an integer was expected",
    ]


def test_names_in_place_of_ids_are_numbered(tmp_path):
    """Texts, and numbers that no 64 bits hold; those that are numbers keep them."""
    images = [IMAGE | {"id": "10.png"}, {"id": 2**70, "file_name": "3.png", "width": 6, "height": 4}]
    categories = [{"id": "cup", "name": "cup"}, {"id": 5, "name": "dog"}]
    given = annotation(image_id="10.png", category_id="cup") + annotation(image_id=str(2**70), category_id=5)
    with pytest.warns(UserWarning) as caught:
        dataset = read(tmp_path, images=images, categories=categories, annotations=given)
    assert "2 ids of images that are no numbers of 64 bits, and were numbered" in str(caught[0].message)
    assert dataset.image_ids.tolist() == [1, 2]
    assert dict(zip(dataset.class_names, dataset.category_ids, strict=True)) == {"cup": 6, "dog": 5}
    names = [[dataset.class_names[label] for label in dataset.objects(i).labels] for i in (0, 1)]
    assert names == [["cup"], ["dog"]]
    assert [(one["image_id"], one["category_id"]) for one in dataset.truth()["annotations"]] == [
        (1, 6),
        (2, 5),
    ]


def test_boxes_as_objects_are_read(tmp_path):
    given = annotation(bbox={"x": 1, "y": 1, "width": 2, "height": 3, "cx": 2}) + annotation(bbox={"x": 1})
    with pytest.warns(
        UserWarning, match="1 annotations that cannot be used .* read 1 boxes that are objects"
    ):
        dataset = read(tmp_path, annotations=given)
    assert dataset.objects(0).boxes.tolist() == [[1, 1, 3, 4]]


def test_keypoints_that_differ_between_classes_are_left_out(tmp_path):
    schemes = {7: ["ear"], 2: ["nose"], 5: []}
    categories = [{"id": id_, "name": str(id_), "keypoints": names} for id_, names in schemes.items()]
    with pytest.warns(UserWarning, match="left out 2 keypoint schemes, which differ between the classes"):
        dataset = read(tmp_path, categories=categories, annotations=annotation(keypoints=[1, 1, 2]))
    assert dataset.keypoint_names == () and dataset.objects(0).keypoints is None
    assert len(dataset.objects(0).masks) == 1


def test_pictures_without_a_valid_entry_are_left_out_and_named(tmp_path):
    images = [IMAGE | {"file_name": "../10.png"}, IMAGE | {"id": 3, "file_name": "3.png"}]
    images += [IMAGE | {"id": 4, "width": "wide"}]
    with pytest.warns(UserWarning) as caught:
        dataset = read(tmp_path, images=images)
    assert dataset.image_ids.tolist() == [3]
    words = "left out 2 pictures that cannot be used (image 10: the file name '../10.png' leads out of the"
    assert words in str(caught[0].message)
    with pytest.raises(Faults) as faults:
        read(tmp_path, images=[images[0], images[2]])
    assert ["image 10" in faults.value.sentences[0], "image 4" in faults.value.sentences[1]] == [True, True]


@pytest.mark.parametrize("suffix", ["jpg", "tif", "png"])
def test_the_size_of_a_turned_picture_is_that_of_the_upright_one(tmp_path, suffix):
    file = write(
        tmp_path, content(images=[{"id": 10, "file_name": f"10.{suffix}", "height": None, "width": None}])
    )
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (6, 4)).save(tmp_path / f"10.{suffix}", exif=exif)
    with pytest.warns(UserWarning, match="1 sizes of pictures from their files"):
        assert read_coco(file, tmp_path).sizes_hw.tolist() == [[6, 4]]


def test_truth_is_the_file_exactly(tmp_path):
    """What evaluation compares with: the file's own values, also of annotations that are not learnt."""
    ring, rle = [0.1, 1.3, 3, 1, 2.7, 3.9], {"size": [4, 6], "counts": [0, 2, 22]}
    given = annotation(bbox=[0.1, 0.2, 9.3, 2], area=3.7, segmentation=[ring, ring[::-1]])
    given += annotation(bbox=[2, 2, 0, 3], segmentation=None, iscrowd=1)
    given = annotation(image_id=3, segmentation=rle, keypoints=[1, 2, 2, 3.5, 4, 0], attributes={}) + given
    categories = [
        {"id": 7, "name": "cup", "frequency": "r", "keypoints": ["a", "b"]},
        {"id": 2, "name": "cat"},
    ]
    images = [image | {"neg_category_ids": [2], "void": rle} for image in content()["images"]]
    with pytest.warns(UserWarning, match="left out 1 boxes"):
        dataset = read(tmp_path, annotations=given, categories=categories, images=images)
    truth = dataset.truth()
    assert truth["images"] == images and truth["categories"] == categories
    first, second, third = truth["annotations"]
    compressed = {"size": [4, 6], "counts": "02f0"}
    assert first == {
        "id": 1,
        "image_id": 3,
        "category_id": 7,
        "bbox": [1, 1, 2, 2],
        "iscrowd": 0,
        "segmentation": compressed,
        "keypoints": [1, 2, 2, 3.5, 4, 0],
    }
    assert (second["image_id"], second["area"], second["bbox"]) == (10, 3.7, [0.1, 0.2, 9.3, 2])
    assert second["segmentation"] == [ring, ring[::-1]]
    assert (third["iscrowd"], third["bbox"], third["segmentation"]) == (1, [2, 2, 0, 3], [])
    assert dataset.objects(0).ids.tolist() == [2] and dataset.objects(1).ids.tolist() == [1]


def test_equal_names_of_classes_become_unique(tmp_path):
    categories = [{"id": 7, "name": "cup"}, {"id": 8, "name": "cup"}, {"id": 5, "name": "dog"}]
    assert read(tmp_path, categories=categories).class_names == ("dog", "cup (7)", "cup (8)")


def test_annotations_are_bytes_that_workers_share(tmp_path):
    def weight(repeats):
        """Python objects that the data set keeps alive, and the bytes that a spawned worker is sent."""
        dataset = read(tmp_path, annotations=content()["annotations"] * repeats)
        gc.collect()
        seen, open_ = set(), [dataset.__dict__]
        while open_:
            thing = open_.pop()
            if id(thing) not in seen and not isinstance(thing, type):
                seen.add(id(thing))
                open_ += gc.get_referents(thing) if isinstance(thing, dict | list | tuple) else []
        return len(seen), len(ForkingPickler.dumps(dataset)), dataset._annotations._data.numel()

    (few, small, light), (many, large, heavy) = weight(10), weight(1000)
    assert heavy > 50 * light
    assert many == few and abs(large - small) < 100


@pytest.mark.parametrize("name", ["nuclei", "person", "coco_small"])
def test_real_masks_agree_with_their_boxes(name):
    if not (SHARED / "data" / name).is_dir():
        pytest.skip(f"no {SHARED / 'data' / name}")
    dataset = read_split(SHARED / "data" / name, "val")
    assert len(dataset) == {"nuclei": 100, "person": 200, "coco_small": 206}[name]
    assert (
        sum(len(dataset.objects(i).ids) for i in range(len(dataset)))
        == {
            "nuclei": 4789,
            "person": 200,
            "coco_small": 1786,
        }[name]
    )
    for i in range(0, len(dataset), 10):
        objects = dataset.objects(i)
        for box, mask in zip(objects.boxes, objects.masks, strict=True):
            if isinstance(mask, dict):
                y, x = decode(mask).nonzero()
                assert np.abs(box - [x.min(), y.min(), x.max() + 1, y.max() + 1]).max() <= 1
            else:
                points = np.concatenate(mask)
                assert np.abs(box - np.concatenate([points.min(0), points.max(0)])).max() <= 1
