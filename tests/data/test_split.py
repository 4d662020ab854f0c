import json

import numpy as np
import pytest
from PIL import Image

from maskrcnn.data.dataset import Dataset
from maskrcnn.data.readers.coco import read_coco
from maskrcnn.data.split import Subset, draw_folds, draw_validation, groups_of, validation_share


def noise(seed):
    cells = np.random.default_rng(seed).integers(0, 256, (8, 9), np.uint8)
    return Image.fromarray(cells).resize((36, 32), Image.Resampling.NEAREST).convert("RGB")


@pytest.fixture
def data(tmp_path):
    """Write pictures, by name, with objects of the given labels; return the data set."""

    def write(pictures, draw=noise):
        images, annotations = [], []
        for number, (name, labels) in enumerate(pictures.items(), start=1):
            draw(number).save(tmp_path / name)
            images.append({"id": number, "file_name": name, "height": 32, "width": 36})
            for label in labels:
                entry = {"id": len(annotations) + 1, "image_id": number, "category_id": label, "iscrowd": 0}
                annotations.append(entry | {"bbox": [2, 2, 9, 9], "segmentation": [[2, 2, 11, 2, 11, 11]]})
        categories = [{"id": label, "name": f"class {label}"} for label in (1, 2, 3)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (tmp_path / "a.json").write_text(json.dumps(content))
        return read_coco(tmp_path / "a.json", tmp_path)

    return write


def test_share_by_hand():
    assert [validation_share(count) for count in (10, 2500, 4000, 4999)] == [0.2, 0.2, 0.125, 500 / 4999]
    assert [validation_share(count) for count in (5000, 25_000, 50_000, 10**6)] == [0.1, 0.1, 0.05, 0.01]


def test_each_class_gives_its_share_and_the_rarest_stays_in_training(data):
    labels = [[1, 2] if i < 10 else [1] for i in range(40)]
    labels[39] = [1, 3]
    dataset = data({f"{i:03}x.png": of for i, of in enumerate(labels)})
    chosen = draw_validation(dataset, seed=0)
    assert chosen == sorted(set(chosen)) and 39 not in chosen
    assert len(chosen) == 8 and sum(i < 10 for i in chosen) == 2  # a fifth of all, a fifth of class 2
    assert draw_validation(dataset, seed=0) == chosen != draw_validation(dataset, seed=1)


def test_pictures_without_objects_give_their_share(data):
    dataset = data({f"{i:03}x.png": [1] if i < 10 else [] for i in range(30)})
    chosen = draw_validation(dataset, seed=0)
    assert sum(i < 10 for i in chosen) == 2 and len(chosen) == 6


def test_copies_and_tiles_stay_together(data):
    names = [f"{name}_jpg.rf.{n:032x}.png" for name in "abc" for n in (1, 2)]
    names += [f"{name}_{row}_{column}.png" for name in "de" for row, column in ((0, 0), (0, 512))]
    groups = groups_of(data({name: [1] for name in names}))
    assert groups.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    chosen = set(draw_validation(data({name: [1] for name in names}), seed=3))
    assert chosen and all((i in chosen) == (i ^ 1 in chosen) for i in range(10))


def test_near_duplicates_stay_together(data, tmp_path):
    dataset = data({f"{name}.png": [1] for name in "abcdef"})
    assert len(set(groups_of(dataset).tolist())) == 6
    copy = np.array(noise(2)).astype(np.int16) + np.random.default_rng(0).integers(-3, 4, (32, 36, 1))
    Image.fromarray(copy.clip(0, 255).astype(np.uint8)).save(tmp_path / "e.png")  # noise on the second
    groups = groups_of(dataset)
    assert groups[4] == groups[1] and len(set(groups.tolist())) == 5


def test_a_camera_that_always_shows_the_same_scene_does_not_prevent_a_split(data):
    dataset = data({f"frame{i}.png": [1] for i in range(10)}, draw=lambda number: noise(0))
    assert len(set(groups_of(dataset).tolist())) == 10 and len(draw_validation(dataset, seed=0)) == 2


def test_even_and_unreadable_pictures_are_not_taken_for_duplicates(data, tmp_path):
    dataset = data({f"{name}.png": [1] for name in "abcd"}, draw=lambda number: Image.new("RGB", (36, 32)))
    (tmp_path / "c.png").write_bytes(b"no picture")
    assert len(set(groups_of(dataset).tolist())) == 4


def test_one_picture_is_not_held_back_and_of_two_one_is(data):
    assert draw_validation(data({"a.png": [1]}), seed=0) == []
    assert len(draw_validation(data({"a.png": [1], "b.png": [1]}), seed=0)) == 1


def test_folds_hold_each_picture_once_and_rare_classes_are_spread(data):
    labels = [[1, 2] if i < 4 else [1] if i < 11 else [] for i in range(13)]
    labels[12] = [3]
    dataset = data({f"{i:03}x.png": of for i, of in enumerate(labels)})
    folds = draw_folds(dataset, 4, seed=0)
    assert sorted(i for fold in folds for i in fold) == list(range(13))
    assert sorted(map(len, folds)) == [3, 3, 3, 4]
    assert [sum(i < 4 for i in fold) for fold in folds] == [1, 1, 1, 1]  # class 2
    assert draw_folds(dataset, 4, seed=0) == folds != draw_folds(dataset, 4, seed=1)


def test_folds_keep_groups_together_and_none_is_empty(data):
    names = [f"{name}_{row}_0.png" for name in "abcd" for row in (0, 512, 1024)]
    dataset = data({name: [1] for name in names})
    folds = draw_folds(dataset, 4, seed=2)
    assert sorted(folds) == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]
    for count in (1, 5):
        with pytest.raises(ValueError, match=rf"--folds {count}: expected from 2 to 4"):
            draw_folds(dataset, count, seed=2)


def test_a_subset_is_a_data_set(data):
    dataset = data({"a.png": [1], "b.png": [], "c.png": [2, 3]})
    subset = Subset(dataset, [2, 1])
    assert isinstance(subset, Dataset) and len(subset) == 2
    assert [path.name for path in subset.paths] == ["c.png", "b.png"] and subset.image_ids.tolist() == [3, 2]
    assert subset.objects(0).labels.tolist() == [1, 2] and len(subset.objects(1).labels) == 0
    truth = subset.truth()
    assert {image["id"] for image in truth["images"]} == {2, 3}
    assert [entry["image_id"] for entry in truth["annotations"]] == [3, 3]
    assert truth["categories"] == dataset.truth()["categories"]
