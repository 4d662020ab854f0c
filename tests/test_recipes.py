import dataclasses

import pytest
import torch

from maskrcnn import recipes
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
    model = recipes.find(name)(3, budget=16)
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
        assert parameters(recipes.find(name)(num_classes=80)) == count


@pytest.mark.parametrize(
    "options",
    [
        {"mask_coding": "softmax"},
        {"mask_coding": "class_agnostic"},
        {"mask_head": "mlp", "hidden": 64},
        {"region_operator": "roi_pool"},
        {"region_operator": "roi_warp"},
        {"region_operator": "roi_warp_max"},
        {"region_operator": "roi_align_max"},
        {"sampling_ratio": 0},
        {"box_head": "conv", "rpn_convolutions": 2},
        {"norm": "group"},
        {"norm": "batch"},
        {"in_channels": 1},
        {"in_channels": 5},
        {"anchor_sizes": (8.0, 16.0, 32.0, 64.0, 128.0), "aspect_ratios": (1.0,)},
        {"keypoints": 4},
        {"keypoints": 4, "keypoint_channels": 32},
        {"mask_head": "mlp", "mask_layers": 3, "hidden": 32},
        {"bgr": True},
        {"aligned": False, "anchor_offset": 0.0, "rounded_anchors": True},
        {"rpn_divisor": "budget", "rpn_beta": 0.0, "beta": 0.0},
        {"mask_truth": "soft_legacy"},
        {"mask_samples": 0},
    ],
    ids=str,
)
def test_every_option_trains_a_step(options):
    model = recipes.resnet18_fpn(3, **{"channels": 32, "hidden": 64, "budget": 16, **options})
    batch, targets = scene([2, 1], keypoints=4)
    channels = options.get("in_channels", 3)
    batch = batch._replace(images=batch.images[:, :1].expand(-1, channels, -1, -1))
    losses = model(batch, targets)
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    with torch.no_grad():
        model.eval().detect(batch)


def test_blue_first_is_the_same_network_on_turned_pictures():
    torch.manual_seed(0)
    red_first = recipes.resnet18_fpn(2, channels=16, hidden=16).eval()
    blue_first = recipes.resnet18_fpn(2, channels=16, hidden=16, bgr=True).eval()
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
    frozen = recipes.resnet18_fpn(1, channels=16, hidden=16)
    assert not any(p.requires_grad for p in frozen.backbone.body.res2.parameters())
    assert all(p.requires_grad for p in frozen.backbone.body.res3.parameters())
    assert all(p.requires_grad for p in recipes.resnet18_fpn(1, norm="group", channels=16).parameters())


def test_an_unknown_recipe_is_answered_with_the_known_ones():
    with pytest.raises(
        ValueError, match="there is no recipe 'resnet51_fpn'; there are resnet18_fpn, resnet34_fpn"
    ):
        recipes.find("resnet51_fpn")


def test_means_must_fit_the_channels():
    with pytest.raises(ValueError, match="one number for each of 4 channels, not 3 and 4"):
        recipes.resnet18_fpn(1, in_channels=4, pixel_mean=(1.0, 2.0, 3.0))


def test_options_are_plain_values():
    for field in dataclasses.fields(recipes.Options):
        assert isinstance(field.default, bool | int | float | str | tuple | None)
