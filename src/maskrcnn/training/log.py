"""The log of a training: metrics.jsonl, the console and TensorBoard."""

from __future__ import annotations

import json
import math
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TextColumn

from maskrcnn.evaluation.tables import metrics_tables
from maskrcnn.files import replacing
from maskrcnn.training.judged import Judged
from maskrcnn.training.settings import Settings
from maskrcnn.training.snapshots import FOLDER, Snapshot, forget_after, keep_snapshots

Record = dict[str, Any]

_SILENCE = 15.0  # seconds after which the console gets a line although none is due


class TrainingLog:
    """Logs a run from `step` on. Records of later steps, from a run killed after its last save, are removed.

    ``metrics.jsonl`` has a JSON object per line, of three kinds:

    - a step: "step", "loss" and its parts, "gradient_norm", "lr", and "seconds" since the training's start;
    - an evaluation: "step", and the metrics of each kind ("bbox", "segm", …); where there is an average of
      the weights, "average" has its metrics, and where it is asked for, "validation_loss" the loss and its
      parts (None: not finite);
    - a loss that was not finite: "step", that of the save that the training went back to, "setback", a
      sentence, and "pictures", the paths of the pictures of the step that failed.

    A terminal gets a progress bar; any other console gets a line after the first step, then every `log_every`
    steps, and where steps are slow every 15 seconds, or 2 % of the time so far. ``pictures`` has drawings of
    a few validation pictures. TensorBoard is written where it is installed. `evaluated` is the step of the
    last evaluation; a later one was cut off, and is repeated.
    """

    def __init__(
        self, output: Path, settings: Settings, device: torch.device, step: int, evaluated: int = 0
    ) -> None:
        output.mkdir(parents=True, exist_ok=True)
        self.device, self.pictures_per_step = device, settings.step.pictures
        self.log_every = settings.logging.log_every
        self.path = output / "metrics.jsonl"
        if not step:
            self.path.unlink(missing_ok=True)
        self.file = _reopened(self.path, step, evaluated)
        self.snapshots = output / FOLDER
        forget_after(self.snapshots, evaluated)
        self.board = _board(output)
        self.recent: deque[Record] = deque(maxlen=self.log_every)
        self.printed = -math.inf  # seconds of the training at the last line
        self.console = Console()
        self.bar = Progress(
            BarColumn(16),
            TextColumn("{task.description}"),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.task = self.bar.add_task("", total=1.0)

    def __enter__(self) -> TrainingLog:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # the terminal may be gone
            self.bar.stop()
        with suppress(OSError):  # a full disk, which `_write` has reported
            self.file.close()
        if self.board:
            self.board.close()

    def print(self, content: RenderableType) -> None:
        """Print above the progress bar. A terminal that is gone does not end the training."""
        with suppress(OSError):
            self.console.print(content, markup=False, highlight=False, soft_wrap=isinstance(content, str))

    def step(self, record: Record, progress: float) -> None:
        """Log a step, with which `progress` (0 … 1) of the training is completed."""
        self._write(record)
        self.recent.append(record)
        line = progress_line(self.recent, self.pictures_per_step, progress, peak_memory(self.device))
        with suppress(OSError):
            self.bar.update(self.task, completed=progress, description=line)
        is_due = record["step"] % self.log_every == 0
        silence = max(_SILENCE, 0.02 * record["seconds"])
        if not self.console.is_terminal and (is_due or record["seconds"] - self.printed >= silence):
            self.print(line)
            self.printed = record["seconds"]
        if self.board and is_due:
            self._scalars("train", record, record["step"])

    def evaluation(self, step: int, judged: Sequence[Judged], loss: Mapping[str, float]) -> None:
        """Log an evaluation after `step` steps: of the weights and, where there is one, of their average.

        `loss` is the validation loss with its parts, empty where it is not computed. The console gets the
        tables of the better.
        """
        plain, *average = judged
        record: Record = {"step": step, **plain.metrics}
        if average:
            record["average"] = average[0].metrics
        if loss:
            record["validation_loss"] = {n: v if math.isfinite(v) else None for n, v in loss.items()}
        self._write(record)
        if line := evaluation_line(judged, loss):
            self.print(f"step {step}: {line}")
        self.print(metrics_tables(max(judged, key=lambda one: one.ap).metrics))
        if self.board:
            for group, one in zip(("", "average/"), judged, strict=False):
                for kind, numbers in one.metrics.items():
                    self._scalars(f"{group}{kind}", numbers, step)
            self._scalars("validation", dict(loss), step)

    def set_back(self, step: int, evaluated: int, sentence: str, pictures: Sequence[Path]) -> None:
        """Remove the records after `step`, and log why the training goes back to it."""
        self.file.close()
        self.file = _reopened(self.path, step, evaluated)
        self.recent.clear()
        self._write({"step": step, "setback": sentence, "pictures": list(map(str, pictures))})
        self.print(sentence)

    def pictures(self, snapshots: Sequence[Snapshot], step: int) -> None:
        """Keep drawings of some validation pictures after `step` steps, in the run and for TensorBoard."""
        keep_snapshots(self.snapshots, snapshots, step)
        for number, snapshot in enumerate(snapshots if self.board else ()):
            drawing = np.asarray(snapshot.detections)
            self.board.add_image(f"validation/{number}", drawing, step, dataformats="HWC")

    def _write(self, record: Record) -> None:
        try:
            self.file.write(json.dumps(record) + "\n")
            self.file.flush()
        except OSError as error:
            raise OSError(error.errno, error.strerror or str(error), str(self.path)) from error

    def _scalars(self, group: str, numbers: Record, step: int) -> None:
        for name, number in numbers.items():
            if isinstance(number, float):
                self.board.add_scalar(f"{group}/{name}", number, step)


def progress_line(recent: Sequence[Record], pictures: int, progress: float, memory: str) -> str:
    """Return the console's line: means over `recent` steps of `pictures` each, speed, time left, memory."""
    first, last = recent[0], recent[-1]
    means = {name: sum(r[name] for r in recent) / len(recent) for name in last if name.startswith("loss")}
    parts = ", ".join(f"{name[5:]} {mean:.3f}" for name, mean in means.items() if name != "loss")
    seconds = last["seconds"] - first["seconds"]
    speed = f"{pictures * (len(recent) - 1) / seconds:.1f} images/s" if seconds > 0 else "…"
    left = timedelta(seconds=round(last["seconds"] * (1 - progress) / progress)) if progress else "…"
    loss = f"loss {means['loss']:.3f}: {parts}"
    return f"step {last['step']} ({progress:.0%})  {loss}  {speed}  {left} left  {memory}"


def evaluation_line(judged: Sequence[Judged], loss: Mapping[str, float]) -> str:
    """Return what the tables of an evaluation do not say, in short: both APs, and the validation loss."""
    plain, *average = judged
    parts = [f"AP {plain.ap:.1f}, of the averaged weights {average[0].ap:.1f}"] if average else []
    parts += [f"validation loss {loss['loss']:.3f}"] if loss else []
    return "; ".join(parts)


def peak_memory(device: torch.device) -> str:
    """Return the peak memory as a text: of a GPU what torch allocated, otherwise that of the process."""
    if device.type == "cuda":
        return f"{torch.cuda.max_memory_allocated(device) / 2**30:.1f} GB"
    if sys.platform == "win32":
        return ""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB; bytes on macOS
    return f"{peak / (2**30 if sys.platform == 'darwin' else 2**20):.1f} GB"


def _reopened(path: Path, step: int, evaluated: int) -> TextIO:
    """Open the file for more records, without those of later steps and later evaluations."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    with replacing(path) as unfinished:
        kept = "".join(f"{line}\n" for line in lines if _is_before(line, step, evaluated))
        unfinished.write_text(kept, encoding="utf-8")
    return path.open("a", encoding="utf-8")


def _is_before(line: str, step: int, evaluated: int) -> bool:
    try:
        record = json.loads(line)
    except json.JSONDecodeError:  # cut off when the machine stopped
        return False
    return record["step"] <= (evaluated if "bbox" in record else step)


def _board(output: Path) -> Any:
    """Return TensorBoard's writer, or None where it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(output / "tensorboard"))
