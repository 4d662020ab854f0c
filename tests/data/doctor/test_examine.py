"""Each kind of fault is seeded in a clean data set, and named; a clean one has none."""

import json

import numpy as np
import pytest
from PIL import Image

from maskrcnn.data.doctor import annotations, examine, pictures, splits
from maskrcnn.data.doctor.annotations import crosses_itself
from maskrcnn.data.doctor.findings import findings_json, findings_text, grouped

RING = [10, 10, 30, 10, 30, 30, 10, 30]


def noise(seed):
    cells = np.random.default_rng(seed).integers(0, 256, (8, 9), np.uint8)
    return Image.fromarray(cells).resize((60, 40), Image.Resampling.NEAREST).convert("RGB")


def content(first):
    images = [{"id": n, "file_name": f"{n}.png", "height": 40, "width": 60} for n in (first, first + 1)]
    objects = [
        {"id": first * 10 + n, "image_id": first + n, "category_id": 1 + n, "bbox": [10, 10, 20, 20]}
        | {"segmentation": [RING], "iscrowd": 0, "area": 400}
        for n in (0, 1)
    ]
    categories = [{"id": 1, "name": "cup"}, {"id": 2, "name": "dog"}]
    return {"images": images, "annotations": objects, "categories": categories}


@pytest.fixture
def data(tmp_path):
    """Write a clean data set, whose training split `spoil` changes; return the findings by kind."""

    def write(spoil=lambda train, folder: None):
        for split, first in (("train", 1), ("val", 3)):
            folder = tmp_path / split
            folder.mkdir()
            for number in (first, first + 1):
                noise(number).save(folder / f"{number}.png")
            one = content(first)
            if split == "train":
                spoil(one, folder)
            (tmp_path / "annotations").mkdir(exist_ok=True)
            (tmp_path / "annotations" / f"instances_{split}.json").write_text(json.dumps(one))
        return grouped(examine.examine(tmp_path))

    return write


def test_a_clean_data_set_has_no_finding(data):
    assert data() == {}


def first(**changes):
    return lambda train, folder: train["annotations"][0].update(changes)


def image(**changes):
    return lambda train, folder: train["images"][0].update(changes)


def more(key, entry):
    return lambda train, folder: train[key].append(entry)


@pytest.mark.parametrize(
    ("kind", "spoil"),
    [
        (annotations.NOT_AN_OBJECT, more("annotations", "x")),
        (annotations.TEXT, first(image_id="1")),
        (annotations.NO_NUMBER, image(height="tall")),
        (annotations.NO_NUMBER, first(id=2**70)),
        (annotations.TWICE, more("images", {"id": 1, "file_name": "2.png", "height": 40, "width": 60})),
        (annotations.UNKNOWN, first(image_id=99)),
        (annotations.UNKNOWN, first(category_id=99)),
        (annotations.FLAG, first(iscrowd=2)),
        (annotations.NO_BOX, first(bbox=None)),
        (annotations.BAD_BOX, first(bbox=[10, 10, 20])),
        (annotations.BAD_BOX, first(bbox=[10, 10, -20, 20])),
        (annotations.EMPTY_BOX, first(bbox=[10, 10, 0, 20], segmentation=None)),
        (annotations.OUTSIDE, first(bbox=[50, 10, 20, 20], segmentation=None)),
        (annotations.MISFIT, first(bbox=[10, 10, 5, 5])),
        (annotations.FLAT, first(segmentation=RING)),
        (annotations.SHORT_RING, first(segmentation=[RING, [1, 1, 2, 2]])),
        (annotations.ODD_RING, first(segmentation=[[*RING, 4]])),
        (annotations.ODD_RING, first(segmentation="brush")),
        (annotations.CROSSING, first(segmentation=[[10, 10, 30, 30, 30, 10, 10, 30]])),
        (annotations.RLE, first(segmentation={"size": [60, 40], "counts": [2400]})),
        (annotations.RLE, first(segmentation={"size": [40, 60], "counts": [7]})),
        (annotations.NO_MASK, first(segmentation=[])),
        (annotations.VANISHING, first(segmentation=[[10, 10, 10.01, 10, 10.01, 30, 10, 30]])),
        (annotations.EMPTY_PICTURES, lambda train, folder: train["annotations"].pop(0)),
        (annotations.ALL_CROWD, first(iscrowd=1)),
        (annotations.NO_EXAMPLE, more("categories", {"id": 3, "name": "cow"})),
        (annotations.NO_NAME, more("categories", {"id": 3, "name": None})),
        (annotations.NAMES, more("categories", {"id": 3, "name": " Cup"})),
        (pictures.ABSENT, lambda train, folder: (folder / "1.png").unlink()),
        (pictures.NO_NAME, image(file_name="../1.png")),
        (pictures.UNREADABLE, lambda train, folder: (folder / "1.png").write_bytes(b"no picture")),
        (
            pictures.UNREADABLE,
            lambda train, folder: (folder / "1.png").write_bytes((folder / "1.png").read_bytes()[:-60]),
        ),
        (pictures.SIZE, image(height=41)),
        (pictures.NO_SIZE, image(height=None, width=None)),
        (pictures.UNLISTED, lambda train, folder: noise(9).save(folder / "9.png")),
        (
            pictures.GREYS,
            lambda train, folder: Image.fromarray(
                np.arange(2400, dtype=np.uint16).reshape(40, 60) % 3 * 1000
            ).save(folder / "1.png"),
        ),
        (splits.COPY, lambda train, folder: noise(1).save(folder / "2.png")),
        (splits.LEAK, lambda train, folder: noise(3).save(folder / "2.png")),
        (splits.CATEGORIES, lambda train, folder: train["categories"][0].update(name="mug")),
        (splits.ONE_SPLIT, lambda train, folder: train["annotations"][0].update(category_id=2)),
    ],
)
def test_each_kind_is_named(data, kind, spoil):
    found = data(spoil)
    assert kind in found, [kind.name for kind in found]
    assert all(finding.place for finding in found[kind])


def test_repeats_and_crowded_pictures(data):
    def spoil(train, folder):
        train["annotations"] += [train["annotations"][0] | {"id": 100 + n} for n in range(110)]

    found = data(spoil)
    assert len(found[annotations.SAME]) == 110
    assert [finding.detail for finding in found[annotations.MANY]] == ["111 objects, 100 are detected"]


def test_keypoints_that_differ(data):
    def spoil(train, folder):
        train["categories"][0]["keypoints"] = ["nose"]
        train["categories"][1]["keypoints"] = ["tail"]

    assert annotations.KEYPOINTS in data(spoil)


@pytest.mark.parametrize(
    ("kind", "box"),
    [(annotations.CORNERS, [10, 10, 30, 30]), (annotations.RELATIVE, [0.2, 0.2, 0.3, 0.5])],
)
def test_boxes_of_another_meaning(data, kind, box):
    found = data(lambda train, folder: [entry.update(bbox=box) for entry in train["annotations"]])
    assert len(found[kind]) == 1


def test_a_picture_that_its_file_turns(data):
    def spoil(train, folder):
        exif = Image.Exif()
        exif[0x0112] = 6
        noise(1).save(folder / "1.jpg", exif=exif)
        train["images"][0]["file_name"] = "1.jpg"

    assert [one.detail for one in data(spoil)[pictures.TURNED]] == [
        "40 x 60 in the annotations, 60 x 40 upright"
    ]


def test_near_duplicates_between_splits(data):
    def spoil(train, folder):
        pixels = np.array(noise(3)).astype(int) + np.random.default_rng(0).integers(-3, 4, (40, 60, 1))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / "2.png")

    found = data(spoil)
    assert len(found[splits.NEAR_LEAK]) == 1 and splits.LEAK not in found


def test_a_file_that_is_no_json_does_not_stop_the_others(data, tmp_path):
    data()
    (tmp_path / "annotations" / "instances_train.json").write_text("{")
    found = grouped(examine.examine(tmp_path))
    assert [finding.place for finding in found[examine.NO_FILE]] == ["annotations/instances_train.json"]


def test_sides_cross_by_hand():
    square = np.array(RING, float).reshape(-1, 2)
    assert not crosses_itself(square) and crosses_itself(square[[0, 2, 1, 3]])


def test_text_and_json_have_all(data):
    groups = data(lambda train, folder: train["annotations"].extend(["x"] * 7))
    text = findings_text(groups)
    assert "error: entry that is no object (7): write each entry as {…}" in text
    assert text.count("annotations[") == 5 and "…" in text.splitlines()[-1]
    [plain] = json.loads(json.dumps(findings_json(groups)))
    assert plain["count"] == 7 == len(plain["places"]) and plain["severity"] == "error"
