"""`maskrcnn bench --train` on a small network."""

import json

import pytest

from maskrcnn.bench.training import StepSpec, our_step, their_step
from maskrcnn.cli import main

WORK = StepSpec("resnet18_fpn", "cpu", "float32", 1, (96, 128), 5, 1)


def test_the_command_prints_and_writes(tmp_path, capsys):
    file = tmp_path / "figures.json"
    words = ["bench", "--train", "--recipe", "resnet18_fpn", "--size", "64x96", "--objects", "3"]
    assert main([*words, "--device", "cpu", "--repeats", "1", "--json", str(file)]) == 0
    told = capsys.readouterr().out
    assert "training resnet18_fpn, 1 of 64x96, 3 objects each" in told
    figures = json.loads(file.read_text())
    assert figures["milliseconds"]["ours"]["median"] > 0
    assert figures["peak_bytes"]["ours"] is None or figures["peak_bytes"]["ours"] > 50e6  # 12 M weights


def test_every_step_does_the_same_work():
    step = our_step(WORK)
    first, second = step(), step()
    assert first["loss_rpn_objectness"] == pytest.approx(second["loss_rpn_objectness"], rel=0.3)
    assert first["loss_mask"] > 0


def test_torchvision_has_the_same_losses():
    pytest.importorskip("torchvision", reason="torchvision is not installed")
    ours, theirs = our_step(WORK)(), their_step(WORK)()
    # the anchors and regions that are learnt from are drawn at random
    assert ours["loss_mask"] == pytest.approx(theirs["loss_mask"], rel=0.1)
    assert ours["loss_rpn_objectness"] == pytest.approx(theirs["loss_objectness"], rel=0.3)
    assert ours["loss_class"] == pytest.approx(theirs["loss_classifier"], rel=0.3)
