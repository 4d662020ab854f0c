"""What people ask of weights."""

from dataclasses import replace

import pytest
import torch

from maskrcnn import recipes
from maskrcnn.weights.describe import compare, convert, describe, published_list
from maskrcnn.weights.model_checkpoint import ModelCheckpoint, read_model

TINY = {"pyramid.channels": 8, "masks.channels": 8, "boxes.hidden": 8, "body.frozen": ()}


@pytest.fixture
def file(tmp_path):
    torch.manual_seed(0)
    weights = recipes.build("resnet18_fpn", 2, {**TINY}).state_dict()
    ours = ModelCheckpoint("resnet18_fpn", TINY, ("cat", "dog"), (17, 18), (), (), None, 96, weights)
    torch.save({"trained": ours.plain()}, tmp_path / "ours.pt")
    return tmp_path / "ours.pt"


@pytest.mark.parametrize(
    ("layout", "name"), [("torchvision", "a.pth"), ("detectron2", "a.pth"), ("detectron2", "a.pkl")]
)
def test_there_and_back_it_is_the_same_network(file, layout, name):
    there = file.with_name(name)
    said = convert(file, there, layout)
    assert "cat, dog" in said and "channels=8" in said
    assert not compare(file, there)
    ours, back = read_model(file), read_model(there)
    assert replace(ours, weights={}) == replace(back, weights={})
    back.build()


def test_differences_are_named(file):
    content = torch.load(file, weights_only=True)
    weights = content["trained"]["weights"]
    weights["box_branch.cls_score.bias"][1] += 0.5
    weights["more"] = weights.pop("box_branch.bbox_pred.bias")
    content["trained"]["arguments"]["beta"] = 0.0
    torch.save(content, other := file.with_name("other.pt"))
    assert compare(file, other) == [
        "argument beta: None against 0.0",
        f"only in {file}: box_branch.bbox_pred.bias",
        f"only in {other}: more",
        "box_branch.cls_score.bias: up to 0.5 apart",
    ]


def test_a_description(file, tmp_path):
    lines = describe(file).splitlines()
    assert (
        lines[1]
        == "network    resnet18_fpn(pyramid.channels=8, masks.channels=8, boxes.hidden=8, body.frozen=())"
    )
    assert lines[2:4] == ["classes    2: cat, dog", "pictures   short side any, long 96 at most"]
    torch.save({"layer1.0.conv1.weight": torch.zeros(2, 3)}, tmp_path / "resnet50-0676ba61.pth")
    said = describe(tmp_path / "resnet50-0676ba61.pth")
    assert "torchvision/resnet50" in said and "BSD-3-Clause" in said and "6 in 1 tensors" in said


def test_a_file_is_read_once_to_be_described(file, monkeypatch):
    reads, load = [], torch.load
    monkeypatch.setattr(
        torch, "load", lambda *arguments, **options: reads.append(1) or load(*arguments, **options)
    )
    assert "resnet18_fpn" in describe(file) and reads == [1]


def test_the_list_has_every_name_whole():
    lines = published_list().splitlines()
    assert lines[0].split()[:2] == ["torchvision/maskrcnn_resnet50_fpn", "coco"] and "BSD-3" in lines[0]
    assert sum("CC BY-SA" in line for line in lines) == 43
