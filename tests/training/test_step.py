"""One step: what it computes, compiled or not, and what an error leaves."""

import copy
import math
import subprocess
import sys
from itertools import repeat
from pathlib import Path

import pytest
import torch

from maskrcnn import recipes
from maskrcnn.memory import MemoryShortage
from maskrcnn.training.distributed import Processes
from maskrcnn.training.ema import restored
from maskrcnn.training.settings import Settings
from maskrcnn.training.step import (
    TrainState,
    gradients,
    load_optimiser_state,
    make_optimiser,
    optimiser_state,
    to_floats,
    train_step,
    update,
)
from scenes import scene

SMALL = {
    "pyramid.channels": 16,
    "masks.channels": 16,
    "boxes.hidden": 32,
    "boxes.samples_per_image": 32,
    "body.norm": "group",
}


def make_state(settings, device="cpu", **options):
    torch.manual_seed(0)
    model = recipes.build("resnet18_fpn", 3, {**SMALL, **options}).train().to(device)
    scaler = torch.amp.GradScaler(device, enabled=False)
    return TrainState(model, make_optimiser(model, settings), scaler, torch.device(device))


def test_a_step_adds_up_batches_and_returns_the_parts_of_the_loss():
    settings = Settings.of(accumulate=2, gradient_clip=0.5)
    state = make_state(settings)
    batches = [scene([2, 1]), scene([1, 3], seed=1)]
    torch.manual_seed(1)
    values = to_floats(gradients(state, iter(batches), settings))
    clipped = [p.grad.clone() for p in state.model.parameters() if p.grad is not None]

    state.model.zero_grad()
    torch.manual_seed(1)
    losses = [state.model(*batch) for batch in batches]
    (sum(sum(parts.values()) for parts in losses) / 2).backward()
    expected = [p.grad for p in state.model.parameters() if p.grad is not None]
    norm = torch.stack([grad.norm() for grad in expected]).norm().item()
    assert values["gradient_norm"] == pytest.approx(norm, rel=1e-4) and norm > 0.5
    for ours, theirs in zip(clipped, expected, strict=True):
        torch.testing.assert_close(ours, theirs * (0.5 / norm), rtol=1e-3, atol=1e-6)
    for name in losses[0]:
        assert values[name] == pytest.approx(sum(parts[name].item() for parts in losses) / 2, rel=1e-5)
    assert values["loss"] == pytest.approx(sum(values[name] for name in losses[0]), rel=1e-5)


def test_gradients_lie_as_their_weights_do():
    """PyTorch's fused optimisers on a CPU pair the two by their place in memory, whatever the strides say."""
    settings = Settings()
    state = make_state(settings)
    state.model.to(memory_format=torch.channels_last)
    gradients(state, iter([scene([2, 1])]), settings)
    learning = {name: p for name, p in state.model.named_parameters() if p.grad is not None}
    assert any(not p.is_contiguous() for p in learning.values())
    for name, p in learning.items():
        assert p.grad.squeeze().stride() == p.squeeze().stride(), name


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, FloatingPointError])
def test_an_error_before_the_update_leaves_the_network_as_it_was(error, monkeypatch):
    """The forward pass of the first batch has changed the running statistics of batch norms by then."""
    settings = Settings.of(accumulate=2)
    state = make_state(settings, **{"body.norm": "batch"})
    forward, passes = state.model.forward, []

    def fails_in_the_second_batch(*batch):
        passes.append(forward(*batch))
        if len(passes) == 2 and error is FloatingPointError:
            return {name: loss * math.nan for name, loss in passes[-1].items()}
        if len(passes) == 2:
            raise error
        return passes[-1]

    monkeypatch.setattr(state.model, "forward", fails_in_the_second_batch)
    before = {name: tensor.clone() for name, tensor in state.model.state_dict().items()}
    assert any(name.endswith("running_var") for name in before)
    with pytest.raises(error):
        train_step(state, repeat(scene([2, 1])), settings, 0.01)
    assert all(torch.equal(tensor, before[name]) for name, tensor in state.model.state_dict().items())
    assert state.step == 0 and state.is_whole


class OutOfMemory:
    """A network's forward pass that fails for more than `room` pictures, when half of it is computed."""

    def __init__(self, model, room):
        self.forward, self.room, self.sizes = model.forward, room, []

    def __call__(self, batch, targets):
        self.sizes.append(len(batch.images))
        losses = self.forward(batch, targets)
        if len(batch.images) > self.room:
            losses["loss_class"].backward()  # gradients and running statistics are changed by then
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return losses


def learnt(state):
    """Return the gradients and the buffers by name."""
    gradients = {name: p.grad for name, p in state.model.named_parameters() if p.grad is not None}
    return {**gradients, **dict(state.model.named_buffers())}


def test_out_of_memory_gives_what_a_loader_of_half_the_batch_would_have_given(monkeypatch):
    """To the bit, batch norms and random numbers included; later steps begin with the smaller pieces."""
    batch, targets = scene([2, 1, 3, 1])
    settings = Settings.of(batch_size=4)
    ours = make_state(settings, **{"body.norm": "batch"})
    network = OutOfMemory(ours.model, room=2)
    monkeypatch.setattr(ours.model, "forward", network)
    halves = zip(batch.split(2), targets.split(2), strict=True)
    by_halves = settings.replaced(batch_size=2, accumulate=2)
    theirs = make_state(by_halves, **{"body.norm": "batch"})

    torch.manual_seed(1)
    with pytest.warns(UserWarning, match="^out of memory at step 1 with 4 pictures .* still 4 a step$"):
        values = to_floats(gradients(ours, repeat((batch, targets)), settings))
    torch.manual_seed(1)
    assert values == to_floats(gradients(theirs, halves, by_halves))
    expected = learnt(theirs)
    assert len(expected) > 60
    assert all(torch.equal(tensor, expected[name]) for name, tensor in learnt(ours).items())
    gradients(ours, repeat((batch, targets)), settings)
    assert network.sizes == [4, 2, 2, 2, 2] and ours.limit.pictures == 2


def test_a_split_batch_gives_the_gradient_of_the_whole_one(monkeypatch):
    """Pieces of two sizes. The pictures are alike and all their anchors and regions are learnt from: there is
    no chance in it.
    """
    batch, targets = (type(one)(*(repeated(field, 3) for field in one)) for one in scene([2]))
    settings = Settings.of(batch_size=3)
    options = {"boxes.samples_per_image": 8000, "proposals.samples_per_image": 8000}
    whole, ours = (make_state(settings, **options) for _ in range(2))
    monkeypatch.setattr(ours.model, "forward", OutOfMemory(ours.model, room=2))
    expected = to_floats(gradients(whole, repeat((batch, targets)), settings))
    with pytest.warns(UserWarning, match="2 at a time from here on"):
        values = to_floats(gradients(ours, repeat((batch, targets)), settings))
    assert values == pytest.approx(expected, rel=1e-4)
    for (name, ours_grad), grad in zip(learnt(ours).items(), learnt(whole).values(), strict=True):
        torch.testing.assert_close(ours_grad, grad, rtol=1e-3, atol=1e-5, msg=name)


def repeated(field, times):
    """Return a field of a batch of one picture for several of the same."""
    if isinstance(field, tuple):  # a table of masks, whose pixels are shared
        return type(field)(field[0], *(repeated(part, times) for part in field[1:]))
    return field if field is None else field.expand(times, *field.shape[1:])


def test_one_picture_that_does_not_fit_is_one_sentence_and_changes_nothing(monkeypatch):
    settings = Settings.of(batch_size=2)
    state = make_state(settings, **{"body.norm": "batch"})
    before = {name: tensor.clone() for name, tensor in state.model.state_dict().items()}
    monkeypatch.setattr(state.model, "forward", OutOfMemory(state.model, room=0))
    sentence = "out of memory at step 1 with 1 picture at a time: lower short_sides .*recompute=true"
    with pytest.raises(MemoryShortage, match=sentence), pytest.warns(UserWarning, match="1 at a time"):
        train_step(state, repeat(scene([2, 1])), settings, 0.01)
    assert all(torch.equal(tensor, before[name]) for name, tensor in state.model.state_dict().items())
    assert all(p.grad is None for p in state.model.parameters()) and state.step == 0


def test_processes_whose_norms_exchange_statistics_do_not_repeat_a_pass(monkeypatch):
    """The others would wait in a pass that this process begins anew."""
    settings = Settings.of(batch_size=4)
    state = make_state(settings, **{"body.norm": "sync"})
    state.processes = Processes(0, 2)
    network = OutOfMemory(state.model, room=1)
    monkeypatch.setattr(state.model, "forward", network)
    with pytest.raises(MemoryShortage, match="2 pictures at a time: lower batch_size and raise accumulate"):
        gradients(state, repeat(scene([2, 1])), settings)
    assert network.sizes == [2]


def test_a_step_counts_and_an_interrupted_update_is_marked(monkeypatch):
    settings = Settings.of()
    state = make_state(settings)
    batches = repeat(scene([2, 1]))
    train_step(state, batches, settings, 0.01)
    assert state.step == 1 and state.is_whole
    monkeypatch.setattr(state.optimiser, "step", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        train_step(state, batches, settings, 0.01)
    assert state.step == 1 and not state.is_whole


@pytest.mark.parametrize("algorithm", ["sgd", "adamw"])
def test_a_restored_optimiser_takes_the_same_step(algorithm):
    """In another grouping of the parameters as well, here with the same weight decay of 0 in both groups."""
    settings = Settings.of(algorithm=algorithm, weight_decay=0.0)
    ours, other = (make_state(each) for each in (settings, settings.replaced(decay_norms_and_biases=False)))
    batches = repeat(scene([2, 1]))
    train_step(ours, batches, settings, 0.01)
    other.model.load_state_dict(ours.model.state_dict())
    states = copy.deepcopy(optimiser_state(ours.optimiser, ours.model))
    load_optimiser_state(other.optimiser, other.model, states)
    for state in (ours, other):
        torch.manual_seed(1)
        train_step(state, batches, settings, 0.01)
    theirs = other.model.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.model.state_dict().items())


def test_the_optimiser_of_another_network_is_refused():
    state = make_state(Settings.of())
    name = next(name for name, _ in state.model.named_parameters())
    for wrong in (torch.ones(3, 4, 5), 1.0):
        with pytest.raises(ValueError, match=f"the optimiser's state of {name} does not fit"):
            load_optimiser_state(state.optimiser, state.model, {name: {"momentum_buffer": wrong}})


# Without the shapes' checks, which no compiler can follow. It raises at a graph break.
COMPILED = """
import sys, torch
sys.path.insert(0, sys.argv[1])
from maskrcnn import recipes
from scenes import scene

torch.set_num_threads(1)
torch.manual_seed(0)
options = {"pyramid.channels": 16, "boxes.hidden": 32, "boxes.samples_per_image": 32}
model = recipes.build("resnet18_fpn", 3, {**options, "body.norm": "group", "keypoints.count": 5})
compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
for objects in ([3, 2], [40, 0]):  # few, and more than are matched at a time
    batch, targets = scene(objects, keypoints=5)
    answers = []
    for network in (model, compiled):
        model.zero_grad()
        torch.manual_seed(7)
        losses = network(batch, targets)
        sum(losses.values()).backward()
        answers.append((losses, [p.grad.clone() for p in model.parameters() if p.grad is not None]))
    torch.testing.assert_close(*answers, rtol=1e-3, atol=1e-5)
print("equal")
"""


@pytest.mark.slow
def test_the_losses_are_one_graph_and_its_answers_are_the_same():
    """Boxes, masks and keypoints, with the same draws; gradients, too."""
    tests = str(Path(__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", COMPILED, tests], capture_output=True, text=True, check=False
    )
    assert done.stdout == "equal\n", done.stderr


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_step_waits_for_the_device_only_for_its_losses(precision):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    settings = Settings.of(precision=precision)
    state = make_state(settings, "cuda", keypoints=5)
    batches = repeat(scene([3, 2], keypoints=5))
    for _ in range(2):  # the first steps choose kernels and allocate
        train_step(state, batches, settings, 1e-4)
    torch.cuda.set_sync_debug_mode("error")
    try:
        values = gradients(state, batches, settings)
        update(state, 1e-4)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(torch.isfinite(torch.tensor(list(to_floats(values).values()))))


def test_an_update_that_fp16_skips_is_not_averaged():
    state = make_state(Settings())
    state.scaler, state.average = torch.amp.GradScaler("cpu", init_scale=4.0), restored(state.model, 0.9, {})
    for factor, updates in ((torch.inf, 0), (1.0, 1), (torch.inf, 1)):
        weights = next(state.model.box_branch.parameters())
        state.scaler.scale((weights * factor).sum()).backward()
        update(state, 0.5)
        assert state.average.updates == updates
    assert state.step == 3
