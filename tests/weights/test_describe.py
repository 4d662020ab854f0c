"""Descriptions, conversions and comparisons of weights."""

from dataclasses import replace

import pytest
import torch

from maskrcnn import recipes
from maskrcnn.weights.convert import convert
from maskrcnn.weights.describe import compare, describe, list_published
from maskrcnn.weights.model_checkpoint import ModelCheckpoint, read_model, write_model

TINY = {"pyramid.channels": 8, "masks.channels": 8, "boxes.hidden": 8, "body.frozen": ()}


@pytest.fixture
def file(tmp_path):
    torch.manual_seed(0)
    weights = recipes.build("resnet18_fpn", 2, {**TINY}).state_dict()
    checkpoint = ModelCheckpoint("resnet18_fpn", TINY, ("cat", "dog"), (17, 18), (), (), None, 96, weights)
    write_model(tmp_path / "native.pt", checkpoint)
    return tmp_path / "native.pt"


@pytest.mark.parametrize(
    ("layout", "name"), [("torchvision", "a.pth"), ("detectron2", "a.pth"), ("detectron2", "a.pkl")]
)
def test_a_conversion_and_its_inverse_give_the_same_network(file, layout, name):
    converted = file.with_name(name)
    summary = convert(file, converted, layout)
    assert "cat, dog" in summary and "channels=8" in summary
    assert not compare(file, converted)
    checkpoint, same = read_model(file), read_model(converted)
    assert replace(checkpoint, weights={}) == replace(same, weights={})
    same.build()


def test_differences_are_named(file):
    content = torch.load(file, weights_only=True)
    weights = content["trained"]["weights"]
    weights["box_branch.cls_score.bias"][1] += 0.5
    weights["more"] = weights.pop("box_branch.bbox_pred.bias")
    content["trained"]["arguments"]["beta"] = 0.0
    torch.save(content, other := file.with_name("other.pt"))
    assert compare(file, other) == [
        "argument beta: None and 0.0",
        f"only in {file}: box_branch.bbox_pred.bias",
        f"only in {other}: more",
        "box_branch.cls_score.bias: values differ by up to 0.5",
    ]


def test_a_description(file, tmp_path):
    lines = describe(file).splitlines()
    assert (
        lines[1]
        == "network     resnet18_fpn(pyramid.channels=8, masks.channels=8, boxes.hidden=8, body.frozen=())"
    )
    assert lines[2:4] == ["classes     2: cat, dog", "input       long side at most 96 pixels"]
    measured = replace(read_model(file), score_thresholds=(0.25, 0.5))
    write_model(tmp_path / "measured.pt", measured)
    assert "scores      objects of 0.25 (cat), 0.50 (dog) or more are predicted" in describe(
        tmp_path / "measured.pt"
    )
    torch.save({"layer1.0.conv1.weight": torch.zeros(2, 3)}, tmp_path / "resnet50-0676ba61.pth")
    text = describe(tmp_path / "resnet50-0676ba61.pth")
    assert "torchvision/resnet50" in text and "BSD-3-Clause" in text and "6 in 1 tensors" in text


def test_a_file_is_read_once_to_be_described(file, monkeypatch):
    reads, load = [], torch.load
    monkeypatch.setattr(
        torch, "load", lambda *arguments, **options: reads.append(1) or load(*arguments, **options)
    )
    assert "resnet18_fpn" in describe(file) and reads == [1]


def test_the_list_has_every_full_name():
    lines = list_published().splitlines()
    assert lines[0].split()[:2] == ["torchvision/maskrcnn_resnet50_fpn", "coco"] and "BSD-3" in lines[0]
    assert sum("CC BY-SA" in line for line in lines) == 43


def test_the_plan_of_a_training_is_described(file):
    content = torch.load(file, weights_only=True)
    lines = (("recipe", "resnet18_fpn", "a CPU"), ("optimiser.lr", "0.002", "from drawn\x1b weights"))
    torch.save({**content, "plan": lines}, file)
    assert describe(file).splitlines()[-2:] == [
        "plan        recipe=resnet18_fpn  a CPU",
        "plan        optimiser.lr=0.002  from drawn? weights",
    ]
    for other in (5, "mine", (1, 2), (("a", "b"),)):
        torch.save({**content, "plan": other}, file)
        assert "plan " not in describe(file)


def test_a_description_cannot_control_the_terminal(file):
    checkpoint = replace(read_model(file), class_names=("\x1b[2Jcat", "dog\nlicence     none"))
    write_model(file, checkpoint)
    text = describe(file)
    assert "?[2Jcat" in text and "\x1b" not in text and len(text.splitlines()) == 5
    assert "\x1b" not in convert(file, file.with_name("a.pth"), "torchvision")


@pytest.mark.parametrize("layout", ["maskrcnn", "torchvision"])
def test_weights_that_do_not_fit_are_not_converted(file, layout):
    checkpoint = read_model(file)
    write_model(file, replace(checkpoint, arguments={**checkpoint.arguments, "boxes.hidden": 16}))
    output = file.with_name("a.pth")
    with pytest.raises(ValueError, match="do not fit the recipe"):
        convert(file, output, layout)
    assert not output.exists()


def test_a_caffe2_backbone_is_described_by_its_arguments(tmp_path):
    names = [f"res4_{block}_branch2a_w" for block in range(6)] + ["res2_0_branch2c_w", "conv1_w"]
    weights = {name: torch.zeros(1) for name in names} | {"res2_0_branch2b_w": torch.zeros(4, 4, 3, 3)}
    torch.save(weights, tmp_path / "R-50.pth")
    assert "backbone    trained with input.bgr=True, input.mean=" in describe(tmp_path / "R-50.pth")
