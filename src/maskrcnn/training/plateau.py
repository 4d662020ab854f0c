"""Early stopping that still runs the last decay of the learning rate.

A training that no longer improves at a high rate gains most when the rate falls. So patience that ends does
not stop the training: it runs the rest of the schedule in a tenth of the planned length.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

GAIN = 0.1  # AP, percent, that counts as better
_EARLIEST = 0.5  # share of the training before which patience does not end
_FINAL_DECAY = 0.1  # length of the last decay, as a share of the training


@dataclass(frozen=True)
class Plateau:
    """What the evaluations so far say of a training's progress."""

    ap: float = -1.0  # percent, to be exceeded by `GAIN`
    evaluations: int = 0  # since it was reached
    begins: float = 1.0  # share of the training at which the last decay begins; 1: that of the schedule

    @property
    def end(self) -> float:
        """The share of the planned length at which the training ends."""
        return min(1.0, self.begins + _FINAL_DECAY)

    def after(self, ap: float, progress: float, patience: int | None) -> Plateau:
        """Return the state after an evaluation at `progress` (0 … 1)."""
        if ap >= self.ap + GAIN:
            return replace(self, ap=ap, evaluations=0)
        evaluations = self.evaluations + 1
        is_over = patience is not None and evaluations >= patience and self.begins == 1
        if is_over and _EARLIEST <= progress < 1 - _FINAL_DECAY:
            return replace(self, evaluations=evaluations, begins=progress)
        return replace(self, evaluations=evaluations)

    def schedule_progress(self, progress: float) -> float:
        """Return how far the schedule of the learning rate is: from `begins` on it runs faster, to `end`."""
        if progress <= self.begins:
            return progress
        return 1 - (1 - self.begins) * (self.end - progress) / (self.end - self.begins)
