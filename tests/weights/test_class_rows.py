"""Fine-tuning on other classes copies the rows of classes with the same name."""

from types import SimpleNamespace

import pytest
import torch

from maskrcnn import recipes
from maskrcnn.weights.class_rows import copy_class_rows, describe_matches, match_classes
from maskrcnn.weights.init import load_matching

TINY = {"pyramid.channels": 16, "masks.channels": 16, "boxes.hidden": 16, "body.frozen": ()}
SOURCE_CLASSES = ("person", "cat", "dog", "bus")
CLASSES = ("Dog", "tree", "walker")


@pytest.fixture(scope="module")
def networks() -> SimpleNamespace:
    torch.manual_seed(0)
    source = recipes.build("resnet18_fpn", len(SOURCE_CLASSES), {**TINY}).eval()
    model = recipes.build("resnet18_fpn", len(CLASSES), {**TINY}).eval()
    initial = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    matches = match_classes(CLASSES, SOURCE_CLASSES, {"walker": "person"})
    model.load_state_dict(copy_class_rows(source.state_dict(), SOURCE_CLASSES, model.state_dict(), matches))
    return SimpleNamespace(source=source, model=model, initial=initial, matches=matches)


def test_classes_match_by_name_or_synonym(networks):
    assert networks.matches == {"Dog": "dog", "tree": None, "walker": "person"}
    assert describe_matches(networks.matches).splitlines() == [
        "class Dog     copied from dog",
        "class tree    newly initialised",
        "class walker  copied from person",
    ]


@pytest.mark.parametrize("synonyms", [{"wolf": "dog"}, {"tree": "oak"}])
def test_a_synonym_of_an_unknown_class_is_refused(synonyms):
    with pytest.raises(ValueError, match="expected a class of the data"):
        match_classes(CLASSES, SOURCE_CLASSES, synonyms)


def test_matched_classes_have_the_outputs_of_the_source(networks):
    features = torch.randn(5, 16, 7, 7)
    source_scores, source_deltas = networks.source.box_branch(features)
    scores, deltas = networks.model.box_branch(features)
    features = torch.randn(5, 16, 14, 14)
    source_masks = networks.source.branches["masks"].head(features)
    masks = networks.model.branches["masks"].head(features)
    for label, source_label in ((0, 2), (2, 0)):
        assert torch.equal(scores[:, label], source_scores[:, source_label])
        assert torch.equal(deltas[:, label], source_deltas[:, source_label])
        assert torch.equal(masks[:, label], source_masks[:, source_label])
    assert torch.equal(scores[:, -1], source_scores[:, -1])  # background


def test_unmatched_classes_keep_their_initial_rows(networks):
    state = networks.model.state_dict()
    for layer, rows in (
        ("box_branch.cls_score", 1),
        ("box_branch.bbox_pred", 4),
        ("branches.masks.head.logits", 1),
    ):
        tensor, initial = state[f"{layer}.weight"], networks.initial[f"{layer}.weight"]
        assert torch.equal(tensor[rows : 2 * rows], initial[rows : 2 * rows])
        assert not torch.equal(tensor[:rows], initial[:rows])


def test_class_agnostic_masks_are_copied_unchanged():
    torch.manual_seed(0)
    source = recipes.build("resnet18_fpn", 4, {"masks.coding": "class_agnostic", **TINY}).state_dict()
    model = recipes.build("resnet18_fpn", 3, {"masks.coding": "class_agnostic", **TINY}).state_dict()
    copied = copy_class_rows(source, SOURCE_CLASSES, model, match_classes(CLASSES, SOURCE_CLASSES))
    assert torch.equal(
        copied["branches.masks.head.logits.weight"], source["branches.masks.head.logits.weight"]
    )


def test_softmax_masks_keep_their_background():
    torch.manual_seed(0)
    source = recipes.build("resnet18_fpn", 4, {"masks.coding": "softmax", **TINY}).state_dict()
    model = recipes.build("resnet18_fpn", 3, {"masks.coding": "softmax", **TINY}).state_dict()
    name = "branches.masks.head.logits.weight"
    copied = copy_class_rows(source, SOURCE_CLASSES, model, match_classes(CLASSES, SOURCE_CLASSES))[name]
    assert torch.equal(copied[3], source[name][4]) and torch.equal(copied[0], source[name][2])


def test_the_rows_of_a_single_class_are_copied():
    torch.manual_seed(0)
    source = recipes.build("resnet18_fpn", 1, {**TINY}).state_dict()
    model = recipes.build("resnet18_fpn", 2, {**TINY}).state_dict()
    copied = copy_class_rows(source, ("cell",), model, match_classes(("dust", "cell"), ("cell",)))
    for name in ("box_branch.cls_score.weight", "branches.masks.head.logits.weight"):
        assert torch.equal(copied[name][1:], source[name])


def test_layers_of_another_width_are_reported_and_not_copied():
    torch.manual_seed(0)
    source = recipes.build("resnet18_fpn", 4, {**TINY}).state_dict()
    model = recipes.build("resnet18_fpn", 3, {**{**TINY, "boxes.hidden": 8}})
    initial = model.box_branch.cls_score.bias.clone()
    matches = match_classes(CLASSES, SOURCE_CLASSES)
    report = load_matching(model, copy_class_rows(source, SOURCE_CLASSES, model.state_dict(), matches))
    assert "box_branch.cls_score.weight" in " ".join(report.mismatched)
    assert "box_branch.cls_score.bias" in report.missing
    assert torch.equal(model.box_branch.cls_score.bias, initial)
