"""`benchmarks/train_torchvision.py`: torchvision gets the same objects, and then has the same losses."""

from pathlib import Path

import pytest
import torch

from maskrcnn.bench.training import StepSpec, make_scenes, make_step

SPEC = StepSpec("resnet18_fpn", "cpu", "float32", 1, (96, 128), 5, 1)


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    import train_torchvision

    return train_torchvision


def test_masks_fill_their_boxes(script):
    [(picture, truth)] = scenes = make_scenes(SPEC)
    target = script.torchvision_target(scenes[0])
    masks = target["masks"].bool()
    assert masks.shape == (5, *picture.shape[1:])
    assert (picture[:, masks.any(0)] == 240).all()  # the ellipses are bright
    for mask, box in zip(masks, target["boxes"].tolist(), strict=True):
        rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
        assert box == [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    assert torch.equal(target["labels"] - 1, torch.from_numpy(truth.labels))


def test_torchvision_has_the_same_losses(script):
    pytest.importorskip("torchvision", reason="torchvision is not installed")
    ours, theirs = make_step(SPEC)(), script.torchvision_step(SPEC)()
    # Each samples its own anchors and regions to learn from.
    assert ours["loss_mask"] == pytest.approx(theirs["loss_mask"], rel=0.1)
    assert ours["loss_rpn_objectness"] == pytest.approx(theirs["loss_objectness"], rel=0.3)
    assert ours["loss_class"] == pytest.approx(theirs["loss_classifier"], rel=0.3)
