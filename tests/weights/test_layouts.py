"""Names of other libraries to native names and back, with the rows of the classes in order."""

import pytest
import torch

from maskrcnn import recipes
from maskrcnn.network.mobilenet import MobileNetV2
from maskrcnn.network.norms import batch_norm
from maskrcnn.network.resnets import resnet18, resnet50
from maskrcnn.weights.layouts import DETECTRON2, TORCHVISION, to_native

TINY = {"pyramid.channels": 8, "masks.channels": 8, "boxes.hidden": 8, "body.frozen": ()}
CONV = {
    "boxes.head": "conv",
    "proposals.convolutions": 2,
    "body.norm": "batch",
    "pyramid.norm": "batch",
    "boxes.norm": "batch",
    "masks.norm": "batch",
}


def torchvision_names(depths: list[int], convolutions: int, projected: set[int]) -> set[str]:
    """The names of torchvision's ResNet, foreign down from its structure."""
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    names = {"conv1.weight", *(f"bn1.{v}" for v in norm), "fc.weight", "fc.bias"}
    for stage, depth in enumerate(depths, start=1):
        for block in range(depth):
            for i in range(1, convolutions + 1):
                names |= {f"layer{stage}.{block}.conv{i}.weight"}
                names |= {f"layer{stage}.{block}.bn{i}.{v}" for v in norm}
        if stage in projected:
            names |= {f"layer{stage}.0.downsample.0.weight"}
            names |= {f"layer{stage}.0.downsample.1.{v}" for v in norm}
    return names


@pytest.mark.parametrize(
    ("make", "foreign"),
    [
        (resnet18, torchvision_names([2, 2, 2, 2], 2, {2, 3, 4})),
        (resnet50, torchvision_names([3, 4, 6, 3], 3, {1, 2, 3, 4})),
    ],
)
def test_torchvision_resnets_get_native_names(make, foreign):
    with torch.device("meta"):
        native = set(make(norm=batch_norm).state_dict())
    assert set(to_native(dict.fromkeys(foreign, torch.zeros(1)))) == native | {"fc.weight", "fc.bias"}


def test_each_tensor_keeps_its_meaning():
    foreign = ["conv1.weight", "bn1.bias", "layer1.0.bn2.weight", "layer3.0.downsample.1.running_var"]
    native = to_native({name: torch.tensor(float(i)) for i, name in enumerate(foreign)})
    assert {name: int(tensor) for name, tensor in native.items()} == {
        "stem.conv.weight": 0,
        "stem.norm.bias": 1,
        "res2.0.norm2.weight": 2,
        "res4.0.shortcut.norm.running_var": 3,
    }


@pytest.mark.parametrize("body", [MobileNetV2, resnet18])
def test_native_names_stay(body):
    state_dict = body().state_dict()
    assert list(to_native(state_dict)) == list(state_dict)
    assert list(to_native({f"module.{name}": x for name, x in state_dict.items()})) == list(state_dict)


@pytest.mark.parametrize("layout", [TORCHVISION, DETECTRON2])
@pytest.mark.parametrize("arguments", [{}, CONV, {"masks": None, "keypoints.count": 3}])
def test_the_inverse_is_exact(layout, arguments):
    torch.manual_seed(0)
    native = recipes.build("resnet18_fpn", 3, {**TINY, **arguments}).state_dict()
    read = to_native(layout.from_native(native))
    assert read.keys() == {name for name in native if not name.startswith("normalise.")}
    assert all(torch.equal(tensor, native[name]) for name, tensor in read.items())


def test_torchvision_has_background_first():
    native = {
        "box_branch.cls_score.weight": torch.tensor([[1.0], [2.0], [0.0]]),
        "box_branch.bbox_pred.bias": torch.arange(1.0, 9.0),
        "branches.masks.head.logits.bias": torch.tensor([5.0, 6.0]),
        "backbone.lateral.0.conv.bias": torch.tensor([7.0, 8.0, 9.0]),
    }
    foreign = TORCHVISION.from_native(native)
    assert {name: tensor.flatten().tolist() for name, tensor in foreign.items()} == {
        "roi_heads.box_predictor.cls_score.weight": [0, 1, 2],
        "roi_heads.box_predictor.bbox_pred.bias": [0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8],
        "roi_heads.mask_predictor.mask_fcn_logits.bias": [0, 5, 6],
        "backbone.fpn.inner_blocks.0.0.bias": [7, 8, 9],
    }


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("backbone.fpn.inner_blocks.2.bias", "backbone.fpn.inner_blocks.2.0.bias"),
        ("backbone.fpn.layer_blocks.3.weight", "backbone.fpn.layer_blocks.3.0.weight"),
        ("rpn.head.conv.weight", "rpn.head.conv.0.0.weight"),
        ("roi_heads.mask_head.mask_fcn3.bias", "roi_heads.mask_head.2.0.bias"),
    ],
)
def test_older_names_of_torchvision_mean_the_same(old, new):
    detector = {"roi_heads.box_predictor.cls_score.weight": torch.zeros(2, 1)}
    assert list(to_native({**detector, old: torch.zeros(2)})) == list(
        to_native({**detector, new: torch.zeros(2)})
    )


def test_a_network_that_the_other_library_lacks_is_refused():
    with pytest.raises(ValueError, match=r"torchvision has no network with backbone\.body\.features"):
        TORCHVISION.from_native(
            recipes.build(
                "mobilenet_v2_fpn", 2, {"pyramid.channels": 8, "masks.channels": 8, "boxes.hidden": 8}
            ).state_dict()
        )


def test_caffe2_names_and_norms_without_statistics():
    foreign = {
        "conv1_w": torch.full((2,), 1.0),
        "res_conv1_bn_s": torch.full((2,), 2.0),
        "res_conv1_bn_b": torch.full((2,), 3.0),
        "res2_0_branch2a_w": torch.full((2,), 4.0),
        "res2_0_branch2a_w_momentum": torch.full((2,), 4.5),
        "res4_22_branch2c_bn_gamma": torch.full((2,), 5.0),
        "res3_0_branch1_bn_beta": torch.full((2,), 6.0),
        "res3_0_branch1_bn_running_mean": torch.full((2,), 7.0),
        "fc1000_w": torch.full((2,), 8.0),
    }
    native = {name: tensor[0].item() for name, tensor in to_native(foreign).items()}
    unit = pytest.approx(1 - 1e-5)  # with the norm's epsilon exactly a scale and a shift
    assert native == {
        "stem.conv.weight": 1,
        "stem.norm.weight": 2,
        "stem.norm.bias": 3,
        "stem.norm.running_mean": 0,
        "stem.norm.running_var": unit,
        "res2.0.conv1.weight": 4,
        "res4.22.norm3.weight": 5,
        "res3.0.shortcut.norm.bias": 6,
        "res3.0.shortcut.norm.running_mean": 7,
        "res3.0.shortcut.norm.running_var": unit,
        "fc1000_w": 8,
    }


@pytest.mark.parametrize("layout", [TORCHVISION, DETECTRON2])
def test_box_predictors_have_the_names_of_the_other_library(layout):
    native = {f"box_branch.{name}.bias": torch.zeros(12) for name in ("cls_score", "bbox_pred")}
    names = [f"roi_heads.box_predictor.{name}.bias" for name in ("cls_score", "bbox_pred")]
    assert list(layout.from_native(native)) == names
    marker = {"proposal_generator.rpn_head.conv.weight": torch.zeros(1)} if layout is DETECTRON2 else {}
    assert list(to_native(dict.fromkeys(names, torch.zeros(12)) | marker))[:2] == list(native)
