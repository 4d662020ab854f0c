"""Before the first step: the recipe's arguments, and initial weights by class."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from maskrcnn import recipes
from maskrcnn.data.synthetic import synthetic_dataset
from maskrcnn.training.loop import train
from maskrcnn.training.settings import Settings
from maskrcnn.training.setup import initialise, new_run, recipe_arguments
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
