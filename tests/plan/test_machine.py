"""What is measured of a training step."""

import pytest
import torch

from maskrcnn.data import synthetic
from maskrcnn.data.folder import read_whole
from maskrcnn.network.norms import FrozenBatchNorm2d
from maskrcnn.plan import machine
from maskrcnn.plan.machine import step_seconds, trial_run
from maskrcnn.training.settings import Settings
from maskrcnn.training.step import make_train_state
from maskrcnn.weights.init import InitialWeights

SETTINGS = Settings.of(batch_size=2, short_sides=(64,), long_side=64, workers=0)
TINY = {"pyramid.channels": 16, "masks.channels": 16, "boxes.hidden": 16}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return read_whole(synthetic.synthetic_dataset(tmp_path_factory.mktemp("drawn"), train=4, val=2, size=64))


@pytest.mark.parametrize(
    ("origin", "norm"),
    [(None, torch.nn.GroupNorm), (InitialWeights({}, None, {}, ()), FrozenBatchNorm2d)],
)
def test_the_network_of_a_trial_is_that_of_the_training(dataset, origin, norm):
    run = trial_run(dataset, SETTINGS, "resnet18_fpn", TINY, origin)
    state = make_train_state(run, torch.device("cpu"))
    assert any(isinstance(layer, norm) for layer in state.model.backbone.modules())
    assert 0 < step_seconds(state, dataset, SETTINGS, steps=1) < 60 and state.step > 0


@pytest.mark.parametrize(
    ("seconds", "expected", "count"),
    [
        ([0.9, 0.1, 0.3, 0.2], 0.2, 4),  # the first one is slower
        ([2.9, 0.5, 0.4], 0.5, 2),  # 3 seconds are over
        ([7.0, 5.0], 7.0, 1),
    ],
)
def test_slow_steps_are_measured_fewer_times(dataset, monkeypatch, seconds, expected, count):
    left = list(seconds)
    monkeypatch.setattr(machine, "_seconds", lambda run: left.pop(0))
    monkeypatch.setattr(machine, "open_batches", lambda *_: None)
    run = trial_run(dataset, SETTINGS, "resnet18_fpn", TINY, None)
    state = make_train_state(run, torch.device("cpu"))
    assert step_seconds(state, dataset, SETTINGS) == expected
    assert len(seconds) - len(left) == count
