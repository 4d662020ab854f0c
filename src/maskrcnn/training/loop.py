"""The training loop, from top to bottom."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from maskrcnn.data.dataset import Dataset
from maskrcnn.lock import claimed
from maskrcnn.messages import counted, first_few
from maskrcnn.training.batches import open_batches, pictures_of_step
from maskrcnn.training.checkpoint import Checkpoint
from maskrcnn.training.distributed import joined
from maskrcnn.training.evaluation import evaluate_run
from maskrcnn.training.log import TrainingLog
from maskrcnn.training.plateau import GAIN
from maskrcnn.training.report import refresh_report, reported
from maskrcnn.training.saver import BEST, LAST, Saver
from maskrcnn.training.schedule import completed, learning_rate
from maskrcnn.training.settings import Length, Settings
from maskrcnn.training.setup import check_data, new_run, open_data, resumed_run, with_initial_weights
from maskrcnn.training.signals import interruption, stop_signals
from maskrcnn.training.step import is_finite, make_train_state, step_seed, train_step
from maskrcnn.types import Batch, Targets

_NAMED_PICTURES = 16  # of a step that failed

Start = tuple[Checkpoint, Dataset, Dataset | None]  # the run, training and validation pictures


def train(
    data: str | Path,
    *,
    recipe: str | None = None,
    recipe_arguments: Mapping[str, Any] | None = None,
    output: str | Path = "runs/train",
    init: str | Path | None = None,
    synonyms: Mapping[str, str] | None = None,
    device: str = "auto",
    settings: Settings | None = None,
) -> Path:
    """Train a network on a data set in COCO's or Cityscapes' format; return the path of the best checkpoint.

    `output` gets ``last.pt``, ``best.pt`` (highest AP of masks, or of boxes where there are no masks; of the
    weights or of their moving average, where there is one), ``metrics.jsonl``, the page ``report.html`` and,
    where TensorBoard is installed, ``tensorboard/``. Without validation pictures the last checkpoint is the
    best. `init` names weights to start from, a file or a published name: a class takes the weights of their
    class of the same name, or of its name in `synonyms`, and the recipe is theirs unless `recipe` names
    another. Without either, it is ``resnet50_fpn``.

    On a CPU the same seed gives the same losses to the bit, unless a time limit drives the schedule. Under
    ``torchrun`` its processes share every batch (see `training.distributed`).

    Whatever ends the training, ``last.pt`` then holds the last completed step, and `resume_training` gives
    what an uninterrupted training would have given; exceptions are an update that was itself interrupted, a
    disk that takes no more, and a loss that is not finite (see `Saver`).

    Raises ValueError and FileNotFoundError for what cannot be trained or is in use by another training,
    OSError where the output cannot be written, FloatingPointError where the loss or the gradient is not
    finite and no retries are left, KeyboardInterrupt after Ctrl-C, and SystemExit (128 + signal) after
    SIGTERM, SIGHUP and SIGUSR1.
    """
    output = Path(output)
    return train_run(
        data,
        lambda: new_run(output, recipe, recipe_arguments or {}, settings or Settings()),
        output=output,
        init=init,
        synonyms=synonyms or {},
        device=device,
    )


def train_run(
    data: str | Path,
    new: Callable[[], Checkpoint],
    *,
    output: Path,
    init: str | Path | None,
    synonyms: Mapping[str, str],
    device: str,
) -> Path:
    """Train the run at step 0 that `new` returns, when no other training uses `output`; see `train`."""

    def start() -> Start:
        run = new()
        dataset, validation = open_data(data, run, output)
        return with_initial_weights(run, dataset, init, synonyms), dataset, validation

    return _train(start, data, output, device)


def resume_training(
    data: str | Path,
    *,
    recipe: str | None = None,
    recipe_arguments: Mapping[str, Any] | None = None,
    output: str | Path = "runs/train",
    device: str = "auto",
    settings: Settings | Mapping[str, Any] | None = None,
) -> Path:
    """Resume the training of ``last.pt`` in `output`, as if it had not stopped; return as `train` does.

    `settings` replace those of the file: all of them, or those of a mapping by their dotted names. Recipe and
    options are the file's. Raises what `train` raises, and ValueError where another recipe or another
    option is asked for, or a setting that a training cannot change.
    """
    output = Path(output)

    def start() -> Start:
        run = resumed_run(output, recipe, recipe_arguments or {}, settings)
        return run, *open_data(data, run, output)

    return _train(start, data, output, device)


def _train(start: Callable[[], Start], data: str | Path, output: Path, device: str) -> Path:
    with (
        joined(device, output) as (processes, own_device, folder),
        claimed(folder),
        stop_signals() as stop_signal,
    ):
        run, dataset, validation = start()
        state = make_train_state(run, own_device, processes)
        check_data(run, dataset)
        batches = open_batches(state, dataset, run.settings, run.trained.white)
        with TrainingLog(folder, run.settings, own_device, run.step, run.evaluated) as log:
            log.print(introduction(run, dataset, validation, processes.size))
            with (
                reported(folder, log.print),
                Saver(folder, run, state, log, resume_command(data, output, device)) as saver,
            ):
                _train_steps(saver, batches, dataset, validation, stop_signal)
    return output / (BEST if validation else LAST)


def _train_steps(
    saver: Saver,
    batches: Iterator[tuple[Batch, Targets]],
    dataset: Dataset,
    validation: Dataset | None,
    stop_signal: Callable[[], int],
) -> None:
    """Train until the end; after a loss that is not finite from the last save on, while retries are left."""
    state, settings = saver.state, saver.run.settings
    while True:
        try:
            _train_from(saver, batches, validation, stop_signal)
            return
        except FloatingPointError as error:
            failed = state.step + 1 if is_finite(state) else state.step
            pictures = pictures_of_step(dataset, settings, failed)
            error.add_note(f"pictures of step {failed}: {first_few(pictures, _NAMED_PICTURES)}")
            saver.set_back(error, pictures)
        batches = open_batches(state, dataset, settings, saver.run.trained.white)


def _train_from(
    saver: Saver,
    batches: Iterator[tuple[Batch, Targets]],
    validation: Dataset | None,
    stop_signal: Callable[[], int],
) -> None:
    """Train until the end, or until a signal: then raise `interruption`, everything saved."""
    state, log, settings = saver.state, saver.log, saver.run.settings
    elapsed = saver.run.elapsed
    while True:
        elapsed, signal_number = state.processes.agree(elapsed, stop_signal(), state.device)
        run = saver.run
        progress = completed(settings.length, state.step, elapsed)
        finished = progress >= run.plateau.end
        saving, evaluating = (
            finished or (every and state.step % every == 0)
            for every in (settings.logging.save_every, settings.logging.eval_every)
        )
        due = validation if evaluating and run.evaluated < state.step else None

        # Save first: an error in the evaluation then loses no training
        if (saving or due or signal_number) and state.step > saver.saved_step:
            saver.save()

        if finished and not due:
            return
        if signal_number:
            raise interruption(signal_number)

        # Evaluate, keep the best, and look at the clock again
        if due:
            elapsed = _evaluate(saver, due)
            if not finished:  # at the end, `reported` writes it
                refresh_report(saver.folder, log.print)
            continue

        # One step, with random numbers of its own
        torch.manual_seed(step_seed(settings.seed, state.step + 1, state.processes.rank))
        rate = learning_rate(settings, state.step, run.plateau.schedule_progress(progress))
        rate *= 0.5**run.setbacks
        losses = train_step(state, batches, settings, rate)
        elapsed = saver.elapsed
        log.step(
            {"step": state.step, **losses, "lr": rate, "seconds": elapsed},
            completed(settings.length, state.step, elapsed) / run.plateau.end,
        )


def _evaluate(saver: Saver, validation: Dataset) -> float:
    """Evaluate in the first process, save, and let all know whether patience is over; return the seconds."""
    state, length, plateau = saver.state, saver.run.settings.length, saver.run.plateau
    judged = evaluate_run(saver, validation) if state.processes.leads else []
    ap, elapsed = state.processes.largest(
        [max((one.ap for one in judged), default=0.0), saver.elapsed], state.device
    )
    saver.keep(judged, plateau.after(ap, completed(length, state.step, elapsed), length.patience))
    if saver.run.plateau.begins < plateau.begins:
        saver.log.print(
            f"{saver.run.plateau.evaluations} evaluations did not gain {GAIN} AP: the learning rate falls to "
            "the end of its schedule over the next tenth of the training, which then ends"
        )
    return elapsed


def introduction(run: Checkpoint, dataset: Dataset, validation: Dataset | None, processes: int) -> str:
    """Describe a training in two lines."""
    length, pictures = run.settings.length, run.settings.step.pictures
    arguments = ", ".join(f"{name}={value}" for name, value in run.trained.arguments.items())
    return (
        f"{run.trained.recipe}({arguments}), {counted(len(run.trained.class_names), 'class')}\n"
        f"{counted(len(dataset), 'picture')}, "
        f"{counted(len(validation), 'validation picture') if validation else 'no validation pictures'}; "
        f"{_describe(length, pictures, pictures / len(dataset))}"
        + (f"; {processes} processes" if processes > 1 else "")
        + (f"; resumes after step {run.step:,}{_without_momentum(run)}" if run.step else "")
    )


def _without_momentum(run: Checkpoint) -> str:
    """Say where the state of the optimiser is missing: ``best.pt`` was put in place of ``last.pt``."""
    has_state = run.settings.optimiser.algorithm != "sgd" or run.settings.optimiser.momentum > 0
    return f" without momentum, which {LAST} does not hold" if has_state and not run.optimiser else ""


def _describe(length: Length, pictures: int, epochs_per_step: float) -> str:
    limit = f"{length.time_limit or 0:g} minutes"
    if length.steps is None:
        return f"{limit} of steps of {counted(pictures, 'picture')}"
    epochs = f"({length.steps * epochs_per_step:,.1f} epochs)"
    steps = f"{counted(length.steps, 'step')} of {counted(pictures, 'picture')} {epochs}"
    return f"{steps}, at most {limit}" if length.time_limit else steps


def resume_command(data: str | Path, output: Path, device: str) -> str:
    """Return the command that resumes a training."""
    words = ["maskrcnn", "train", str(data), "--output", str(output), "--resume"]
    return shlex.join(words + ([] if device == "auto" else ["--device", device]))
