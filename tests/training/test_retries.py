"""After a loss that is not finite a training goes back to a save, and on with half the rate."""

import math
import re
import shutil
from dataclasses import replace

import pytest
import torch

from maskrcnn.data.loader import AugmentedDataset
from maskrcnn.network.model import MaskRCNN
from maskrcnn.training import step
from maskrcnn.training.checkpoint import load, save
from maskrcnn.training.loop import resume_training
from trainings import assert_same_training, losses, records, run, tiny

SETTINGS = {"steps": 5, "save_every": 2, "decay_at": (), "warmup_steps": 0, "eval_every": 0, "ema": 0.9}


def explode(monkeypatch, *calls):
    """Make the loss of these forward passes, counted from 1, NaN."""
    forward, count = MaskRCNN.forward, iter(range(1, 1000))

    def exploding(self, batch, targets):
        given = forward(self, batch, targets)
        return {**given, "loss_box": given["loss_box"] * math.nan} if next(count) in calls else given

    monkeypatch.setattr(MaskRCNN, "forward", exploding)


def setbacks(output):
    return [record for record in records(output) if "setback" in record]


def test_it_goes_back_names_the_pictures_and_halves_the_rate(drawn, tmp_path, monkeypatch, capsys):
    sample, read = AugmentedDataset.sample, []

    def record(self, index, generator):
        read.append(str(self.dataset.path(index)))
        return sample(self, index, generator)

    monkeypatch.setattr(AugmentedDataset, "sample", record)
    explode(monkeypatch, 4)
    run(drawn, tmp_path, tiny(**SETTINGS, retries=3))

    pictures = read[6:8]  # of two a step
    sentence = (
        r"loss or gradient is not finite at step 4, learning rate 0\.0025 \(loss nan, .*"
        rf"pictures of step 4: {pictures[0]}, {pictures[1]}; back to step 2, from there on with half the "
        r"learning rate \(retry 1 of 3\)"
    )
    assert [r["step"] for r in losses(tmp_path)] == [1, 2, 3, 4, 5]
    assert [r["lr"] for r in losses(tmp_path)] == pytest.approx([0.0025] * 2 + [0.00125] * 3)
    [setback] = setbacks(tmp_path)
    assert setback["step"] == 2 and setback["pictures"] == pictures
    assert re.fullmatch(sentence, setback["setback"])
    assert setback["setback"] in capsys.readouterr().out
    assert load(tmp_path / "last.pt").setbacks == 1


def test_it_goes_on_as_a_resumed_training_with_half_the_rate(drawn, tmp_path, monkeypatch):
    """Optimiser, average, pictures and random numbers included: to the bit."""
    more, five = {"retries": 3, "algorithm": "adamw"}, {"length.steps": 5}
    run(drawn, tmp_path / "resumed", tiny(**SETTINGS, **more).replaced(steps=2))
    shutil.copytree(tmp_path / "resumed", tmp_path / "resumed and failed")
    last = tmp_path / "resumed" / "last.pt"
    save(last, replace(load(last), setbacks=1))
    resume_training(drawn, output=tmp_path / "resumed", device="cpu", settings=five)

    with monkeypatch.context() as patch:
        explode(patch, 4)
        run(drawn, tmp_path / "failed", tiny(**SETTINGS, **more))
    assert_same_training(tmp_path / "resumed", tmp_path / "failed")

    with monkeypatch.context() as patch:
        explode(patch, 2)
        resume_training(drawn, output=tmp_path / "resumed and failed", device="cpu", settings=five)
    assert_same_training(tmp_path / "resumed", tmp_path / "resumed and failed")
    states = [load(tmp_path / name / "last.pt") for name in ("resumed", "failed", "resumed and failed")]
    assert [state.setbacks for state in states] == [1, 1, 1]
    weights = [state.average["weights"] for state in states]
    assert all(torch.equal(weights[0][name], other[name]) for other in weights[1:] for name in other)


def test_a_second_failure_before_a_save_goes_back_a_save_further(drawn, tmp_path, monkeypatch):
    explode(monkeypatch, 5, 6)  # step 5, and after the return step 5 again
    run(drawn, tmp_path, tiny(**SETTINGS, retries=3))
    assert [record["step"] for record in setbacks(tmp_path)] == [2]
    assert "(retry 2 of 3)" in setbacks(tmp_path)[0]["setback"]
    assert [r["lr"] for r in losses(tmp_path)] == pytest.approx([0.0025] * 2 + [0.000625] * 3)


def test_it_gives_up_after_so_many_retries(drawn, tmp_path, monkeypatch, capsys):
    explode(monkeypatch, *range(3, 100))
    with pytest.raises(FloatingPointError, match=r"not finite at step 3, learning rate 0\.00125 ") as caught:
        run(drawn, tmp_path, tiny(**SETTINGS, retries=1))
    assert caught.value.__notes__[0].startswith("pictures of step 3: ")
    assert load(tmp_path / "last.pt").setbacks == 1
    assert "last.pt holds step 2" in capsys.readouterr().out


def test_weights_that_are_not_finite_go_back_to_the_beginning(drawn, tmp_path, monkeypatch):
    """The step with which they became so is the one whose pictures are named."""
    update = step.update
    failing = iter([True])

    def spoil(state, rate):
        update(state, rate)
        if state.step == 2 and next(failing, False):
            with torch.no_grad():
                next(state.model.box_branch.parameters()).fill_(math.inf)

    monkeypatch.setattr(step, "update", spoil)
    run(drawn, tmp_path, tiny(**SETTINGS, retries=1))
    [setback] = setbacks(tmp_path)
    assert setback["step"] == 0 and "the weights are not finite after step 2" in setback["setback"]
    assert "pictures of step 2: " in setback["setback"]
    assert load(tmp_path / "last.pt").step == 5


def test_without_retries_the_sentence_names_the_pictures_too(drawn, tmp_path, monkeypatch):
    explode(monkeypatch, 1)
    with pytest.raises(FloatingPointError) as caught:
        run(drawn, tmp_path, tiny(**SETTINGS))
    assert len(caught.value.__notes__) == 1 and "/train/" in caught.value.__notes__[0]
    assert not setbacks(tmp_path)
