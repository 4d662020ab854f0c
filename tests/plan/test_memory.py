"""The memory of a step: a line through what a device gives, and the worst case on this machine."""

from pathlib import Path

import numpy as np
import pytest
import torch

from maskrcnn.bench.timing import memory_in_use
from maskrcnn.data.folder import read_whole
from maskrcnn.data.synthetic import synthetic_dataset
from maskrcnn.network import model as network
from maskrcnn.plan.machine import Machine, trial_run
from maskrcnn.plan.make import make_plan
from maskrcnn.plan.memory import (
    StepMemory,
    largest_input,
    sizes_to_try,
    step_measure,
    try_batches,
)
from maskrcnn.training.settings import Settings
from maskrcnn.training.step import make_train_state
from trainings import TINY_RECIPE

CPU = torch.device("cpu")


class Device:
    """Has `size` bytes, of which `held` are in use; a step takes 100, and 50 for each picture."""

    def __init__(self, size: int, held: int = 0) -> None:
        self.size, self.held, self.tried = size, held, []

    def __call__(self, pictures: int) -> int:
        self.tried.append(pictures)
        peak = self.held + 100 + 50 * pictures
        if peak > self.size:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return peak


def test_the_batch_takes_four_fifths_of_the_free_memory():
    device = Device(1030, held=30)
    memory = try_batches(device, sizes_to_try(64), 30, 1000)
    assert device.tried == [1, 2, 4, 8, 16]  # 16 take 900 of the 800 that they should
    assert memory.line == pytest.approx((130, 50))
    assert memory.planned(8) == 530 and memory.planned(3) == 280
    assert memory.largest(1000) == 14  # 30 + 100 + 14 * 50 = 830
    assert memory.largest(200) == 1 and memory.largest(100) == 0


def test_what_ran_out_of_memory_is_not_planned():
    device = Device(480)  # 800 are said to be free
    memory = try_batches(device, sizes_to_try(16), 0, 800)
    assert device.tried == [1, 2, 4, 8] and memory.refused == 8
    assert memory.peaks == ((1, 150), (2, 200), (4, 300)) and memory.line == pytest.approx((100, 50))
    assert memory.largest(800) == 7  # by the line alone it would be 10
    nothing = try_batches(Device(120), sizes_to_try(16), 0, 800)
    assert nothing == StepMemory(0, (), refused=1) and nothing.largest(800) == 0


def test_of_a_single_peak_all_is_counted_for_the_picture():
    one = try_batches(Device(160), sizes_to_try(4), 0, 160)  # 150 are more than four fifths of 160
    assert one == StepMemory(0, ((1, 150),)) and one.planned(2) == 300
    assert one.largest(160) == 0 and one.largest(400) == 2


def test_other_errors_of_a_trial_are_raised():
    def broken(_pictures):
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        try_batches(broken, [1], 0, 100)


@pytest.mark.parametrize(
    ("most", "sizes"), [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (8, [1, 2, 4, 8]), (9, [1, 2, 4, 8, 9])]
)
def test_sizes_double(most, sizes):
    assert sizes_to_try(most) == sizes


def test_the_largest_input_is_that_of_a_batch_of_both_orientations():
    sizes = np.array([[480, 640], [640, 480], [100, 120]])
    settings = Settings.of(short_sides=(224, 256), long_side=400)
    assert largest_input(sizes, settings) == (341, 341)  # 640 * 256 / 480
    assert largest_input(sizes[:1], settings) == (256, 341)
    assert largest_input(sizes[:1], settings.replaced(scale=(0.5, 1.5))) == (384, 512)
    assert largest_input(sizes[:1], settings.replaced(scale=(0.5, 1.5), crop=(300, 600))) == (300, 512)
    assert largest_input(sizes, settings.replaced(short_sides=None)) == (400, 400)


on_linux = pytest.mark.skipif(memory_in_use(CPU) is None, reason="resident memory is read from Linux' /proc")


def test_a_machine_of_little_memory_gets_a_plan_for_it(tmp_path: Path, monkeypatch):
    """A step takes 1 MiB for each picture, of 1 MiB; what a real one takes depends on what was freed."""
    data = synthetic_dataset(tmp_path, train=4, val=1, size=64)
    monkeypatch.setattr("maskrcnn.plan.make.probe_machine", lambda _: Machine("cpu", 1, 1 << 20, "float32"))
    monkeypatch.setattr("maskrcnn.plan.make.memory_in_use", lambda _: 1 << 30)
    measure = lambda pictures: (1 << 30) + (pictures << 20)  # noqa: E731
    monkeypatch.setattr("maskrcnn.plan.make.step_measure", lambda *_: measure)
    small = {**TINY_RECIPE, "pictures.short_sides": (64,), "pictures.long_side": 64}
    planned = make_plan(data, minutes=1.0, recipe="resnet18_fpn", values=small)
    step = planned.settings.step
    assert (step.batch_size, step.accumulate, step.recompute) == (1, 2, True)
    [line] = [line for line in planned.plan.lines if line.name == "step.batch_size"]
    assert "planned memory" in line.reason and "(measured)" in line.reason


@on_linux
def test_a_trial_is_a_step_with_all_that_it_can_hold(tmp_path: Path, monkeypatch):
    dataset = read_whole(synthetic_dataset(tmp_path, train=4, val=0, size=64))
    settings = Settings.of(algorithm="adamw", short_sides=(256,), long_side=256)
    state = make_train_state(trial_run(dataset, settings, "resnet18_fpn", TINY_RECIPE, None), CPU)
    before = [p.clone() for p in state.model.parameters()]
    regions = []

    def sampled(*arguments, **options):
        regions.append(sample_regions(*arguments, **options))
        return regions[-1]

    sample_regions = network.sample_regions
    monkeypatch.setattr(network, "sample_regions", sampled)
    measure = step_measure(state, dataset, 3, settings)
    held = memory_in_use(CPU)
    peaks = [measure(pictures) for pictures in (1, 4)]
    assert held < peaks[0] < peaks[1]
    assert [int(one.positive.sum()) for one, _ in regions] == [4, 4, 16]  # a quarter of 16 in each picture
    assert set(state.optimiser.state[next(iter(state.optimiser.state))]) >= {"exp_avg", "exp_avg_sq"}
    assert all(torch.equal(p, q) for p, q in zip(before, state.model.parameters(), strict=True))
