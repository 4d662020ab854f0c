"""The training loop, from top to bottom."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from maskrcnn.data.dataset import Dataset
from maskrcnn.evaluation.coco import Metrics
from maskrcnn.evaluation.report import write_report as write_evaluation
from maskrcnn.evaluation.run import evaluate
from maskrcnn.evaluation.thresholds import score_thresholds
from maskrcnn.lock import claimed
from maskrcnn.predict.predictor import Predictor
from maskrcnn.training.batches import open_batches
from maskrcnn.training.checkpoint import Checkpoint
from maskrcnn.training.distributed import joined
from maskrcnn.training.log import TrainingLog
from maskrcnn.training.report import EVALUATION, refresh_report, reported
from maskrcnn.training.saver import BEST, LAST, Saver
from maskrcnn.training.schedule import learning_rate
from maskrcnn.training.settings import Length, Settings
from maskrcnn.training.setup import check_data, new_run, open_data, resumed_run, with_initial_weights
from maskrcnn.training.signals import interruption, stop_signals
from maskrcnn.training.snapshots import draw_snapshots
from maskrcnn.training.step import make_train_state, step_seed, train_step
from maskrcnn.types import Batch, Targets

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

    `output` gets ``last.pt``, ``best.pt`` (highest AP of masks, or of boxes where there are no masks),
    ``metrics.jsonl``, the page ``report.html`` and, where TensorBoard is installed, ``tensorboard/``. Without
    validation pictures the last checkpoint is the best. `init` names weights to start from, a file or a
    published name: a class takes the weights of their class of the same name, or of its name in `synonyms`,
    and the recipe is theirs unless `recipe` names another. Without either, it is ``resnet50_fpn``.

    On a CPU the same seed gives the same losses to the bit, unless a time limit drives the schedule. Under
    ``torchrun`` its processes share every batch (see `training.distributed`).

    Whatever ends the training, ``last.pt`` then holds the last completed step, and `resume_training` gives
    what an uninterrupted training would have given; exceptions are an update that was itself interrupted, a
    disk that takes no more, and a loss that is not finite (see `Saver`).

    Raises ValueError and FileNotFoundError for what cannot be trained or is in use by another training,
    OSError where the output cannot be written, FloatingPointError where the loss or the gradient is not
    finite, KeyboardInterrupt after Ctrl-C, and SystemExit (128 + signal) after SIGTERM, SIGHUP
    and SIGUSR1.
    """
    output = Path(output)

    def start() -> Start:
        run = new_run(output, recipe, recipe_arguments or {}, settings or Settings())
        dataset, validation = open_data(data, run, output)
        return with_initial_weights(run, dataset, init, synonyms or {}), dataset, validation

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
        check_data(run, dataset, validation)
        batches = open_batches(state, dataset, run.settings, run.trained.white)
        with TrainingLog(folder, run.settings, own_device, run.step) as log:
            log.print(introduction(run, dataset, validation, processes.size))
            with (
                reported(folder, log.print),
                Saver(folder, run, state, log, resume_command(data, output, device)) as saver,
            ):
                _train_steps(saver, batches, validation, stop_signal)
    return output / (BEST if validation else LAST)


def _train_steps(
    saver: Saver,
    batches: Iterator[tuple[Batch, Targets]],
    validation: Dataset | None,
    stop_signal: Callable[[], int],
) -> None:
    """Train until the end, or until a signal: then raise `interruption`, everything saved."""
    state, log, settings = saver.state, saver.log, saver.run.settings
    first_step, elapsed = state.step, saver.run.elapsed
    while True:
        elapsed, signal_number = state.processes.agree(elapsed, stop_signal(), state.device)
        progress = completed(settings.length, state.step, elapsed)
        finished = progress >= 1
        saving, evaluating = (
            every and state.step > first_step and state.step % every == 0
            for every in (settings.logging.save_every, settings.logging.eval_every)
        )

        # Save first: an error in the evaluation then loses no training
        if finished or signal_number or saving or evaluating:
            saver.save()

        # Evaluate, and keep the best
        if state.processes.leads and validation and (finished or evaluating):
            metrics = evaluate_run(saver, validation)
            saver.keep(metrics, ap(metrics))
            if not finished:
                refresh_report(saver.folder, log.print)

        if finished:
            return
        if signal_number:
            raise interruption(signal_number)

        # One step, with random numbers of its own
        torch.manual_seed(step_seed(settings.seed, state.step + 1, state.processes.rank))
        rate = learning_rate(settings, state.step, progress)
        losses = train_step(state, batches, settings, rate)
        elapsed = saver.elapsed
        log.step(
            {"step": state.step, **losses, "lr": rate, "seconds": elapsed},
            completed(settings.length, state.step, elapsed),
        )


def evaluate_run(saver: Saver, validation: Dataset) -> Metrics:
    """Evaluate the network as it is now, log the metrics, and measure its score thresholds."""
    state, trained, log = saver.state, saver.run.trained, saver.log
    predictor = Predictor.from_checkpoint(trained, state.model, device=state.device)
    evaluation = evaluate(predictor, validation, max_detections=trained.max_detections)
    log.evaluation(evaluation.metrics, state.step)
    thresholds = score_thresholds(evaluation, trained.category_ids)
    saver.set_thresholds(thresholds)
    paths = dict(zip(validation.image_ids.tolist(), validation.paths, strict=True))
    by_category = dict(zip(trained.category_ids, thresholds, strict=False))
    log.pictures(draw_snapshots(evaluation, paths, by_category), state.step)
    if ap(evaluation.metrics) > saver.run.best_ap:
        write_evaluation(
            saver.folder / EVALUATION,
            evaluation,
            image_paths=paths,
            capacity=trained.max_detections,
            title=f"Evaluation after step {state.step:,}",
        )
    return evaluation.metrics


def completed(length: Length, step: int, elapsed: float) -> float:
    """Return the completed share of a training, 0 … 1, after so many steps and seconds."""
    minutes = length.time_limit or math.inf
    return min(1.0, max(step / (length.steps or math.inf), elapsed / 60 / minutes))


def ap(metrics: Metrics) -> float:
    """Return the AP by which the best checkpoint is chosen: of masks, or of boxes."""
    return metrics.get("segm", metrics["bbox"])["AP"] or 0.0


def introduction(run: Checkpoint, dataset: Dataset, validation: Dataset | None, processes: int) -> str:
    """Describe a training in two lines."""
    length, pictures = run.settings.length, run.settings.step.pictures
    arguments = ", ".join(f"{name}={value}" for name, value in run.trained.arguments.items())
    return (
        f"{run.trained.recipe}({arguments}), {len(run.trained.class_names)} classes\n"
        f"{len(dataset):,} pictures, {f'{len(validation):,}' if validation else 'no'} validation pictures; "
        f"{_describe(length, pictures, pictures / len(dataset))}"
        + (f"; {processes} processes" if processes > 1 else "")
        + (f"; resumes after step {run.step:,}" if run.step else "")
    )


def _describe(length: Length, pictures: int, epochs_per_step: float) -> str:
    limit = f"{length.time_limit or 0:g} minutes"
    if length.steps is None:
        return f"{limit} of steps of {pictures:,} pictures"
    steps = f"{length.steps:,} steps of {pictures:,} pictures ({length.steps * epochs_per_step:,.1f} epochs)"
    return f"{steps}, at most {limit}" if length.time_limit else steps


def resume_command(data: str | Path, output: Path, device: str) -> str:
    """Return the command that resumes a training."""
    words = ["maskrcnn", "train", str(data), "--output", str(output), "--resume"]
    return shlex.join(words + ([] if device == "auto" else ["--device", device]))
