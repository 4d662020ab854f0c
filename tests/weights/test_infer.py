"""The recipe of a network is inferred from the names and shapes of its weights, in each layout."""

import pytest
import torch

from maskrcnn import recipes
from maskrcnn.network import resnets
from maskrcnn.plain import options_of
from maskrcnn.weights.infer import LIBRARY_DEFAULTS, backbone_defaults, infer_recipe
from maskrcnn.weights.layouts import DETECTRON2, TORCHVISION, layout_of, to_native

LSJ = {
    "body.norm": "batch",
    "pyramid.norm": "batch",
    "boxes.norm": "batch",
    "masks.norm": "batch",
    "boxes.head": "conv",
    "proposals.convolutions": 2,
}
X101 = {"input.std": (57.375, 57.12, 58.395)}
PEOPLE = {"masks": None, "keypoints.count": 17}


def in_layout(layout, recipe, num_classes, **arguments):
    """The names and shapes of a network in a layout, without memory."""
    with torch.device("meta"):
        model = recipes.build(recipe, num_classes, {**arguments})
    return layout.from_native(model.state_dict())


def of_recipe(recipe, arguments):
    """The options that the recipe has; none of masks where there are none; keypoints with their channels."""
    known = options_of(recipes.options_of_recipe(recipe))
    if "masks" in arguments:
        known = [name for name in known if not name.startswith("masks.")]
    channels = {"keypoints.channels": 512} if "keypoints.count" in arguments else {}
    return {name: value for name, value in arguments.items() if name in known} | channels


@pytest.mark.parametrize(
    ("recipe", "num_classes", "arguments"),
    [
        ("resnet50_fpn", 90, {}),
        ("resnet50_fpn", 2, {"masks": None}),
        ("resnet50_fpn", 1, PEOPLE),
        ("resnet50_fpn", 90, LSJ),
        ("resnet50_fpn", 4, {**LSJ, "masks": None}),
        ("resnet18_fpn", 3, {"pyramid.channels": 64, "masks.channels": 64, "boxes.hidden": 128}),
        ("resnet34_fpn", 3, {}),
        ("resnext101_fpn", 5, {}),
        ("resnext101_64x4d_fpn", 5, {}),
    ],
)
def test_networks_of_torchvision(recipe, num_classes, arguments):
    weights = in_layout(TORCHVISION, recipe, num_classes, **arguments)
    assert layout_of(weights) is TORCHVISION
    inferred = infer_recipe(to_native(weights), "torchvision")
    expected = of_recipe(recipe, LIBRARY_DEFAULTS["torchvision"] | arguments)
    assert inferred == (recipe, expected, num_classes)


@pytest.mark.parametrize(
    ("recipe", "num_classes", "arguments"),
    [
        ("resnet50_fpn", 80, {}),
        ("resnet101_fpn", 80, {"masks": None}),
        ("resnext101_fpn", 80, X101),
        ("resnext101_fpn", 1, PEOPLE | X101),
        ("resnet50_c4", 80, {}),
        ("resnet101_c4", 80, {"masks": None}),
        ("resnet50_dc5", 80, {}),
        ("resnet101_dc5", 80, {}),
        ("resnet50_fpn", 8, {}),
        ("resnet101_fpn", 1230, {}),
        ("resnet101_fpn", 80, LSJ),
        (
            "resnet50_fpn",
            80,
            {"body.norm": "group", "pyramid.norm": "group", "masks.norm": "group"},
        ),
        ("resnet50_fpn", 7, {"masks.coding": "class_agnostic"}),
    ],
)
def test_networks_of_detectron2(recipe, num_classes, arguments):
    weights = in_layout(DETECTRON2, recipe, num_classes, **arguments)
    assert layout_of(weights) is DETECTRON2
    inferred = infer_recipe(to_native(weights), "detectron2")
    expected = {
        name: value
        for name, value in of_recipe(recipe, LIBRARY_DEFAULTS["detectron2"] | arguments).items()
        if value is not False
    }
    assert inferred == (recipe, expected, num_classes)


def test_pixel_constants_in_the_file_replace_the_defaults():
    weights = in_layout(DETECTRON2, "resnet50_fpn", 3)
    weights |= {
        "pixel_mean": torch.tensor([123.675, 116.28, 103.53])[:, None, None],
        "pixel_std": torch.ones(3, 1, 1),
    }
    arguments = infer_recipe(to_native(weights), "detectron2").arguments
    assert arguments["input.mean"] == (123.675, 116.28, 103.53) and "input.bgr" not in arguments


def test_four_channels():
    weights = in_layout(TORCHVISION, "resnet18_fpn", 3, **{"input.channels": 4})
    assert infer_recipe(to_native(weights), "torchvision").arguments["input.channels"] == 4


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda w: w.pop("roi_heads.box_predictor.cls_score.weight"), "it has no box predictor"),
        (lambda w: w.pop("backbone.bottom_up.res2.0.conv2.weight"), "which none of the backbones has"),
    ],
)
def test_a_network_that_no_recipe_builds_is_refused(change, sentence):
    weights = in_layout(DETECTRON2, "resnet50_fpn", 3)
    change(weights)
    with pytest.raises(ValueError, match=sentence):
        infer_recipe(to_native(weights), "detectron2")


def test_arguments_of_caffe2_backbones():
    with torch.device("meta"):
        msra, fair = resnets.resnet50().state_dict(), resnets.resnext101().state_dict()
    assert backbone_defaults(msra)["body.stride_in_1x1"] and backbone_defaults(msra)["input.bgr"]
    assert "body.stride_in_1x1" not in backbone_defaults(fair)
    assert backbone_defaults(fair)["input.std"] == X101["input.std"]
