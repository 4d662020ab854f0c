"""Names of other libraries: ours from theirs, theirs from ours, the rows of the classes in their order."""

import pytest
import torch

from maskrcnn import recipes
from maskrcnn.network.mobilenet import MobileNetV2
from maskrcnn.network.norms import batch_norm
from maskrcnn.network.resnet import resnet18, resnet50
from maskrcnn.weights.layouts import DETECTRON2, TORCHVISION, to_ours

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
    """The names of torchvision's ResNet, written down from its structure."""
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
    ("make", "theirs"),
    [
        (resnet18, torchvision_names([2, 2, 2, 2], 2, {2, 3, 4})),
        (resnet50, torchvision_names([3, 4, 6, 3], 3, {1, 2, 3, 4})),
    ],
)
def test_torchvision_resnets_get_our_names(make, theirs):
    with torch.device("meta"):
        ours = set(make(norm=batch_norm).state_dict())
    assert set(to_ours(dict.fromkeys(theirs, torch.zeros(1)))) == ours | {"fc.weight", "fc.bias"}


def test_each_tensor_keeps_its_meaning():
    theirs = ["conv1.weight", "bn1.bias", "layer1.0.bn2.weight", "layer3.0.downsample.1.running_var"]
    ours = to_ours({name: torch.tensor(float(i)) for i, name in enumerate(theirs)})
    assert {name: int(tensor) for name, tensor in ours.items()} == {
        "stem.conv.weight": 0,
        "stem.norm.bias": 1,
        "res2.0.norm2.weight": 2,
        "res4.0.shortcut.norm.running_var": 3,
    }


@pytest.mark.parametrize("body", [MobileNetV2, resnet18])
def test_our_own_names_pass_unchanged(body):
    state_dict = body().state_dict()
    assert list(to_ours(state_dict)) == list(state_dict)
    assert list(to_ours({f"module.{name}": x for name, x in state_dict.items()})) == list(state_dict)


@pytest.mark.parametrize("layout", [TORCHVISION, DETECTRON2])
@pytest.mark.parametrize("arguments", [{}, CONV, {"masks": None, "keypoints.count": 3}])
def test_what_is_written_is_read_back_to_the_bit(layout, arguments):
    torch.manual_seed(0)
    ours = recipes.build("resnet18_fpn", 3, {**TINY, **arguments}).state_dict()
    read = to_ours(layout.write(ours))
    assert read.keys() == {name for name in ours if not name.startswith("normalise.")}
    assert all(torch.equal(tensor, ours[name]) for name, tensor in read.items())


def test_torchvision_has_background_first_and_we_last():
    ours = {
        "box_branch.cls_score.weight": torch.tensor([[1.0], [2.0], [0.0]]),
        "box_branch.bbox_pred.bias": torch.arange(1.0, 9.0),
        "branches.masks.head.logits.bias": torch.tensor([5.0, 6.0]),
        "backbone.lateral.0.conv.bias": torch.tensor([7.0, 8.0, 9.0]),
    }
    written = TORCHVISION.write(ours)
    assert {name: tensor.flatten().tolist() for name, tensor in written.items()} == {
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
def test_torchvisions_older_names_mean_the_same(old, new):
    some = {"roi_heads.box_predictor.cls_score.weight": torch.zeros(2, 1)}
    assert list(to_ours({**some, old: torch.zeros(2)})) == list(to_ours({**some, new: torch.zeros(2)}))


def test_a_network_that_the_other_library_does_not_know_is_refused():
    with pytest.raises(ValueError, match=r"torchvision has no place for backbone\.body\.features"):
        TORCHVISION.write(
            recipes.build(
                "mobilenet_v2_fpn", 2, {"pyramid.channels": 8, "masks.channels": 8, "boxes.hidden": 8}
            ).state_dict()
        )


def test_caffe2_names_and_norms_without_statistics():
    theirs = {
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
    ours = {name: tensor[0].item() for name, tensor in to_ours(theirs).items()}
    idle = pytest.approx(1 - 1e-5)  # with the norm's epsilon exactly a scale and a shift
    assert ours == {
        "stem.conv.weight": 1,
        "stem.norm.weight": 2,
        "stem.norm.bias": 3,
        "stem.norm.running_mean": 0,
        "stem.norm.running_var": idle,
        "res2.0.conv1.weight": 4,
        "res4.22.norm3.weight": 5,
        "res3.0.shortcut.norm.bias": 6,
        "res3.0.shortcut.norm.running_mean": 7,
        "res3.0.shortcut.norm.running_var": idle,
        "fc1000_w": 8,
    }
