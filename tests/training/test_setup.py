"""Before the first step: the recipe's arguments, and initial weights by class."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image

from maskrcnn import recipes
from maskrcnn.data.folder import read_split
from maskrcnn.data.synthetic import synthetic_dataset
from maskrcnn.messages import Faults
from maskrcnn.training.loop import train
from maskrcnn.training.settings import Settings
from maskrcnn.training.setup import check_data, folds_hint, initialise, new_run, read_data, recipe_arguments
from maskrcnn.weights.init import InitialWeights
from maskrcnn.weights.model_checkpoint import read_model

TINY = {"pyramid.channels": 8, "masks.channels": 8, "boxes.hidden": 8, "body.frozen": ()}


def new_model(tmp_path, recipe="resnet18_fpn", **arguments):
    return new_run(tmp_path, recipe, arguments, Settings()).trained


def origin(**arguments):
    return InitialWeights({}, "resnet18_fpn", arguments, ("cat",))


def test_from_scratch_norms_learn_unless_told(tmp_path):
    assert recipe_arguments("resnet18_fpn", new_model(tmp_path), 0, None) == {
        "body.norm": "group",
        "pyramid.norm": "group",
        "boxes.norm": "group",
        "masks.norm": "group",
    }
    assert (
        recipe_arguments("resnet18_fpn", new_model(tmp_path, **{"body.norm": "frozen"}), 0, None)["body.norm"]
        == "frozen"
    )


def test_weights_of_other_origin_keep_the_recipes_norms(tmp_path):
    assert recipe_arguments("resnet18_fpn", new_model(tmp_path), 0, InitialWeights({}, None, {}, ())) == {}


def test_weights_bring_the_arguments_that_they_were_trained_with(tmp_path):
    start = origin(**{"body.norm": "batch", "pyramid.channels": 64, "masks.channels": 64})
    assert recipe_arguments("resnet18_fpn", new_model(tmp_path), 0, start) == {
        "body.norm": "batch",
        "pyramid.channels": 64,
        "masks.channels": 64,
    }
    assert (
        recipe_arguments("resnet18_fpn", new_model(tmp_path, **{"pyramid.channels": 32}), 0, start)[
            "pyramid.channels"
        ]
        == 32
    )


def test_a_recipe_that_was_chosen_has_its_own_branches(tmp_path):
    start = origin(**{"masks": None, "input.bgr": True})
    assert recipe_arguments("resnet18_fpn", new_model(tmp_path), 0, start) == {"input.bgr": True}
    assert recipe_arguments("resnet18_fpn", new_model(tmp_path, None), 0, start) == {
        "masks": None,
        "input.bgr": True,
    }


@pytest.mark.parametrize(("recipe", "expected"), [("resnet18_fpn", 2), ("resnet18_fpn_box", None)])
def test_keypoints_of_the_data_are_learnt_unless_the_form_says_otherwise(tmp_path, recipe, expected):
    assert recipe_arguments(recipe, new_model(tmp_path, recipe), 2, None).get("keypoints.count") == expected
    assert (
        recipe_arguments("resnet18_fpn", new_model(tmp_path, **{"keypoints.count": 0}), 2, None)[
            "keypoints.count"
        ]
        == 0
    )


def test_rows_go_where_their_class_is():
    torch.manual_seed(0)
    source, model = recipes.build("resnet18_fpn", 2, {**TINY}), recipes.build("resnet18_fpn", 3, {**TINY})
    start = InitialWeights(source.state_dict(), "resnet18_fpn", TINY, ("cat", "dog"))
    text = initialise(model, ("bird", "hound", "cat"), start, {"hound": "dog"})
    assert text.splitlines()[-3:] == [
        "class bird   newly initialised",
        "class hound  copied from dog",
        "class cat    copied from cat",
    ]
    ours, theirs = model.box_branch.cls_score.weight, source.box_branch.cls_score.weight
    assert torch.equal(ours[1:], theirs[[1, 0, 2]])
    assert torch.equal(model.backbone.body.stem.conv.weight, source.backbone.body.stem.conv.weight)


def test_the_white_of_16_bit_pictures_is_kept(tmp_path):
    """A resumed training and a prediction scale pictures as the training did."""
    data = synthetic_dataset(tmp_path / "data", train=2, val=1, size=64)
    for path in (data / "train").glob("*.jpg"):
        grey = np.asarray(Image.open(path).convert("L")).astype(np.uint16) * 16  # 12 bits
        path.unlink()
        Image.fromarray(grey).save(path.with_suffix(".png"))
    annotations = data / "annotations" / "instances_train.json"
    annotations.write_text(annotations.read_text().replace(".jpg", ".png"))
    weights = train(
        data,
        recipe="resnet18_fpn",
        recipe_arguments=TINY,
        output=tmp_path / "run",
        device="cpu",
        settings=Settings.of(steps=1, batch_size=1, short_sides=None, workers=0, eval_every=0),
    )
    assert read_model(weights).white == 4095


def test_data_without_an_object_to_learn_from_are_refused(tmp_path):
    data = synthetic_dataset(tmp_path / "data", train=2, val=1, size=64)
    file = data / "annotations" / "instances_train.json"
    content = json.loads(file.read_text())
    for annotation in content["annotations"]:
        annotation["iscrowd"] = 1
    file.write_text(json.dumps(content))
    settings = Settings.of(steps=1, batch_size=1, workers=0, eval_every=0)
    more = {"recipe": "resnet18_fpn", "recipe_arguments": TINY, "device": "cpu", "settings": settings}
    count = len(content["annotations"])
    with pytest.raises(ValueError, match=rf"no objects to learn from: all {count} are crowd regions"):
        train(data, output=tmp_path / "run", **more)
    file.write_text(json.dumps(content | {"annotations": []}))
    with pytest.raises(ValueError, match=r"no objects to learn from$"):
        train(data, output=tmp_path / "run", **more)


def edited(data, split, change):
    """Change the content of an annotation file."""
    file = data / "annotations" / f"instances_{split}.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def test_all_faults_of_all_splits_come_at_once(tmp_path):
    data = synthetic_dataset(tmp_path, train=2, val=2, size=64)
    edited(data, "train", lambda content: content.update(annotations=[]))
    edited(data, "val", lambda content: content["categories"][0].update(name=""))
    with pytest.raises(Faults) as caught:
        read_data(data)
    assert [sentence.partition("instances_")[2] for sentence in caught.value.sentences] == [
        "train.json: there are no objects to learn from",
        "val.json: category 1 has no name",
    ]
    edited(data, "val", lambda content: content["categories"][0].update(name="cube"))
    with pytest.raises(Faults) as caught:
        read_data(data)
    assert "no objects to learn from" in caught.value.sentences[0]
    assert "1 class that" in caught.value.sentences[1] and "cube" in caught.value.sentences[1]


def test_unreadable_pictures_of_both_splits_are_left_out_before_the_training(tmp_path):
    data = synthetic_dataset(tmp_path, train=3, val=2, size=64)
    for path in (data / "train" / "0000.png", data / "val" / "0001.jpg"):
        path.write_bytes(path.read_bytes()[:300])
    with pytest.warns(UserWarning) as caught:
        dataset, validation = read_data(data)
    assert [len(dataset), len(validation)] == [2, 1] and len(caught) == 2
    for path in (data / "train").iterdir():
        path.write_bytes(b"")
    (data / "val" / "0000.png").write_bytes(b"")
    (data / "val" / "0001.jpg").write_bytes(b"")
    with pytest.raises(Faults) as faults:
        read_data(data)
    assert len(faults.value.sentences) == 5


def test_validation_classes_under_other_ids_are_matched_by_name(tmp_path):
    data = synthetic_dataset(tmp_path, train=2, val=2, size=64)
    expected = read_split(data, "val")

    def reverse(content):
        for entry in (*content["categories"], *content["annotations"]):
            key = "category_id" if "category_id" in entry else "id"
            entry[key] = 6 - entry[key]

    edited(data, "val", reverse)
    with pytest.warns(UserWarning, match="4 classes have other category ids"):
        dataset, validation = read_data(data)
    assert validation.category_ids == dataset.category_ids
    for index in range(2):
        assert validation.objects(index).labels.tolist() == expected.objects(index).labels.tolist()
    ids = [
        [one["category_id"] for one in truth["annotations"]]
        for truth in (validation.truth(), expected.truth())
    ]
    assert ids[0] == ids[1]


def test_all_that_does_not_fit_the_network_comes_at_once(tmp_path):
    dataset = read_split(synthetic_dataset(tmp_path / "data", train=1, val=1, size=64), "train")
    run = new_run(tmp_path, "resnet18_fpn_keypoint", {}, Settings())
    names = {"class_names": ("disk", "cube", *dataset.class_names[2:]), "category_ids": dataset.category_ids}
    run = dataclasses.replace(run, trained=dataclasses.replace(run.trained, **names))
    with pytest.raises(Faults) as caught:
        check_data(run, dataset)
    assert (
        "its categories are not those of the training: 2: 'cube', now 'square'" in caught.value.sentences[0]
    )
    assert (
        "the network predicts 17 keypoints" in caught.value.sentences[1] and len(caught.value.sentences) == 2
    )


def test_few_pictures_are_told_of_cross_validation():
    assert "\n7 pictures are few: --folds 5 " in folds_hint(7) and "--folds 3 " in folds_hint(3)
    assert folds_hint(1) == folds_hint(50) == ""
