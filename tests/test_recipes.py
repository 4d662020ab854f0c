import dataclasses

import pytest
import torch

from maskrcnn import recipes
from maskrcnn.network.rpn import Proposals
from maskrcnn.plain import values_of
from scenes import scene

ALL = [
    *recipes.RECIPES,
    "resnet18_fpn_box",
    "mobilenet_v2_fpn_keypoint",
    "resnet50_c4_box",
    "resnet50_c4_keypoint",
]
HEAVY = {"resnet101_fpn", "resnext101_fpn", "resnext101_64x4d_fpn", "resnet101_c4", "resnet101_dc5"}


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in HEAVY else []) for name in ALL]
)
def test_every_recipe_trains_a_step_and_detects(name):
    keypoint = name.endswith("_keypoint")
    model = recipes.build(name, 3, {"boxes.samples_per_image": 16})
    batch, targets = scene([2, 0], keypoints=17 if keypoint else 0)
    losses = model(batch, targets)
    expected = {"loss_rpn_objectness", "loss_rpn_box", "loss_class", "loss_box"}
    expected |= set() if name.endswith("_box") or keypoint else {"loss_mask"}
    expected |= {"loss_keypoint"} if keypoint else set()
    assert set(losses) == expected
    assert all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    learning = [p for p in model.parameters() if p.requires_grad]
    assert learning and all(p.grad is not None and p.grad.isfinite().all() for p in learning)
    with torch.no_grad():
        torch.optim.SGD(learning, lr=1e-3).step()
        found = model.eval().detect(batch)
    assert found.boxes.shape == (2, min(100, found.boxes.shape[1]), 4)
    assert (found.mask_probs is None) == ("loss_mask" not in expected)
    assert (found.keypoint_heatmaps is not None) == keypoint


def test_detections_that_overlap_less_than_the_threshold_are_both_kept():
    """Two regions of 100 x 100 px that share 100 x 75: their IoU is 7500 / 12500 = 0.6."""

    def kept(**options):
        branch = recipes.build("resnet18_fpn", 1, options).box_branch
        boxes = torch.tensor([[[0.0, 0.0, 100.0, 100.0], [25.0, 0.0, 125.0, 100.0]]])
        proposals = Proposals(boxes, torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.bool))
        logits = torch.tensor([[[4.0, 0.0], [3.0, 0.0]]])
        sizes = torch.tensor([[200, 200]])
        return int(branch.select(logits, torch.zeros(1, 2, 1, 4), proposals, sizes).valid.sum())

    assert kept() == 1
    assert kept(**{"boxes.nms_threshold": 0.59}) == 1 and kept(**{"boxes.nms_threshold": 0.61}) == 2
    assert recipes.build("resnet18_c4", 1, {"boxes.nms_threshold": 0.7}).box_branch.nms_threshold == 0.7


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("resnet50_fpn", 44_343_216),
        ("resnet50_fpn_box", 41_699_936),
        ("resnet50_c4", 35_909_612),
        ("resnet50_dc5", 172_353_516),
        ("resnet101_fpn", 63_283_120),
        ("resnext101_fpn", 107_427_760),
    ],
)
def test_networks_have_as_many_parameters_as_detectron2s(name, count):
    with torch.device("meta"):
        assert parameters(recipes.build(name, 80)) == count


@pytest.mark.parametrize(
    "options",
    [
        {"masks.coding": "softmax"},
        {"masks.coding": "class_agnostic"},
        {"masks.head": "mlp", "boxes.hidden": 64},
        {"regions.operator": "roi_pool"},
        {"regions.operator": "roi_warp"},
        {"regions.operator": "roi_warp_max"},
        {"regions.operator": "roi_align_max"},
        {"regions.sampling_ratio": 0},
        {"boxes.head": "conv", "proposals.convolutions": 2},
        {"body.norm": "group"},
        {"body.norm": "batch"},
        {"input.channels": 1},
        {"input.channels": 5},
        {"proposals.anchor_sizes": (8.0, 16.0, 32.0, 64.0, 128.0), "proposals.aspect_ratios": (1.0,)},
        {"keypoints.count": 4},
        {"keypoints.count": 4, "keypoints.channels": 32},
        {"masks.head": "mlp", "masks.mlp_layers": 3, "boxes.hidden": 32},
        {"input.bgr": True},
        {"regions.aligned": False, "proposals.anchor_offset": 0.0, "proposals.rounded_anchors": True},
        {"proposals.loss_divisor": "fixed", "proposals.beta": 0.0, "boxes.beta": 0.0},
        {"masks.targets": "soft_legacy"},
        {"masks.target_samples": 0},
    ],
    ids=str,
)
def test_every_option_trains_a_step(options):
    model = recipes.build(
        "resnet18_fpn",
        3,
        {
            **{
                "pyramid.channels": 32,
                "masks.channels": 32,
                "boxes.hidden": 64,
                "boxes.samples_per_image": 16,
                **options,
            }
        },
    )
    batch, targets = scene([2, 1], keypoints=4)
    channels = options.get("input.channels", 3)
    batch = batch._replace(images=batch.images[:, :1].expand(-1, channels, -1, -1))
    losses = model(batch, targets)
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    with torch.no_grad():
        model.eval().detect(batch)


def test_blue_first_is_the_same_network_on_turned_pictures():
    torch.manual_seed(0)
    red_first = recipes.build(
        "resnet18_fpn", 2, {"pyramid.channels": 16, "masks.channels": 16, "boxes.hidden": 16}
    ).eval()
    blue_first = recipes.build(
        "resnet18_fpn",
        2,
        {"pyramid.channels": 16, "masks.channels": 16, "boxes.hidden": 16, "input.bgr": True},
    ).eval()
    weights = red_first.state_dict()
    stem = "backbone.body.stem.conv.weight"
    blue_first.load_state_dict(
        {**weights, stem: weights[stem].flip(1)}
        | {name: value for name, value in blue_first.state_dict().items() if name.startswith("normalise.")}
    )
    assert blue_first.normalise.mean.flatten().tolist() == pytest.approx([103.53, 116.28, 123.675])
    batch, _ = scene([1])
    with torch.no_grad():
        torch.testing.assert_close(
            blue_first.backbone(blue_first.normalise(batch))[0],
            red_first.backbone(red_first.normalise(batch))[0],
        )


def test_frozen_norms_freeze_the_stem_and_res2_and_others_do_not():
    frozen = recipes.build(
        "resnet18_fpn", 1, {"pyramid.channels": 16, "masks.channels": 16, "boxes.hidden": 16}
    )
    assert not any(p.requires_grad for p in frozen.backbone.body.res2.parameters())
    assert all(p.requires_grad for p in frozen.backbone.body.res3.parameters())
    assert all(
        p.requires_grad
        for p in recipes.build(
            "resnet18_fpn", 1, {"body.norm": "group", "pyramid.channels": 16, "masks.channels": 16}
        ).parameters()
    )


def test_an_unknown_recipe_is_answered_with_the_known_ones():
    with pytest.raises(
        ValueError, match="there is no recipe 'resnet51_fpn'; there are resnet18_fpn, resnet34_fpn"
    ):
        recipes.build("resnet51_fpn", 2)


def test_means_must_fit_the_channels():
    with pytest.raises(ValueError, match="one number for each of 4 channels, not 3 and 4"):
        recipes.build("resnet18_fpn", 1, {"input.channels": 4, "input.mean": (1.0, 2.0, 3.0)})


@pytest.mark.parametrize("name", ALL)
def test_options_are_plain_values_in_groups_of_at_most_twelve(name):
    options = recipes.options_of_recipe(name)
    assert all(
        value is None or isinstance(value, bool | int | float | str | tuple)
        for value in values_of(options).values()
    )
    groups = [getattr(options, field.name) for field in dataclasses.fields(options)]
    assert all(len(dataclasses.fields(group)) <= 12 for group in [options, *filter(None, groups)])


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("resnet50_c4", "boxes.hidden"),
        ("resnet50_c4", "masks.head"),
        ("resnet50_c4", "pyramid.channels"),
        ("resnet50_c5", "pyramid.norm"),
        ("resnet18_fpn", "body.stride_in_1x1"),
        ("mobilenet_v2_fpn", "body.stride_in_1x1"),
        ("resnext101_fpn", "body.stride_in_1x1"),
    ],
)
def test_an_option_that_an_architecture_lacks_is_refused(name, option):
    with pytest.raises(ValueError, match=f"there is no option {option}"):
        recipes.build(name, 2, {option: 1})
