"""When the checkpoints of a run are written, and that no end of a training loses its last good step."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from maskrcnn.training.checkpoint import Checkpoint, save
from maskrcnn.training.judged import Judged
from maskrcnn.training.log import TrainingLog
from maskrcnn.training.plateau import Plateau
from maskrcnn.training.step import TrainState, is_finite, optimiser_state, restore

LAST, BEST, DIVERGED = "last.pt", "best.pt", "diverged.pt"


class Saver:
    """Saves a run when asked, and its last completed step when an exception ends the training.

    `run` holds what the steps do not change, and what is known from the last evaluation. Only the first of
    several processes writes files; nothing here waits for another process.

    Weights with which the loss was not finite never replace ``last.pt``: they are the end of a divergence, of
    which ``last.pt`` holds a state before, and go to ``diverged.pt`` for inspection. Where the run may be
    retried, each process keeps copies of the last two saves in memory, on the CPU.
    """

    def __init__(
        self, folder: Path, run: Checkpoint, state: TrainState, log: TrainingLog, resume_command: str
    ) -> None:
        self.folder, self.run, self.state, self.log = folder, run, state, log
        self.resume_command = resume_command
        self.saved_step = run.step
        self._good = [run]
        self._start = time.monotonic() - run.elapsed

    @property
    def elapsed(self) -> float:
        """Seconds of training so far, those of runs before this one included."""
        return time.monotonic() - self._start

    def save(self) -> None:
        """Write the state after the last step as ``last.pt``.

        Raises OSError where the file cannot be written, and FloatingPointError where a weight is not finite.
        """
        if not is_finite(self.state):
            raise FloatingPointError(
                f"the weights are not finite after step {self.state.step}: lower lr, lengthen the warm-up or "
                "set gradient_clip"
            )
        checkpoint = self._checkpoint()
        self._write(checkpoint)
        if self.run.setbacks < self.run.settings.optimiser.retries:
            before = [good for good in self._good if good.step < checkpoint.step]
            self._good = [*before[-1:], _copied(checkpoint)]

    def keep(self, judged: Sequence[Judged], plateau: Plateau) -> None:
        """Save the run after an evaluation.

        `judged` are the network's weights and, where there is one, their average; empty except in the first
        process. The better of them is the best checkpoint if its AP is the highest so far. It is written
        first: where the machine stops in between, ``last.pt`` is one whose evaluation is to be repeated.
        """
        self.run = replace(self.run, evaluated=self.state.step, plateau=plateau)
        if judged:
            trained = replace(self.run.trained, score_thresholds=judged[0].score_thresholds)
            self.run = replace(self.run, metrics=judged[0].metrics, trained=trained)
            best = max(judged, key=lambda one: one.ap)
            if best.ap > self.run.best_ap:
                self.run = replace(self.run, best_ap=best.ap)
                save(self.folder / BEST, self._best(best))
        self.save()

    def set_back(self, error: FloatingPointError, pictures: Sequence[Path]) -> None:
        """Go back to the last save, from which on the learning rate is half of what it was, and log that.

        Where the training fails again before the next save, the weights may have been on their way out when
        they were saved: it goes back to the save before. After a resume only ``last.pt`` is known.

        `pictures` are those of the step that failed. Raises `error` where the run has no retries left.
        """
        retries, setbacks = self.run.settings.optimiser.retries, self.run.setbacks + 1
        if setbacks > retries:
            raise error
        has_saved_since = self._good[-1].setbacks == self.run.setbacks
        good = self._good[-1] if has_saved_since else self._good[0]
        restore(self.state, good)
        self.run = replace(good, setbacks=setbacks, elapsed=self.elapsed, best_ap=self.run.best_ap)
        self._write(self._checkpoint())
        sentence = (
            f"{', '.join([str(error), *error.__notes__])}; back to step {self.run.step}, from there on with "
            f"half the learning rate (retry {setbacks} of {retries})"
        )
        self.log.set_back(self.run.step, self.run.evaluated, sentence, pictures)

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
                if not is_finite(self.state):
                    return ""
                save(self.folder / DIVERGED, self._checkpoint())
                return f"{DIVERGED} holds the state before the failed step; "
            self.save()
        except Exception as second:  # must not hide the first
            return f"that step could not be saved ({second}); "
        return ""

    def _write(self, checkpoint: Checkpoint) -> None:
        if self.state.processes.leads:
            save(self.folder / LAST, checkpoint)
        self.saved_step = checkpoint.step

    def _checkpoint(self) -> Checkpoint:
        state = self.state
        return replace(
            self.run,
            trained=replace(self.run.trained, weights=state.model.state_dict()),
            optimiser=optimiser_state(state.optimiser, state.model),
            scaler=state.scaler.state_dict(),
            step=state.step,
            elapsed=self.elapsed,
            average=state.average.state_dict() if state.average else {},
            at_a_time=state.limit.pictures or 0,
        )

    def _best(self, judged: Judged) -> Checkpoint:
        return replace(
            self._checkpoint(),
            trained=replace(
                self.run.trained, weights=judged.weights, score_thresholds=judged.score_thresholds
            ),
            metrics=judged.metrics,
            optimiser={},
            scaler={},
            average={},
        )


def _copied(checkpoint: Checkpoint) -> Checkpoint:
    """Return a checkpoint whose tensors, on the CPU, the training does not change."""
    return replace(
        checkpoint,
        trained=replace(checkpoint.trained, weights=_on_cpu(checkpoint.trained.weights)),
        optimiser=_on_cpu(checkpoint.optimiser),
        average=_on_cpu(checkpoint.average),
    )


def _on_cpu(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _on_cpu(part) for name, part in value.items()}
    return value.detach().to("cpu", copy=True) if isinstance(value, Tensor) else value
