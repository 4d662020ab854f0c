"""`benchmarks/plain_data.py`: the same pictures and masks in the forms that other tools read."""

import json

import numpy as np
import pytest
from PIL import Image

from maskrcnn.data.folder import read_split
from maskrcnn.data.synthetic import synthetic_dataset
from maskrcnn.evaluation.coco import coco_metrics
from maskrcnn.masks.polygons import polygons
from maskrcnn.masks.rle import decode


@pytest.fixture
def plain(benchmarks):
    import plain_data

    return plain_data


@pytest.fixture
def dataset(tmp_path):
    return read_split(synthetic_dataset(tmp_path / "data", train=4, val=1, size=96), "train")


def filled(ring, size):
    """Fill a ring by the even-odd rule, at the centres of pixels: count the edges to the left of each."""
    y, x = np.mgrid[:size, :size] + 0.5
    inside = np.zeros((size, size), bool)
    for (x0, y0), (x1, y1) in zip(ring, np.roll(ring, -1, 0), strict=True):
        if y0 != y1:
            inside ^= ((y0 <= y) != (y1 <= y)) & (x0 + (y - y0) / (y1 - y0) * (x1 - x0) <= x)
    return inside


def test_one_ring_has_the_holes_and_all_parts(plain):
    mask = np.zeros((40, 40), bool)
    mask[5:20, 5:20], mask[10:14, 10:14], mask[25:35, 22:38], mask[2:4, 30:32] = True, False, True, True
    assert (filled(plain.one_ring(polygons(mask)), 40) == mask).all()


def test_labels_of_yolo_are_the_masks(plain, dataset, tmp_path):
    plain.write_plain(dataset, tmp_path / "plain", "train")
    kinds = set()
    for index in range(len(dataset)):
        objects = dataset.objects(index)
        lines = (tmp_path / f"plain/labels/train/{index:06d}.txt").read_text().splitlines()
        assert [int(line.split()[0]) for line in lines] == objects.labels.tolist()
        for line, mask in zip(lines, objects.masks, strict=True):
            ring = np.array(line.split()[1:], float).reshape(-1, 2) * 96
            expected = decode(mask) if isinstance(mask, dict) else filled(mask[0], 96)
            assert (filled(ring, 96) != expected).sum() <= 2  # labels have 6 decimals
            kinds.add(type(mask))
    assert kinds == {dict, list}


def test_annotations_of_coco_are_the_same_objects(plain, dataset, tmp_path):
    plain.write_plain(dataset, tmp_path / "plain", "train")
    content = json.loads((tmp_path / "plain/train.json").read_text())
    ids = [image["file_name"] for image in content["images"]]
    assert ids == ["000000.png", "000001.jpg", "000002.png", "000003.jpg"]
    detections = [
        {**entry, "image_id": int(dataset.image_ids[entry["image_id"]]), "score": 0.9}
        | {"category_id": dataset.category_ids[entry["category_id"]], "segmentation": _rle(entry)}
        for entry in content["annotations"]
    ]
    assert coco_metrics(dataset.truth(), detections)["segm"]["AP"] == pytest.approx(100)


def _rle(entry):
    from maskrcnn.evaluation.coco_format import to_rle

    return to_rle(entry, (96, 96))


def test_pictures_are_links_unless_they_need_changing(plain, tmp_path):
    plain_file, turned, deep = (tmp_path / name for name in ("a.jpg", "b.jpg", "c.png"))
    Image.new("RGB", (8, 4)).save(plain_file)
    picture = Image.new("RGB", (8, 4))
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(turned, exif=exif)
    Image.fromarray(np.full((4, 8), 30000, np.uint16)).save(deep)
    written = [
        plain._write_picture(file, tmp_path / f"out{file.stem}", None) for file in (plain_file, turned, deep)
    ]
    assert [file.is_symlink() for file in written] == [True, False, False]
    sizes = [Image.open(file).size for file in written]
    assert sizes == [(8, 4), (4, 8), (8, 4)]
    assert Image.open(written[2]).mode == "RGB" and 100 < np.asarray(Image.open(written[2])).max() < 256
