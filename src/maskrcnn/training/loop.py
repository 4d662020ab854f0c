"""The training, from top to bottom."""

from __future__ import annotations

import math
import shlex
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from maskrcnn.data.loader import training_batches
from maskrcnn.data.readers.coco import CocoDataset
from maskrcnn.evaluation.coco import Metrics, evaluate
from maskrcnn.predict.load import predictor_of
from maskrcnn.training.checkpoint import Checkpoint, save
from maskrcnn.training.distributed import Processes, joined
from maskrcnn.training.log import TrainingLog
from maskrcnn.training.schedule import learning_rate
from maskrcnn.training.settings import Settings
from maskrcnn.training.setup import (
    augmentation,
    check_data,
    new_run,
    open_data,
    resumed_run,
    sizes,
    step_seed,
    with_initial_weights,
)
from maskrcnn.training.step import TrainState, make_train_state, to_floats, train_step

_SHOWN = 4  # validation pictures that TensorBoard shows


def train(
    data: str | Path,
    *,
    recipe: str | None = None,
    recipe_arguments: Mapping[str, Any] | None = None,
    output: str | Path = "runs/train",
    init: str | Path | None = None,
    synonyms: Mapping[str, str] | None = None,
    resume: bool = False,
    device: str = "auto",
    settings: Settings | None = None,
) -> Path:
    """Train a network on a folder in COCO layout, and return the path of its best checkpoint.

    `output` gets ``last.pt``, ``best.pt`` (highest AP of masks, or of boxes where there are no masks),
    ``metrics.jsonl`` and, where TensorBoard is installed, ``tensorboard/``; without validation pictures the
    last is the best. `init` names weights to start from, a file or what was published: a class takes what
    belongs to their class of the same name, or of its name in `synonyms`, and the recipe is theirs, or else
    ``resnet50_fpn``, unless another is named. `resume` goes on from ``last.pt`` as if the training had not
    stopped: recipe and settings are those of the file, but `settings` may replace them.

    On the CPU the same seed gives the same losses to the bit, unless a time limit drives the schedule. Under
    ``torchrun`` its processes share every batch (see `training.parallel`).

    Raises ValueError and FileNotFoundError for what cannot be trained, FloatingPointError when the loss is no
    longer finite (what was saved before stays), and KeyboardInterrupt after Ctrl-C, with everything saved.
    """
    output = Path(output)
    with joined(device, output) as (processes, place, folder), ctrl_c() as interrupted:
        # A new training is a checkpoint at step 0: after these lines, new and continued ones go one way
        run = (resumed_run if resume else new_run)(output, recipe, recipe_arguments or {}, settings)
        dataset, validation = open_data(data, run)
        run = with_initial_weights(run, dataset, init, synonyms or {})
        settings, first_step, step, elapsed = run.settings, run.step, run.step, run.elapsed
        learner = make_train_state(run, place, processes)
        check_data(run, learner.model, dataset, validation)
        batches = training_batches(
            dataset,
            sizes(settings),
            augmentation(settings),
            batch_size=settings.step.batch_size,
            share=processes.share(settings.step.batch_size),
            stride=learner.model.stride,
            workers=settings.pictures.workers,
            seed=settings.seed,
            start=first_step * settings.step.accumulate,
            channels=learner.model.in_channels,
        )
        clock = time.monotonic() - elapsed

        with TrainingLog(folder, settings, place, step) as log:
            log.say(introduction(run, dataset, validation, processes))
            while True:
                elapsed, stop = processes.agree(elapsed, interrupted(), place)
                progress = done(settings, step, elapsed)
                finished = progress >= 1
                stopping = finished or stop
                saving, evaluating = (
                    every and step > first_step and step % every == 0
                    for every in (settings.logging.save_every, settings.logging.eval_every)
                )

                # Save first: whatever an evaluation runs into then costs no training
                if processes.leads and (stopping or saving or evaluating):
                    run = replace(run, **learner.state(run.trained), step=step, elapsed=elapsed)
                    save(folder / "last.pt", run)

                # Evaluate, and keep the best
                if processes.leads and validation and (finished or evaluating):
                    metrics = evaluate_run(run, learner, validation, log)
                    is_best = ap(metrics) > run.best_ap
                    run = replace(run, metrics=metrics, best_ap=max(ap(metrics), run.best_ap))
                    for name in ("last.pt", "best.pt") if is_best else ("last.pt",):
                        save(folder / name, run)

                if stopping:
                    break

                # One step, with random numbers of its own
                torch.manual_seed(step_seed(settings.seed, step + 1, processes.rank))
                rate = learning_rate(settings, step, progress)
                losses = to_floats(train_step(learner, batches, settings, rate))
                if not all(map(math.isfinite, losses.values())):
                    raise FloatingPointError(diverged(output, step + 1, rate, losses))
                step, elapsed = step + 1, time.monotonic() - clock
                log.step(
                    {"step": step, **losses, "lr": rate, "seconds": elapsed}, done(settings, step, elapsed)
                )

            if not finished:
                log.say(f"stopped after step {step}; to go on: {command_to_go_on(data, output, device)}")
                raise KeyboardInterrupt
    return output / ("best.pt" if validation else "last.pt")


def evaluate_run(run: Checkpoint, learner: TrainState, validation: CocoDataset, log: TrainingLog) -> Metrics:
    """Evaluate a training as it stands, and tell of it."""
    predictor = predictor_of(run.trained, learner.model, learner.device)
    metrics = evaluate(predictor, validation, max_detections=run.trained.max_detections)
    log.evaluation(metrics, run.step)
    log.pictures(predictor, validation.paths[:_SHOWN], run.step)
    return metrics


def done(settings: Settings, step: int, elapsed: float) -> float:
    """Return how much of the training is done, 0 … 1, after so many steps and seconds."""
    minutes = settings.length.time_limit or math.inf
    return min(1.0, max(step / settings.length.steps, elapsed / 60 / minutes))


def ap(metrics: Metrics) -> float:
    """Return the number that says which checkpoint is best."""
    return metrics.get("segm", metrics["bbox"])["AP"] or 0.0


def introduction(
    run: Checkpoint, dataset: CocoDataset, validation: CocoDataset | None, processes: Processes
) -> str:
    """Say in a line what is going to happen."""
    settings = run.settings
    epochs = settings.length.steps * settings.step.pictures / len(dataset)
    arguments = ", ".join(f"{name}={value}" for name, value in run.trained.arguments.items())
    return (
        f"{run.trained.recipe}({arguments}): {len(run.trained.class_names)} classes, "
        f"{len(dataset)} pictures, "
        f"{len(validation) if validation else 'none'} to evaluate on; "
        f"{settings.length.steps} steps of {settings.step.pictures} pictures ({epochs:.1f} epochs)"
        + (f", {settings.length.time_limit:g} minutes at most" if settings.length.time_limit else "")
        + (f"; {processes.size} processes share them" if processes.size > 1 else "")
        + (f"; going on after step {run.step}" if run.step else "")
    )


def diverged(output: Path, step: int, rate: float, losses: Mapping[str, float]) -> str:
    """Say that the loss is no longer a number, and what helps."""
    parts = ", ".join(f"{name} {value:g}" for name, value in losses.items())
    return (
        f"loss or gradient is not finite at step {step}, learning rate {rate:g} ({parts}): lower lr, warm up "
        f"longer or set gradient_clip; what was saved before is in {output}"
    )


def command_to_go_on(data: str | Path, output: Path, device: str) -> str:
    """Return the command that goes on with a training."""
    words = ["maskrcnn", "train", str(data), "--output", str(output), "--resume"]
    return shlex.join(words + ([] if device == "auto" else ["--device", device]))


@contextmanager
def ctrl_c() -> Iterator[Callable[[], bool]]:
    """Tell whether Ctrl-C was pressed, so that no step is cut in two; a second one stops at once."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread may listen
        yield lambda: False
        return
    pressed: list[int] = []

    def note(number: int, _frame: object) -> None:
        if pressed:
            raise KeyboardInterrupt
        pressed.append(number)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(pressed)
    finally:
        signal.signal(signal.SIGINT, before)
