"""Before the first step: the recipe's arguments, and initial weights by class."""

import pytest
import torch

from maskrcnn import recipes
from maskrcnn.training.settings import Settings
from maskrcnn.training.setup import initialise, new_run, recipe_arguments
from maskrcnn.weights.init import Origin

TINY = {"channels": 8, "hidden": 8, "frozen": ()}


def new_model(tmp_path, recipe="resnet18_fpn", **arguments):
    return new_run(tmp_path, recipe, arguments, Settings()).trained


def origin(**arguments):
    return Origin({}, "resnet18_fpn", arguments, ("cat",))


def test_from_scratch_norms_learn_unless_told(tmp_path):
    assert recipe_arguments(new_model(tmp_path), 0, None) == {"norm": "group", "head_norm": "group"}
    assert recipe_arguments(new_model(tmp_path, norm="frozen"), 0, None)["norm"] == "frozen"


def test_weights_of_other_origin_keep_the_recipes_norms(tmp_path):
    assert recipe_arguments(new_model(tmp_path), 0, Origin({}, None, {}, ())) == {}


def test_weights_bring_the_arguments_that_they_were_trained_with(tmp_path):
    start = origin(norm="batch", channels=64)
    assert recipe_arguments(new_model(tmp_path), 0, start) == {"norm": "batch", "channels": 64}
    assert recipe_arguments(new_model(tmp_path, channels=32), 0, start)["channels"] == 32


def test_a_recipe_that_was_chosen_has_its_own_branches(tmp_path):
    start = origin(masks=False, bgr=True)
    assert recipe_arguments(new_model(tmp_path), 0, start) == {"bgr": True}
    assert recipe_arguments(new_model(tmp_path, None), 0, start) == {"masks": False, "bgr": True}


@pytest.mark.parametrize(("recipe", "expected"), [("resnet18_fpn", 2), ("resnet18_fpn_box", None)])
def test_keypoints_of_the_data_are_learnt_unless_the_form_says_otherwise(tmp_path, recipe, expected):
    assert recipe_arguments(new_model(tmp_path, recipe), 2, None).get("keypoints") == expected
    assert recipe_arguments(new_model(tmp_path, keypoints=0), 2, None)["keypoints"] == 0


def test_rows_go_where_their_class_is():
    torch.manual_seed(0)
    source, model = recipes.resnet18_fpn(2, **TINY), recipes.resnet18_fpn(3, **TINY)
    start = Origin(source.state_dict(), "resnet18_fpn", TINY, ("cat", "dog"))
    text = initialise(model, ("bird", "hound", "cat"), start, {"hound": "dog"})
    assert text.splitlines()[-3:] == [
        "class bird   begins anew",
        "class hound  from dog",
        "class cat    from cat",
    ]
    ours, theirs = model.box_branch.cls_score.weight, source.box_branch.cls_score.weight
    assert torch.equal(ours[1:], theirs[[1, 0, 2]])
    assert torch.equal(model.backbone.body.stem.conv.weight, source.backbone.body.stem.conv.weight)
