"""One training step: gradients of the losses, and the update of the weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import clip_grad_norm_

from maskrcnn.memory import BatchLimit
from maskrcnn.network.model import MaskRCNN
from maskrcnn.training.checkpoint import Checkpoint
from maskrcnn.training.distributed import ALONE, Processes
from maskrcnn.training.ema import Average, restored
from maskrcnn.training.recompute import recompute_activations
from maskrcnn.training.settings import Settings, Step
from maskrcnn.types import Batch, Targets

_REMEDY = "lower short_sides or samples_per_image, or set precision=bf16 or recompute=true"
_DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass
class TrainState:
    """What a step reads and changes."""

    model: MaskRCNN
    optimiser: torch.optim.Optimizer
    scaler: torch.amp.GradScaler  # keeps fp16's gradients in range; disabled in other precisions
    device: torch.device
    processes: Processes = ALONE
    step: int = 0  # completed steps
    limit: BatchLimit = field(default_factory=BatchLimit)  # of pictures in one forward pass
    is_whole: bool = True  # False while an update is in progress
    average: Average | None = None  # of the weights


def make_train_state(run: Checkpoint, device: torch.device, processes: Processes = ALONE) -> TrainState:
    """Build the network, optimiser, scaler and average of a checkpoint on a device; `run` is copied.

    Raises ValueError when they do not fit each other or the device.
    """
    settings = run.settings
    if settings.step.precision == "fp16" and device.type != "cuda":
        raise ValueError(f"precision=fp16 needs a CUDA device, not {device.type}; bf16 works everywhere")
    model = run.trained.build().train().to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if settings.step.recompute:
        recompute_activations(model)
    if settings.step.compiled:
        model.compile(dynamic=True)  # pictures differ in size, and in how many objects they have
    optimiser = make_optimiser(model, settings)
    load_optimiser_state(optimiser, model, run.optimiser)
    scaler = torch.amp.GradScaler(device.type, enabled=settings.step.precision == "fp16")
    if run.scaler:  # absent where the run had another precision
        scaler.load_state_dict(run.scaler)
    decay = settings.optimiser.ema
    average = None if decay is None else restored(model, decay, run.average)
    limit = BatchLimit(run.at_a_time or None)
    return TrainState(model, optimiser, scaler, device, processes, run.step, limit=limit, average=average)


def restore(state: TrainState, run: Checkpoint) -> None:
    """Make a state, in place, that of another checkpoint of its run; `run` is copied."""
    state.model.load_state_dict(run.trained.weights)
    load_optimiser_state(state.optimiser, state.model, run.optimiser)
    state.optimiser.zero_grad()
    if run.scaler:
        state.scaler.load_state_dict(run.scaler)
    if state.average:
        state.average = restored(state.model, state.average.decay, run.average)
    state.step, state.is_whole = run.step, True


def make_optimiser(model: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    """Return the optimiser of the parameters that learn; `update` sets its rate."""
    group = settings.optimiser
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    no_decay = [p for p in learning if p.ndim == 1 and not group.decay_norms_and_biases]
    decay = [p for p in learning if p.ndim > 1 or group.decay_norms_and_biases]
    parameters: list[dict[str, Any]] = [{"params": decay}, {"params": no_decay, "weight_decay": 0.0}]
    common: dict[str, Any] = {
        "lr": settings.peak_lr,
        "weight_decay": group.weight_decay,
        "fused": learning[0].device.type in ("cpu", "cuda"),  # one pass over the weights, half the time
    }
    if group.algorithm == "adamw":
        return torch.optim.AdamW(parameters, **common)
    return torch.optim.SGD(parameters, momentum=group.momentum, **common)


def optimiser_state(optimiser: torch.optim.Optimizer, model: nn.Module) -> dict[str, dict[str, Any]]:
    """Return the optimiser's state of each parameter (momentum, …), by the parameter's name.

    Unlike `Optimizer.state_dict` it holds no settings, and does not depend on the groups of parameters:
    a resumed training may change both.
    """
    states = optimiser.state
    return {name: dict(states[p]) for name, p in model.named_parameters() if p in states}


def load_optimiser_state(
    optimiser: torch.optim.Optimizer, model: nn.Module, states: Mapping[str, Mapping[str, Any]]
) -> None:
    """Restore what `optimiser_state` returned, on the parameters' device; settings stay the optimiser's own.

    Raises ValueError for a state of another network.
    """
    for name, parameter in model.named_parameters():
        state = states.get(name, {})
        if not isinstance(state, Mapping) or not all(_fits(value, parameter) for value in state.values()):
            raise ValueError(f"the optimiser's state of {name} does not fit the parameter")
    names = {parameter: name for name, parameter in model.named_parameters()}
    order = [names[parameter] for group in optimiser.param_groups for parameter in group["params"]]
    by_number = {
        number: {key: value.clone() for key, value in states[name].items()}
        for number, name in enumerate(order)
        if name in states
    }
    groups = optimiser.state_dict()["param_groups"]
    optimiser.load_state_dict({"state": by_number, "param_groups": groups})


def _fits(value: Any, parameter: Tensor) -> bool:
    """Say whether a value is of the parameter's shape, or a number (AdamW counts its steps)."""
    return isinstance(value, Tensor) and value.shape in (parameter.shape, torch.Size([]))


def train_step(
    state: TrainState, batches: Iterator[tuple[Batch, Targets]], settings: Settings, rate: float
) -> dict[str, float]:
    """Change the weights once; return the loss, its parts, and the gradient's norm.

    An exception before the update leaves the network as it was before the step. One is FloatingPointError,
    where the loss or the gradient is not finite.
    """
    with unchanged_on_error(state.model):
        losses = to_floats(gradients(state, batches, settings))
        if not all(map(math.isfinite, losses.values())):
            parts = ", ".join(f"{name} {value:g}" for name, value in losses.items())
            raise FloatingPointError(
                f"loss or gradient is not finite at step {state.step + 1}, learning rate {rate:g} ({parts}): "
                "lower lr, lengthen the warm-up or set gradient_clip"
            )
    update(state, rate)
    return losses


def gradients(
    state: TrainState, batches: Iterator[tuple[Batch, Targets]], settings: Settings
) -> dict[str, Tensor]:
    """Add up the gradients of one step's batches; return the loss, its parts, and the gradient's norm.

    The values stay on the device, and nothing here waits for it. Where memory runs out, this and all later
    steps compute the batches in smaller pieces (`BatchLimit`, `add_gradients`); so does a resumed training,
    to give what an uninterrupted one would have given. Processes average when all passes are done, so one
    that repeats its own keeps the others waiting, no more. Only synchronised batch norms exchange statistics
    in the passes themselves, and then nothing is repeated.

    Raises MemoryShortage where memory does not suffice.
    """
    model, step = state.model, settings.step
    drawn = list(islice(batches, step.accumulate))  # before the passes, which may be repeated
    in_lockstep = state.processes.size > 1 and any(isinstance(m, nn.SyncBatchNorm) for m in model.modules())
    batch_size = len(drawn[0][0].images)
    losses, parts = state.limit.run(
        partial(add_gradients, state, drawn, step),
        batch_size,
        least=batch_size if in_lockstep else 1,
        place=f" at step {state.step + 1}",
        consequence=f", still {step.pictures} a step",
        remedy="lower batch_size and raise accumulate" if in_lockstep else _REMEDY,
    )
    state.processes.average(model.parameters())
    parts = state.processes.mean(parts)
    state.scaler.unscale_(state.optimiser)
    norm = clip_grad_norm_(model.parameters(), settings.optimiser.gradient_clip or math.inf)
    if state.scaler.is_enabled():  # where fp16 overflows, the scaler skips the update and lowers its scale
        norm = torch.where(norm.isfinite(), norm, 0.0)
    return {"loss": parts.sum(), **dict(zip(losses, parts.unbind(), strict=True)), "gradient_norm": norm}


def add_gradients(
    state: TrainState, batches: Sequence[tuple[Batch, Targets]], step: Step, at_a_time: int
) -> tuple[list[str], Float[Tensor, " parts"]]:
    """Add up the gradients of batches, `at_a_time` pictures in a pass; return the loss's parts, names first.

    A piece of a batch counts by its number of pictures. So the sum equals the gradient of the whole batch, up
    to rounding, where each picture has as many samples; losses of masks and keypoints are means over the
    positive regions of a pass, those of the whole batch or of a piece, as with `accumulate`. Batch norms see
    a piece alone, and anchors and regions are sampled by other random numbers. After an error there are no
    gradients, and running statistics and random numbers are those before the first pass.
    """
    parts = torch.zeros((), device=state.device)
    with unchanged_on_error(state.model), _repeatable(state.optimiser):
        for batch, targets in batches:
            pieces = zip(batch.split(at_a_time), targets.split(at_a_time), strict=True)
            for images, truth in pieces:
                with torch.autocast(
                    state.device.type, _DTYPES[step.precision], enabled=step.precision != "float32"
                ):
                    losses = state.model(images.to(state.device), truth.to(state.device))
                pieces_per_step = step.accumulate * len(batch.images) / len(images.images)
                shares = torch.stack([loss.float() for loss in losses.values()]) / pieces_per_step
                state.scaler.scale(shares.sum()).backward()
                parts = parts + shares.detach()
    return list(losses), parts


def to_floats(values: Mapping[str, Tensor]) -> dict[str, float]:
    """Return scalars as numbers, by one transfer: only here does a training wait for its device."""
    return dict(zip(values, torch.stack(list(values.values())).tolist(), strict=True))


def update(state: TrainState, rate: float) -> None:
    """Change the weights by the gradients, and clear these.

    The average takes the new weights in, unless the scaler skipped the update: then it lowers its scale.
    """
    state.is_whole = False
    for group in state.optimiser.param_groups:
        group["lr"] = rate
    scale = state.scaler.get_scale()
    state.scaler.step(state.optimiser)
    state.scaler.update()
    state.optimiser.zero_grad()
    if state.average and state.scaler.get_scale() >= scale:
        state.average.update(state.model)
    state.step += 1
    state.is_whole = True


@contextmanager
def unchanged_on_error(model: nn.Module) -> Iterator[None]:
    """Restore the running statistics of batch norms if the block raises: a forward pass changes them."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    statistics = [buffer for norm in norms for buffer in norm.buffers()]
    before = [buffer.clone() for buffer in statistics]
    try:
        yield
    except BaseException:
        for buffer, value in zip(statistics, before, strict=True):
            buffer.copy_(value)
        raise


def is_finite(state: TrainState) -> bool:
    """Return whether all weights are finite; this waits for the device."""
    return bool(torch.stack([weights.isfinite().all() for weights in state.model.parameters()]).all())


@contextmanager
def _repeatable(optimiser: torch.optim.Optimizer) -> Iterator[None]:
    """Clear the gradients and begin the random numbers anew if the block raises: each step has its seed."""
    try:
        yield
    except BaseException:
        optimiser.zero_grad()
        torch.manual_seed(torch.initial_seed())
        raise


def step_seed(seed: int, step: int, rank: int = 0) -> int:
    """Return the seed of the random numbers of a step, counted from 1; step 0 draws the initial weights.

    Each of several processes has its own, by its `rank`.
    """
    return int(np.random.SeedSequence((seed, step) + (rank,) * (rank > 0)).generate_state(1)[0])
