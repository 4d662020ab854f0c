"""A network on its device, with what changes its weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from maskrcnn.network.model import MaskRCNN
from maskrcnn.training.checkpoint import Checkpoint
from maskrcnn.training.distributed import ALONE, Processes
from maskrcnn.training.settings import Settings
from maskrcnn.types import Batch, Targets
from maskrcnn.weights.model_checkpoint import ModelCheckpoint

_DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class TrainState(NamedTuple):
    """What a step works on."""

    model: MaskRCNN
    optimiser: torch.optim.Optimizer
    scaler: torch.amp.GradScaler  # keeps fp16's gradients in range; idle in other precisions
    device: torch.device
    processes: Processes = ALONE

    def state(self, trained: ModelCheckpoint) -> dict[str, Any]:
        """Return what a checkpoint keeps of it; the network becomes that of `trained`."""
        return {
            "trained": replace(trained, weights=self.model.state_dict()),
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.scaler.state_dict(),
        }


def make_train_state(run: Checkpoint, device: torch.device, processes: Processes = ALONE) -> TrainState:
    """Build a training's network, optimiser and scaler as its checkpoint has them.

    Raises ValueError when they do not fit each other or the device.
    """
    if run.settings.step.precision == "fp16" and device.type != "cuda":
        raise ValueError(f"precision=fp16 needs a CUDA device, not {device.type}; bf16 works everywhere")
    model = run.trained.build().train().to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if run.settings.step.compiled:
        model.compile(dynamic=True)  # pictures and their objects differ in size and number
    optimiser = make_optimiser(model, run.settings)
    scaler = torch.amp.GradScaler(device.type, enabled=run.settings.step.precision == "fp16")
    if run.optimiser:
        try:
            optimiser.load_state_dict(run.optimiser)
        except (ValueError, KeyError) as error:
            raise ValueError(
                f"the optimiser cannot go on as {run.settings.optimiser.algorithm}: {error}"
            ) from error
        scaler.load_state_dict(run.scaler)
    return TrainState(model, optimiser, scaler, device, processes)


def make_optimiser(model: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    """Return the optimiser of the parameters that learn; `update` sets its rate."""
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    spared = [p for p in learning if p.ndim == 1 and not settings.optimiser.decay_norms_and_biases]
    decayed = [p for p in learning if p.ndim > 1 or settings.optimiser.decay_norms_and_biases]
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": spared, "weight_decay": 0.0}]
    fused = learning[0].device.type in ("cpu", "cuda")  # one pass over the weights; half the time of several
    if settings.optimiser.algorithm == "adamw":
        return torch.optim.AdamW(
            groups, settings.peak_lr, weight_decay=settings.optimiser.weight_decay, fused=fused
        )
    return torch.optim.SGD(
        groups,
        settings.peak_lr,
        settings.optimiser.momentum,
        weight_decay=settings.optimiser.weight_decay,
        fused=fused,
    )


def train_step(
    learner: TrainState, batches: Iterator[tuple[Batch, Targets]], settings: Settings, rate: float
) -> dict[str, Tensor]:
    """Change the weights once; return the loss, its parts, and the gradient's norm.

    These stay on the device, so that nothing here waits for it; see `to_floats`.
    """
    values = gradients(learner, batches, settings)
    update(learner, rate)
    return values


def gradients(
    learner: TrainState, batches: Iterator[tuple[Batch, Targets]], settings: Settings
) -> dict[str, Tensor]:
    """Add up the gradient of one step's batches; return the loss, its parts, and the gradient's norm."""
    model, optimiser, scaler, device, processes = learner
    parts = torch.zeros((), device=device)
    for _ in range(settings.step.accumulate):
        batch, targets = next(batches)
        with torch.autocast(
            device.type, _DTYPES[settings.step.precision], settings.step.precision != "float32"
        ):
            losses = model(batch.to(device), targets.to(device))
        shares = torch.stack([loss.float() for loss in losses.values()]) / settings.step.accumulate
        scaler.scale(shares.sum()).backward()
        parts = parts + shares.detach()
    processes.average(model.parameters())
    scaler.unscale_(optimiser)
    norm = clip_grad_norm_(model.parameters(), settings.optimiser.gradient_clip or math.inf)
    if scaler.is_enabled():  # where fp16 overflows, the scaler skips the update and lowers its scale
        norm = torch.where(norm.isfinite(), norm, 0.0)
    return {"loss": parts.sum(), **dict(zip(losses, parts.unbind(), strict=True)), "gradient_norm": norm}


def to_floats(values: Mapping[str, Tensor]) -> dict[str, float]:
    """Return what a step gave as numbers, in one transfer: only here does a training wait for the device."""
    return dict(zip(values, torch.stack(list(values.values())).tolist(), strict=True))


def update(learner: TrainState, rate: float) -> None:
    """Change the weights by the gradient, which is gone after that."""
    for group in learner.optimiser.param_groups:
        group["lr"] = rate
    learner.scaler.step(learner.optimiser)
    learner.scaler.update()
    learner.optimiser.zero_grad()
