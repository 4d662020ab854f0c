"""The learning rate: pure functions of the step and of the completed share of the training."""

from __future__ import annotations

import math
from collections.abc import Sequence

from maskrcnn.training.settings import Length, Settings

_MOST_WARMUP_STEPS, _WARMUP_SHARE = 1000, 0.05


def completed(length: Length, step: int, elapsed: float) -> float:
    """Return the completed share of a training, 0 … 1, after so many steps and seconds."""
    minutes = length.time_limit or math.inf
    return min(1.0, max(step / (length.steps or math.inf), elapsed / 60 / minutes))


def learning_rate(settings: Settings, step: int, progress: float) -> float:
    """Return the rate of step number `step` (from 0), with `progress` (0 … 1) of the training completed."""
    schedule = settings.schedule
    rising = warm_up(warmup_progress(schedule.warmup_steps, step, progress), schedule.warmup_factor)
    if schedule.decay == "cosine":
        return settings.peak_lr * rising * cosine(progress)
    return settings.peak_lr * rising * steps_down(progress, schedule.decay_at, schedule.decay_factor)


def warmup_progress(warmup_steps: int | None, step: int, progress: float) -> float:
    """Return the completed share of the warm-up, 1 or more after its end.

    None stands for 5 % of the training, whether its steps or its clock drive `progress`, and at most 1,000
    steps: a fixed number of steps would be most of a short training.
    """
    if warmup_steps is None:
        return max(step / _MOST_WARMUP_STEPS, progress / _WARMUP_SHARE)
    return step / warmup_steps if warmup_steps else 1.0


def warm_up(progress: float, factor: float) -> float:
    """Rise linearly from `factor` to 1 with the progress of the warm-up (Goyal et al. 2017, §2.2)."""
    return 1.0 if progress >= 1 else factor + (1 - factor) * progress


def steps_down(progress: float, decay_at: Sequence[float], factor: float) -> float:
    """Fall by `factor` at each of the shares `decay_at` (He et al. 2017, §3.1)."""
    return factor ** sum(progress >= share for share in decay_at)


def cosine(progress: float) -> float:
    """Fall from 1 to 0 along half a cosine (Loshchilov and Hutter 2017, eq. 5)."""
    return 0.5 + 0.5 * math.cos(math.pi * min(progress, 1.0))
