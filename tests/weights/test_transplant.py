"""What is known of a class goes along with its name."""

from types import SimpleNamespace

import pytest
import torch

from maskrcnn import recipes
from maskrcnn.weights.transplant import account, origins, transplanted

TINY = {"pyramid.channels": 16, "masks.channels": 16, "boxes.hidden": 16, "body.frozen": ()}
SOURCE = ("person", "cat", "dog", "bus")
OURS = ("Dog", "tree", "walker")


@pytest.fixture(scope="module")
def networks() -> SimpleNamespace:
    torch.manual_seed(0)
    source = recipes.build("resnet18_fpn", len(SOURCE), {**TINY}).eval()
    ours = recipes.build("resnet18_fpn", len(OURS), {**TINY}).eval()
    before = {name: tensor.clone() for name, tensor in ours.state_dict().items()}
    taken = origins(OURS, SOURCE, {"walker": "person"})
    ours.load_state_dict(transplanted(source.state_dict(), SOURCE, ours.state_dict(), taken))
    return SimpleNamespace(source=source, ours=ours, before=before, taken=taken)


def test_classes_are_found_by_name_or_synonym(networks):
    assert networks.taken == {"Dog": "dog", "tree": None, "walker": "person"}
    assert account(networks.taken).splitlines() == [
        "class Dog     from dog",
        "class tree    begins anew",
        "class walker  from person",
    ]


@pytest.mark.parametrize("synonyms", [{"wolf": "dog"}, {"tree": "oak"}])
def test_a_synonym_of_nothing_is_refused(synonyms):
    with pytest.raises(ValueError, match="expected one of our classes"):
        origins(OURS, SOURCE, synonyms)


def test_known_classes_answer_as_before_on_any_region(networks):
    features = torch.randn(5, 16, 7, 7)
    theirs, their_deltas = networks.source.box_branch(features)
    ours, our_deltas = networks.ours.box_branch(features)
    masks = torch.randn(5, 16, 14, 14)
    their_masks, our_masks = (
        network.branches["masks"].head(masks) for network in (networks.source, networks.ours)
    )
    for our_class, their_class in ((0, 2), (2, 0)):
        assert torch.equal(ours[:, our_class], theirs[:, their_class])
        assert torch.equal(our_deltas[:, our_class], their_deltas[:, their_class])
        assert torch.equal(our_masks[:, our_class], their_masks[:, their_class])
    assert torch.equal(ours[:, -1], theirs[:, -1])  # background


def test_unknown_classes_keep_what_was_drawn_for_them(networks):
    state = networks.ours.state_dict()
    for layer, rows in (
        ("box_branch.cls_score", 1),
        ("box_branch.bbox_pred", 4),
        ("branches.masks.head.logits", 1),
    ):
        now, drawn = state[f"{layer}.weight"], networks.before[f"{layer}.weight"]
        assert torch.equal(now[rows : 2 * rows], drawn[rows : 2 * rows])
        assert not torch.equal(now[:rows], drawn[:rows])


def test_class_agnostic_masks_stay_whole():
    torch.manual_seed(0)
    source = recipes.build("resnet18_fpn", 4, {"masks.coding": "class_agnostic", **TINY})
    ours = recipes.build("resnet18_fpn", 3, {"masks.coding": "class_agnostic", **TINY})
    moved = transplanted(source.state_dict(), SOURCE, ours.state_dict(), origins(OURS, SOURCE))
    name = "branches.masks.head.logits.weight"
    assert torch.equal(moved[name], source.state_dict()[name])


def test_softmax_masks_keep_their_background():
    torch.manual_seed(0)
    source = recipes.build("resnet18_fpn", 4, {"masks.coding": "softmax", **TINY}).state_dict()
    ours = recipes.build("resnet18_fpn", 3, {"masks.coding": "softmax", **TINY}).state_dict()
    name = "branches.masks.head.logits.weight"
    moved = transplanted(source, SOURCE, ours, origins(OURS, SOURCE))[name]
    assert torch.equal(moved[3], source[name][4]) and torch.equal(moved[0], source[name][2])


def test_a_single_class_is_transplanted_too():
    torch.manual_seed(0)
    source = recipes.build("resnet18_fpn", 1, {**TINY}).state_dict()
    ours = recipes.build("resnet18_fpn", 2, {**TINY}).state_dict()
    moved = transplanted(source, ("cell",), ours, origins(("dust", "cell"), ("cell",)))
    assert torch.equal(moved["box_branch.cls_score.weight"][1:], source["box_branch.cls_score.weight"])
    assert torch.equal(
        moved["branches.masks.head.logits.weight"][1:], source["branches.masks.head.logits.weight"]
    )
