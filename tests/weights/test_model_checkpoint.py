"""From any file, or a published name, to a network that says what it sees."""

import pickle
from dataclasses import replace

import pytest
import torch

import maskrcnn
from maskrcnn import recipes
from maskrcnn.weights import model_checkpoint as module
from maskrcnn.weights.layouts import DETECTRON2, TORCHVISION
from maskrcnn.weights.model_checkpoint import (
    ModelCheckpoint,
    model_from_library,
    model_from_plain,
    read_model,
)

TINY = {"pyramid.channels": 8, "masks.channels": 8, "boxes.hidden": 8, "body.frozen": ()}


@pytest.fixture(scope="module")
def ours() -> ModelCheckpoint:
    torch.manual_seed(0)
    return ModelCheckpoint(
        recipe="resnet18_fpn",
        arguments=TINY,
        class_names=("cat", "dog"),
        category_ids=(17, 18),
        keypoint_names=(),
        skeleton=(),
        short_side=64,
        long_side=96,
        weights=recipes.build("resnet18_fpn", 2, {**TINY}).state_dict(),
    )


def test_our_own_file(ours, tmp_path):
    torch.save({"trained": ours.plain()}, tmp_path / "ours.pt")
    read = read_model(tmp_path / "ours.pt")
    assert replace(read, weights={}) == replace(ours, weights={})
    assert all(torch.equal(tensor, ours.weights[name]) for name, tensor in read.build().state_dict().items())


@pytest.mark.parametrize("layout", [TORCHVISION, DETECTRON2])
@pytest.mark.parametrize("suffix", [".pth", ".pkl"])
def test_a_file_of_another_library(ours, layout, suffix, tmp_path):
    theirs, path = layout.write(ours.weights), tmp_path / f"theirs{suffix}"
    if suffix == ".pkl":
        content = {"model": {name: tensor.numpy() for name, tensor in theirs.items()}, "__author__": "x"}
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(theirs, path)
    read = read_model(path)
    assert (read.recipe, read.class_names, read.category_ids) == (
        "resnet18_fpn",
        ("class 1", "class 2"),
        (1, 2),
    )
    assert all(torch.equal(tensor, ours.weights[name]) for name, tensor in read.weights.items())
    result = maskrcnn.load(path, device="cpu").predict(torch.zeros(3, 40, 60, dtype=torch.uint8), score=0.0)
    assert result.size_hw == (40, 60)


def test_a_published_name_is_fetched_and_known_by_its_data_set(monkeypatch, tmp_path):
    path = tmp_path / "model_final_af9cf5.pkl"  # the name of Detectron2's file for Cityscapes
    theirs = DETECTRON2.write(recipes.build("resnet18_fpn", 8, {**TINY}).state_dict())
    path.write_bytes(pickle.dumps({"model": {name: tensor.numpy() for name, tensor in theirs.items()}}))
    monkeypatch.setattr(module, "fetch", lambda published: path)
    read = read_model("detectron2/Cityscapes/mask_rcnn_R_50_FPN")
    assert (read.class_names[1], read.category_ids[1], read.short_side) == ("rider", 25, 1024)


@pytest.mark.parametrize(
    ("layout", "count", "arguments", "name", "id_"),
    [
        (TORCHVISION, 90, {}, "toothbrush", 90),
        (DETECTRON2, 80, {}, "toothbrush", 90),
        (DETECTRON2, 1, {"masks": None, "keypoints.count": 17}, "person", 1),
        (TORCHVISION, 1, {}, "class 1", 1),
    ],
)
def test_classes_of_the_usual_counts_are_known(layout, count, arguments, name, id_):
    read = model_from_library(
        layout.write(recipes.build("resnet18_fpn", count, {**TINY, **arguments}).state_dict())
    )
    assert (read.class_names[-1], read.category_ids[-1]) == (name, id_)
    assert len(read.keypoint_names) == arguments.get("keypoints.count", 0)


def test_what_a_fine_tuned_file_cannot_tell_is_told(ours, tmp_path):
    torch.save(TORCHVISION.write(ours.weights), tmp_path / "theirs.pth")
    options = {"proposals.anchor_sizes": (8.0, 16.0, 32.0, 64.0, 128.0)}
    told = read_model(tmp_path / "theirs.pth", class_names=["cat", "dog"], options=options)
    assert (told.class_names, told.category_ids) == (("cat", "dog"), (1, 2))
    sides = read_model(tmp_path / "theirs.pth", sides=(None, 500))
    assert (told.short_side, sides.short_side, sides.long_side) == (800, None, 500)
    assert told.build().rpn.anchors.sizes[0] == (8.0,)
    with pytest.raises(ValueError, match="has 2 classes, not 1"):
        read_model(tmp_path / "theirs.pth", class_names=["cat"])


def test_a_backbone_is_no_network(tmp_path):
    torch.save({"layer1.0.conv1.weight": torch.zeros(2)}, tmp_path / "body.pth")
    with pytest.raises(ValueError, match=r"body\.pth: neither a network of this library.*by --init"):
        read_model(tmp_path / "body.pth")


def test_a_name_that_is_nothing():
    with pytest.raises(ValueError, match="neither a file nor a published checkpoint"):
        read_model("maskrcn_resnet50")
    with pytest.raises(FileNotFoundError, match=r"no weights file at none\.pt"):
        read_model("none.pt")


@pytest.mark.parametrize("change", [{"recipe": 3}, {"short_side": "long"}, {"more": 1}])
def test_a_description_that_is_none(ours, change):
    with pytest.raises(ValueError, match=r"a network is described by|is a"):
        model_from_plain(ours.plain() | change)


def test_weights_of_another_network_are_refused(ours):
    with pytest.raises(ValueError, match="do not fit the recipe resnet18_fpn"):
        replace(ours, arguments={**TINY, "pyramid.channels": 16, "masks.channels": 16}).build()
    with pytest.raises(ValueError, match="there is no option colour"):
        replace(ours, arguments={"colour": 3}).build()
