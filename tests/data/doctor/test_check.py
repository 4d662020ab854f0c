"""Each kind of fault is seeded into a small clean data set and named; a clean one has no finding."""

import copy
import json

import numpy as np
import pytest
from PIL import Image, ImageFile

from maskrcnn.data.doctor.check import check, check_quickly
from maskrcnn.data.doctor.findings import KINDS, Report, Where, finding
from maskrcnn.masks.rle import crop_to_rle

SIZE = 64  # pixels a side


def picture(seed):
    blocks = np.random.default_rng(seed).integers(0, 256, (16, 16), np.uint8)
    return Image.fromarray(np.kron(blocks, np.ones((4, 4), np.uint8)))


def square(id_, image_id, x=8, side=20, category_id=1):
    ring = [x, x, x + side, x, x + side, x + side, x, x + side]
    return {
        "id": id_,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": [x, x, side, side],
        "area": side * side,
        "iscrowd": 0,
        "segmentation": [ring],
    }


@pytest.fixture
def contents():
    """The annotation files of a clean data set of two classes."""
    files = {}
    for split in ("train", "val"):
        images = [{"id": i, "file_name": f"{i}.png", "height": SIZE, "width": SIZE} for i in (1, 2, 3)]
        annotations = [square(2 * i + k, i, 8 + 20 * k, category_id=1 + k) for i in (1, 2, 3) for k in (0, 1)]
        categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
        files[split] = {"images": images, "annotations": annotations, "categories": categories}
    return copy.deepcopy(files)


@pytest.fixture
def data(tmp_path):
    for number, split in enumerate(("train", "val")):
        (tmp_path / split).mkdir()
        for i in (1, 2, 3):
            picture(10 * number + i).save(tmp_path / split / f"{i}.png")
    (tmp_path / "annotations").mkdir()
    return tmp_path


def write(data, contents):
    for split, content in contents.items():
        (data / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))


def kinds(data, contents):
    write(data, contents)
    return set(check(data).kinds)


def test_a_clean_data_set_has_no_finding(data, contents):
    assert kinds(data, contents) == set()


def annotation(**values):
    return lambda content: content["annotations"][0].update(values)


def image(**values):
    return lambda content: content["images"][0].update(values)


def category(**values):
    return lambda content: content["categories"][1].update(values)


def mask(values):
    return annotation(segmentation=values)


def repeat(key, **values):
    return lambda content: content[key].append({**content[key][0], **values})


def crowds(content):
    for one in content["annotations"]:
        one["iscrowd"] = 1


def boxes_alone(content):
    for one in content["annotations"]:
        one["segmentation"] = []


RLE = crop_to_rle(np.ones((20, 20), bool), (8, 8), (SIZE, SIZE))
KEYPOINTS = [{"id": 1, "name": "cat", "keypoints": ["ear"]}, {"id": 2, "name": "dog", "keypoints": ["nose"]}]
FAULTS = [
    ("missing picture", image(file_name="gone.png")),
    ("unsafe file name", image(file_name="../train/1.png")),
    ("unsafe file name", image(file_name="/etc/passwd")),
    ("missing value", image(file_name=None)),
    ("missing size", image(height=None)),
    ("value type", image(height="64")),
    ("value type", image(id="1")),
    ("name as id", image(id="one")),
    ("name as id", image(id=2**70)),
    ("invalid id", image(id=[1])),
    ("picture size", image(width=50)),
    ("same file twice", repeat("images", id=9)),
    ("duplicate image id", repeat("images", file_name="4.png")),
    ("duplicate category id", repeat("categories", name="horse")),
    ("duplicate annotation id", repeat("annotations", bbox=[9, 9, 19, 19])),
    ("duplicate annotation", repeat("annotations", id=99)),
    ("unknown image id", annotation(image_id=77)),
    ("unknown category id", annotation(category_id=77)),
    ("missing value", annotation(image_id=None)),
    ("value type", annotation(category_id="1")),
    ("value type", annotation(image_id=1.0)),
    ("value type", annotation(iscrowd="0")),
    ("value type", annotation(area="400")),
    ("value type", annotation(bbox={"x": 8, "y": 8, "width": 20, "height": 20})),
    ("missing default", annotation(iscrowd=None)),
    ("missing box", annotation(bbox=None)),
    ("missing box", annotation(bbox=[1, 2, "three", 4])),
    ("negative box", annotation(bbox=[8, 8, -20, 20])),
    ("box outside", annotation(bbox=[1e308, 8, 20, 20])),
    ("polygon outside", mask([[1e308, -1e308, 1e308, 1e308, -1e308, 5, 3, 4]])),
    ("empty box", annotation(bbox=[8, 8, 0, 20])),
    ("corner box", annotation(bbox=[8, 8, 28, 28])),
    ("relative box", annotation(bbox=[0.125, 0.125, 0.3, 0.3])),
    ("box outside", annotation(bbox=[50, 50, 40, 40], segmentation=[])),
    ("box and mask differ", annotation(bbox=[30, 30, 10, 10])),
    ("flat polygon", mask([8, 8, 28, 8, 28, 28, 8, 28])),
    ("polygon of pairs", mask([[[8, 8], [28, 8], [28, 28], [8, 28]]])),
    ("polygon of pairs", mask([[8, 8], [28, 8], [28, 28], [8, 28]])),
    ("short polygon", mask([[8, 8, 28, 28]])),
    ("polygon without area", mask([[8, 8, 18, 18, 28, 28]])),
    ("self-crossing polygon", mask([[8, 8, 28, 28, 28, 8, 8, 20]])),
    ("polygon", mask([[8, 8, 28, 8, 28]])),
    ("polygon", mask("text")),
    ("polygon outside", mask([[800, 800, 900, 800, 900, 900]])),
    ("run lengths size", mask({**RLE, "size": [32, 128]})),
    ("run lengths", mask({**RLE, "counts": "~~"})),
    ("run lengths", mask({"size": ["a", None], "counts": [1]})),
    ("run lengths", mask({"counts": [1]})),
    ("tiny mask", mask([[8, 8, 8.05, 8, 8.05, 8.05]])),
    ("object without mask", mask([])),
    ("no masks", boxes_alone),
    ("only crowds", crowds),
    ("picture of crowds", crowds),
    ("crowd without area", annotation(iscrowd=1, area=0)),
    ("no objects", lambda content: content["annotations"].clear()),
    ("picture without objects", lambda content: content["annotations"].clear()),
    ("many objects", lambda content: content["annotations"].extend(square(i, 1) for i in range(50, 150))),
    ("class name", category(name="")),
    ("similar class names", category(name=" Cat")),
    ("categories differ", category(name="wolf")),
    ("class without examples", lambda content: content["categories"].append({"id": 3, "name": "cow"})),
    ("keypoint schemes differ", lambda content: content.update(categories=KEYPOINTS)),
    ("annotation file", lambda content: content.pop("categories")),
    ("annotation file", lambda content: content["annotations"].append(7)),
]


@pytest.mark.parametrize(("kind", "fault"), FAULTS, ids=[f"{i}-{kind}" for i, (kind, _) in enumerate(FAULTS)])
def test_names_a_seeded_fault(data, contents, kind, fault):
    fault(contents["train"])
    assert kind in kinds(data, contents)


ABOUT_ALL = ("no masks", "only crowds", "picture of crowds", "no objects", "picture without objects")
ABOUT_FILES = ("annotation file", "keypoint schemes differ")


def test_names_all_faults_of_one_data_set(data):
    """Each fault is in a picture, an annotation or a category of its own, but those of the whole file."""
    contents, seeded = {}, set()
    categories = [{"id": id_, "name": name} for id_, name in enumerate(("cat", *"abcdefgh"), 10)]
    for number, (split, count) in enumerate({"train": len(FAULTS), "val": 9}.items()):
        ids = range(1, count + 1)
        for id_ in ids:
            picture(1000 * number + id_).save(data / split / f"{id_}.png")
        images = [{"id": i, "file_name": f"{i}.png", "height": SIZE, "width": SIZE} for i in ids]
        annotations = [square(i, i, category_id=10 + i % 9) for i in ids]
        contents[split] = copy.deepcopy(
            {"images": images, "annotations": annotations, "categories": categories}
        )
    for kind, fault in FAULTS:
        if kind not in (*ABOUT_ALL, *ABOUT_FILES):
            fault(contents["train"])
            seeded.add(kind)
            for entries in contents["train"].values():
                entries.append(entries.pop(0))  # the next fault is in other entries
    assert len(seeded) > 30 and seeded <= kinds(data, contents)


def test_names_classes_of_one_split(data, contents):
    for one in contents["val"]["annotations"]:
        one["category_id"] = 1
    assert kinds(data, contents) == {"class in some splits"}
    contents["train"], contents["val"] = contents["val"], contents["train"]
    assert kinds(data, contents) == {"class not trained"}


def test_every_split_is_compared_with_the_first(data, contents):
    """Of three splits, the third alone deviates: its table, and classes that it lacks."""
    (data / "test").mkdir()
    for i in (1, 2, 3):
        picture(20 + i).save(data / "test" / f"{i}.png")
    contents["test"] = copy.deepcopy(contents["val"])
    assert kinds(data, contents) == set()
    for one in contents["test"]["annotations"]:
        one["category_id"] = 2
    contents["test"]["categories"][0]["name"] = "wolf"
    write(data, contents)
    report = check(data)
    assert set(report.kinds) == {"categories differ", "class in some splits", "class without examples"}
    [differ] = report.kinds["categories differ"].examples
    assert differ.message == "the category 1 is 'cat' in train and 'wolf' in test"
    [lacking] = report.kinds["class in some splits"].examples
    assert lacking.message == (
        "the class 'cat' has 3 annotations in train and 3 annotations in val, but none in test"
    )


def test_keypoints_of_another_number(data, contents):
    for content in contents.values():
        content["categories"][0]["keypoints"] = ["ear", "nose"]
    contents["train"]["annotations"][0]["keypoints"] = [1, 2, 2]
    assert "keypoints" in kinds(data, contents)


def test_names_damaged_pictures(data, contents):
    large = Image.fromarray(np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), np.uint8))
    large.save(data / "train" / "1.png", "JPEG")
    bytes_ = (data / "train" / "1.png").read_bytes()
    (data / "train" / "1.png").write_bytes(bytes_[: len(bytes_) // 2])
    (data / "train" / "2.png").write_bytes(b"")
    assert kinds(data, contents) == {"truncated picture", "unreadable picture"}


def test_names_pictures_stored_sideways(data, contents):
    sideways = Image.new("RGB", (48, SIZE))
    exif = sideways.getexif()
    exif[0x0112] = 6
    sideways.paste(picture(5).convert("RGB").crop((0, 0, 48, SIZE)))
    sideways.save(data / "train" / "1.png", exif=exif)
    contents["train"]["images"][0] |= {"width": 48, "height": SIZE}
    assert "picture orientation" in kinds(data, contents)
    contents["train"]["images"][0] |= {"width": SIZE, "height": 48}
    assert "picture orientation" not in kinds(data, contents)
    picture(5).save(data / "train" / "1.png", exif=exif)
    contents["train"]["images"][0] |= {"width": SIZE, "height": SIZE}
    assert "turned picture" in kinds(data, contents)


def test_names_equal_pictures(data, contents):
    (data / "train" / "1.png").write_bytes((data / "train" / "2.png").read_bytes())
    (data / "val" / "1.png").write_bytes((data / "train" / "3.png").read_bytes())
    assert kinds(data, contents) == {"duplicate picture", "picture in both splits"}


def test_names_pictures_that_are_alike(data, contents):
    picture(2).convert("RGB").save(data / "train" / "1.png", "JPEG", quality=95)
    picture(3).convert("RGB").save(data / "val" / "1.png", "JPEG", quality=95)
    assert kinds(data, contents) == {"near duplicate picture", "near duplicate in both splits"}


def test_names_unusual_grey_levels(data, contents):
    Image.fromarray(np.array(picture(1)).astype(np.uint16) * 16).save(data / "train" / "1.png")
    Image.fromarray(100 + np.array(picture(2)) // 32).save(data / "train" / "2.png")
    write(data, contents)
    report = check(data)
    assert report.kinds["grey levels"].count == 2
    assert report.clean


def test_all_faults_are_listed_with_counts_and_places(data, contents):
    for one in contents["train"]["annotations"]:
        one["bbox"] = [8, 8, 0, 0]
    contents["val"]["images"][2]["file_name"] = "gone.png"
    write(data, contents)
    report = check(data)
    assert report.kinds["empty box"].count == 6
    assert len(report.kinds["empty box"].examples) == 5
    first = report.kinds["empty box"].examples[0].where
    assert (first.image, first.annotation) == (1, 2)
    assert report.kinds["missing picture"].examples[0].where.image == 3
    assert [kind for kind, _ in report.ordered()] == ["missing picture", "empty box"]


def test_hostile_values_end_in_findings(data, contents):
    contents["train"]["annotations"][0] = {
        "id": [],
        "image_id": {},
        "category_id": [1],
        "bbox": "x",
        "area": {},
    }
    contents["train"]["annotations"][1] |= {"iscrowd": [], "keypoints": 3, "segmentation": [[], None, [[1]]]}
    contents["train"]["images"][0] |= {"id": None, "file_name": "\x1b[31m\0", "height": -(10**400)}
    contents["train"]["categories"][0] |= {"id": True, "name": ["x"], "keypoints": 7}
    assert "unsafe file name" in kinds(data, contents)


@pytest.mark.parametrize("text", ["", "[", "[" * 100_000, "[]", '{"images": 1e999}'])
def test_a_file_that_is_no_annotation_file(data, contents, text):
    write(data, contents)
    (data / "annotations" / "instances_train.json").write_text(text)
    assert "annotation file" in check(data).kinds


def test_a_split_without_pictures(data, contents):
    write(data, contents)
    (data / "val").rename(data / "other")
    (data / "train").rename(data / "elsewhere")
    assert "split without pictures" in check(data).kinds
    (data / "annotations" / "instances_val.json").unlink()
    (data / "elsewhere").rename(data / "train")
    assert set(check(data).kinds) == {"no validation split"}


def test_the_quick_check_decodes_no_picture(data, contents, monkeypatch):
    contents["train"]["annotations"][0]["bbox"] = [8, 8, -1, 5]
    contents["train"]["images"][1]["width"] = 50
    (data / "train" / "3.png").write_bytes(b"")
    write(data, contents)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("decoded"))
    found = {"negative box", "picture size", "unreadable picture"}
    assert set(check_quickly(data).kinds) == found


def test_a_summary_has_the_worst_kinds_first():
    kinds = ["turned picture", *["empty box"] * 3, "negative box", "box outside", "corner box", "no masks"]
    kinds += ["flat polygon", "grey levels"]
    lines = Report([finding(kind, Where("a.json"), "m") for kind in kinds]).summary("my data").splitlines()
    assert lines[0] == "1 error, 7 warnings, 2 notes; maskrcnn check 'my data' lists all:"
    assert lines[1].startswith("  error: negative box (1): Write the box as x, y, width, height")
    assert [line.split(":")[1].split(" (")[0].strip() for line in lines[2:7]] == [
        "corner box", "box outside", "empty box", "flat polygon", "no masks",
    ]  # fmt: skip
    assert "empty box (3)" in lines[4] and lines[7:] == ["  and 2 kinds more"]
    assert Report().summary("my data") == ""


def test_a_folder_without_data_set(tmp_path):
    with pytest.raises(FileNotFoundError, match="no annotation file"):
        check(tmp_path)


def test_every_kind_has_a_mend():
    for kind in KINDS:
        assert finding(kind, Where("file"), "text").mend.endswith(".")


def test_report_as_json(tmp_path):
    Report([finding("empty box", Where("a.json", 1, {"x": 1}), "m")]).write(tmp_path / "r.json")
    content = json.loads((tmp_path / "r.json").read_text())
    assert content["clean"] is False
    assert content["findings"][0]["count"] == 1
    assert content["findings"][0]["examples"][0]["where"]["image"] == 1
