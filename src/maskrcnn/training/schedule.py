"""The learning rate: pure functions of the step and of the completed share of the training."""

from __future__ import annotations

import math
from collections.abc import Sequence

from maskrcnn.training.settings import Settings


def learning_rate(settings: Settings, step: int, progress: float) -> float:
    """Return the rate of step number `step` (from 0), with `progress` (0 … 1) of the training completed."""
    schedule = settings.schedule
    rising = warm_up(step, schedule.warmup_steps, schedule.warmup_factor)
    if schedule.decay == "cosine":
        return settings.peak_lr * rising * cosine(progress)
    return settings.peak_lr * rising * steps_down(progress, schedule.decay_at, schedule.decay_factor)


def warm_up(step: int, steps: int, factor: float) -> float:
    """Rise linearly from `factor` to 1 over the first `steps` (Goyal et al. 2017, §2.2)."""
    return 1.0 if step >= steps else factor + (1 - factor) * step / steps


def steps_down(progress: float, decay_at: Sequence[float], factor: float) -> float:
    """Fall by `factor` at each of the shares `decay_at` (He et al. 2017, §3.1)."""
    return factor ** sum(progress >= share for share in decay_at)


def cosine(progress: float) -> float:
    """Fall from 1 to 0 along half a cosine (Loshchilov and Hutter 2017, eq. 5)."""
    return 0.5 + 0.5 * math.cos(math.pi * min(progress, 1.0))
