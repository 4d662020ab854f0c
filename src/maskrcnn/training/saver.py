"""When the checkpoints of a run are written, and that no end of a training loses its last good step."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from maskrcnn.training.checkpoint import Checkpoint, save
from maskrcnn.training.log import TrainingLog
from maskrcnn.training.step import TrainState, optimiser_state

LAST, BEST, DIVERGED = "last.pt", "best.pt", "diverged.pt"


class Saver:
    """Saves a run when asked, and its last completed step when an exception ends the training.

    `run` holds what the steps do not change, and the metrics of the last evaluation. Only the first of
    several processes saves; nothing here waits for another process.

    Weights with which the loss was not finite never replace ``last.pt``: they are the end of a divergence, of
    which ``last.pt`` holds a state before, and go to ``diverged.pt`` for inspection.
    """

    def __init__(
        self, folder: Path, run: Checkpoint, state: TrainState, log: TrainingLog, resume_command: str
    ) -> None:
        self.folder, self.run, self.state, self.log = folder, run, state, log
        self.resume_command = resume_command
        self.saved_step = run.step
        self._start = time.monotonic() - run.elapsed

    @property
    def elapsed(self) -> float:
        """Seconds of training so far, those of runs before this one included."""
        return time.monotonic() - self._start

    def save(self, names: Sequence[str] = (LAST,)) -> None:
        """Write the state after the last step under each of `names`.

        Raises OSError where a file cannot be written, and FloatingPointError where a weight is not finite.
        """
        if not self.state.processes.leads:
            return
        if not _is_finite(self.state):
            raise FloatingPointError(
                f"the weights are not finite after step {self.state.step}: lower lr, lengthen the warm-up or "
                "set gradient_clip"
            )
        for name in names:
            save(self.folder / name, self._checkpoint())
        self.saved_step = self.state.step

    def set_thresholds(self, score_thresholds: tuple[float, ...]) -> None:
        """Set the score thresholds that the next checkpoints hold; empty: they could not be measured."""
        self.run = replace(self.run, trained=replace(self.run.trained, score_thresholds=score_thresholds))

    def keep(self, metrics: dict[str, Any], ap: float) -> None:
        """Save the run with the metrics of an evaluation, as the best where `ap` is the highest so far."""
        is_best = ap > self.run.best_ap
        self.run = replace(self.run, metrics=metrics, best_ap=max(ap, self.run.best_ap))
        self.save((LAST, BEST) if is_best else (LAST,))

    def __enter__(self) -> Saver:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        """Save what an exception would lose, and log where the training stopped; the exception propagates."""
        if error is None or not self.state.processes.leads:
            return
        account = self._rescued(error) if self.state.step > self.saved_step else ""
        saved = "nothing is saved"
        if (self.folder / LAST).exists():
            saved = f"{LAST} holds step {self.saved_step}; to resume: {self.resume_command}"
        self.log.print(f"stopped after step {self.state.step}; {account}{saved}")

    def _rescued(self, error: BaseException) -> str:
        """Save the last completed step; return an account of what cannot be saved as such."""
        if not self.state.is_whole:
            return "the update of the weights was interrupted; "
        try:
            if isinstance(error, FloatingPointError):
                if not _is_finite(self.state):
                    return ""
                save(self.folder / DIVERGED, self._checkpoint())
                return f"{DIVERGED} holds the state before the failed step; "
            self.save()
        except Exception as second:  # must not hide the first
            return f"that step could not be saved ({second}); "
        return ""

    def _checkpoint(self) -> Checkpoint:
        state = self.state
        return replace(
            self.run,
            trained=replace(self.run.trained, weights=state.model.state_dict()),
            optimiser=optimiser_state(state.optimiser, state.model),
            scaler=state.scaler.state_dict(),
            step=state.step,
            elapsed=self.elapsed,
        )


def _is_finite(state: TrainState) -> bool:
    """Return whether all weights are finite; called before a save, which waits for the device anyway."""
    return bool(torch.stack([weights.isfinite().all() for weights in state.model.parameters()]).all())
