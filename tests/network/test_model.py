import math

import pytest
import torch

from maskrcnn import recipes
from maskrcnn.network.model import Normalise
from maskrcnn.types import Batch
from scenes import scene

SMALL = {
    "pyramid.channels": 32,
    "masks.channels": 32,
    "boxes.hidden": 64,
    "boxes.samples_per_image": 32,
    "body.norm": "group",
}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return recipes.build("resnet18_fpn", 3, {"keypoints.count": 5, **SMALL})


def finite_losses(model, batch, targets):
    model.zero_grad()
    losses = model(batch, targets)
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values()), losses
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    return {name: loss.item() for name, loss in losses.items()}


@pytest.mark.parametrize(
    ("objects", "crowd"), [([0, 0], False), ([3, 3], True), ([0, 2], False), ([40, 1], False)]
)
def test_losses_are_finite_whatever_the_truth(model, objects, crowd):
    losses = finite_losses(model, *scene(objects, keypoints=5, crowd=crowd))
    assert set(losses) == {
        "loss_rpn_objectness", "loss_rpn_box", "loss_class", "loss_box", "loss_mask", "loss_keypoint"
    }  # fmt: skip
    if sum(objects) == 0 or crowd:
        assert losses["loss_rpn_box"] == losses["loss_box"] == losses["loss_mask"] == 0
        assert losses["loss_keypoint"] == 0 and losses["loss_class"] > 0


def test_a_crowd_is_neither_object_nor_background(model):
    """A crowd that covers the picture leaves nothing to learn from: no anchor inside it is background."""
    batch, targets = scene([1], keypoints=5, crowd=True)
    targets = targets._replace(boxes=torch.tensor([[[0.0, 0, 96, 64]]]))
    losses = finite_losses(model, batch, targets)
    everywhere = finite_losses(model, batch, targets._replace(valid=torch.zeros(1, 1, dtype=torch.bool)))
    assert losses["loss_class"] == 0 and everywhere["loss_class"] > 0


def test_objects_without_masks_or_visible_keypoints_have_no_part_in_those_losses(model):
    batch, targets = scene([2, 1], keypoints=5)
    targets = targets._replace(
        masks=targets.masks._replace(sizes_hw=torch.zeros_like(targets.masks.sizes_hw)),
        keypoints=targets.keypoints * torch.tensor([1.0, 1, 0]),
    )
    losses = finite_losses(model, batch, targets)
    assert losses["loss_mask"] == losses["loss_keypoint"] == 0 < losses["loss_box"]


def test_truth_that_a_branch_needs_is_asked_for(model):
    batch, targets = scene([1], keypoints=5)
    with pytest.raises(ValueError, match="the network has a mask branch, but the targets have no masks"):
        model(batch, targets._replace(masks=None))
    with pytest.raises(ValueError, match="keypoint branch"):
        model(batch, targets._replace(keypoints=None))


def test_at_the_start_the_losses_are_those_of_guessing(model):
    """The last layers start near zero: log 2 for a mask pixel and for objectness, log 56² for a keypoint."""
    fresh = recipes.build("resnet18_fpn", 3, {"keypoints.count": 5, **SMALL})
    batch, targets = scene([2, 2], keypoints=5)
    losses = finite_losses(fresh, batch, targets)
    assert losses["loss_mask"] == pytest.approx(math.log(2), abs=0.02)
    assert losses["loss_rpn_objectness"] == pytest.approx(math.log(2), abs=0.1)
    assert losses["loss_class"] == pytest.approx(math.log(4), abs=0.3)
    assert losses["loss_keypoint"] == pytest.approx(math.log(56**2), rel=0.2)


def test_same_seed_same_losses_to_the_bit(model):
    batch, targets = scene([3, 2], keypoints=5)
    runs = []
    for _ in range(2):
        torch.manual_seed(7)
        runs.append(finite_losses(model, batch, targets))
    assert runs[0] == runs[1]


def test_padding_does_not_reach_the_answer():
    """What stands in the padding is not seen."""
    torch.manual_seed(0)
    model = recipes.build("resnet18_fpn", 3, {**SMALL}).eval()
    batch, _ = scene([2], size_hw=(64, 96))
    for noise in (0, 255):
        padded = torch.full((1, 3, 128, 128), noise, dtype=torch.uint8)
        padded[:, :, :64, :96] = batch.images
        with torch.no_grad():
            found = model.detect(Batch(padded, torch.tensor([[64, 96]])))
        assert (found.boxes[found.valid][:, 2] <= 96).all() and (found.boxes[found.valid][:, 3] <= 64).all()
        if noise == 0:
            first = found
    assert torch.equal(first.boxes, found.boxes) and torch.equal(first.mask_probs, found.mask_probs)


def test_a_batch_answers_as_its_pictures_do():
    torch.manual_seed(0)
    model = recipes.build("resnet18_fpn", 3, {**SMALL}).eval()
    batch, _ = scene([2, 3])
    with torch.no_grad():
        both = model.detect(batch)
        for i in range(2):
            alone = model.detect(Batch(batch.images[i : i + 1], batch.sizes_hw[i : i + 1]))
            torch.testing.assert_close(both.boxes[i], alone.boxes[0], atol=1e-3, rtol=1e-4)
            torch.testing.assert_close(both.mask_probs[i], alone.mask_probs[0], atol=1e-4, rtol=1e-4)


def test_nothing_found_is_no_error():
    model = recipes.build(
        "resnet18_fpn", 3, {"keypoints.count": 5, "boxes.score_threshold": 0.99, **SMALL}
    ).eval()
    with torch.no_grad():
        found = model.detect(scene([1])[0])
    assert not found.valid.any() and found.boxes.shape[0] == 1 and found.boxes.shape[2] == 4


def test_c4_shares_its_features_between_boxes_and_masks():
    """Masks learnt from shared features equal those from features that are computed again."""
    torch.manual_seed(0)
    model = recipes.build("resnet50_c4", 2, {"boxes.samples_per_image": 8, "masks.channels": 16})
    batch, targets = scene([2])
    targets = targets._replace(labels=targets.labels.clamp(max=1))
    losses = []
    for pooler in (None, model.box_branch.region_features):
        model.branches["masks"].pooler = pooler
        torch.manual_seed(1)
        with torch.no_grad():
            losses.append(model(batch, targets)["loss_mask"].item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_normalise_by_hand():
    normalise = Normalise((10.0, 20.0), (2.0, 4.0))
    images = torch.full((1, 2, 2, 2), 30, dtype=torch.uint8)
    answer = normalise(Batch(images, torch.tensor([[1, 2]])))
    assert answer[0].tolist() == [[[10, 10], [0, 0]], [[2.5, 2.5], [0, 0]]]


@pytest.mark.slow
def test_it_learns_a_picture_by_heart():
    """A few steps on one batch: every loss falls, and the objects are found where they are."""
    torch.manual_seed(0)
    model = recipes.build(
        "resnet18_fpn",
        3,
        {
            "pyramid.channels": 64,
            "masks.channels": 64,
            "boxes.hidden": 128,
            "boxes.samples_per_image": 64,
            "body.norm": "group",
            "proposals.anchor_sizes": (16.0, 32.0, 64.0, 128.0, 256.0),
        },
    )
    batch, targets = scene([3, 2], size_hw=(96, 96))
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-4)
    for _ in range(60):
        loss = sum(model(batch, targets).values())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        found = model.eval().detect(batch)
    for i, count in enumerate((3, 2)):
        best = found.boxes[i, :count]
        from maskrcnn.ops.overlaps import iou

        overlap = iou(targets.boxes[i, :count], best)
        assert (overlap.amax(1) > 0.7).all(), overlap
        assert found.scores[i, :count].min() > 0.5
        assert found.mask_probs[i, :count].mean() > 0.8  # rectangles fill their boxes


def with_fixed_shapes(monkeypatch):
    """As in a compiled graph and on a GPU, where empty slots are worked on, too."""
    monkeypatch.setattr("maskrcnn.ops.roi_align.is_static", lambda values: True)
    monkeypatch.setattr("maskrcnn.network.boxes.is_static", lambda values: True)


def test_empty_slots_change_no_detection(model, monkeypatch):
    batch, _ = scene([3, 1])
    with torch.inference_mode():
        expected = model.eval().detect(batch)
        with_fixed_shapes(monkeypatch)
        found = model.detect(batch)
    assert torch.equal(found.valid, expected.valid) and found.valid.any()
    for got, field in zip(found, expected, strict=True):
        torch.testing.assert_close(got[found.valid], field[found.valid], atol=1e-4, rtol=1e-4)


def test_empty_slots_change_no_loss(model, monkeypatch):
    expected = finite_losses_of_seed(model)
    with_fixed_shapes(monkeypatch)
    assert finite_losses_of_seed(model) == pytest.approx(expected, rel=1e-4)


def finite_losses_of_seed(model):
    torch.manual_seed(1)
    return finite_losses(model, *scene([3, 1], keypoints=5))
