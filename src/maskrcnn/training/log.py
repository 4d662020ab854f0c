"""What a training tells while it runs: in metrics.jsonl, on the console, and in TensorBoard."""

from __future__ import annotations

import json
import math
import sys
from collections import deque
from collections.abc import Iterable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from maskrcnn.data.pictures import read_picture
from maskrcnn.evaluation.coco import Metrics, table
from maskrcnn.files import replacing
from maskrcnn.predict.predictor import Predictor
from maskrcnn.results.draw import draw
from maskrcnn.training.settings import Settings

Record = dict[str, Any]


class TrainingLog:
    """Tells of a training from its `step` on; what an earlier log says of later steps is taken back.

    ``metrics.jsonl`` has one JSON object a line: for every step its losses, gradient norm, rate and the
    seconds since the training began, for every evaluation its step and metrics. The console gets a line every
    `log_every` steps, or on a terminal one that is kept up to date. TensorBoard is fed where it is installed.
    """

    def __init__(self, output: Path, settings: Settings, device: torch.device, step: int) -> None:
        output.mkdir(parents=True, exist_ok=True)
        self.settings, self.device = settings, device
        self.file = _continued(output / "metrics.jsonl", step)
        self.board = _board(output)
        self.recent: deque[Record] = deque(maxlen=settings.logging.log_every)
        self.console = Console()
        live = self.console.is_terminal
        self.bar = Progress(
            BarColumn(16), TextColumn("{task.description}"), console=self.console, disable=not live
        )
        self.task = self.bar.add_task("", total=1.0)

    def __enter__(self) -> TrainingLog:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()
        self.file.close()
        if self.board:
            self.board.close()

    def say(self, text: str) -> None:
        """Print a line above the progress line."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def step(self, record: Record, progress: float) -> None:
        """Tell of a step, after which `progress` (0 … 1) of the training is done."""
        self._write(record)
        self.recent.append(record)
        line = progress_line(self.recent, self.settings.step.pictures, progress, memory(self.device))
        self.bar.update(self.task, completed=progress, description=line)
        if record["step"] % self.settings.logging.log_every:
            return
        if not self.console.is_terminal:
            self.say(line)
        if self.board:
            self._scalars("train", record, record["step"])

    def evaluation(self, metrics: Metrics, step: int) -> None:
        """Tell of an evaluation after `step` steps."""
        self._write({"step": step, **metrics})
        self.console.print(table(metrics))
        if self.board:
            for kind, numbers in metrics.items():
                self._scalars(kind, numbers, step)

    def pictures(self, predictor: Predictor, paths: Iterable[Path], step: int) -> None:
        """Show in TensorBoard what the network finds in some pictures after `step` steps."""
        for number, path in enumerate(paths if self.board else ()):
            picture = read_picture(path).permute(1, 2, 0).numpy()
            drawn = np.asarray(draw(picture, predictor.predict(path)))
            self.board.add_image(f"validation/{number}", drawn, step, dataformats="HWC")

    def _write(self, record: Record) -> None:
        self.file.write(json.dumps(record) + "\n")
        self.file.flush()

    def _scalars(self, group: str, numbers: Record, step: int) -> None:
        for name, number in numbers.items():
            if isinstance(number, float):
                self.board.add_scalar(f"{group}/{name}", number, step)


def progress_line(recent: Sequence[Record], pictures: int, progress: float, memory: str) -> str:
    """Say how a training stands: the means of its `recent` steps of so many `pictures` each."""
    first, last = recent[0], recent[-1]
    means = {name: sum(r[name] for r in recent) / len(recent) for name in last if name.startswith("loss")}
    parts = ", ".join(f"{name[5:]} {mean:.3f}" for name, mean in means.items() if name != "loss")
    took = last["seconds"] - first["seconds"]
    speed = f"{pictures * (len(recent) - 1) / took:.1f} images/s" if took > 0 else "…"
    left = timedelta(seconds=round(last["seconds"] * (1 - progress) / progress)) if progress else "…"
    loss = f"loss {means['loss']:.3f}: {parts}"
    return f"step {last['step']} ({progress:.0%})  {loss}  {speed}  {left} left  {memory}"


def memory(device: torch.device) -> str:
    """Say how much memory the training has taken at most: on a GPU what torch allocated, else the process."""
    if device.type == "cuda":
        return f"{torch.cuda.max_memory_allocated(device) / 2**30:.1f} GB"
    if sys.platform == "win32":
        return ""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB; bytes on macOS
    return f"{peak / (2**30 if sys.platform == 'darwin' else 2**20):.1f} GB"


def _continued(path: Path, step: int) -> TextIO:
    """Open the file for more lines, after those of the first `step` steps."""
    lines = path.read_text().splitlines() if step and path.is_file() else []
    with replacing(path) as unfinished:
        unfinished.write_text("".join(f"{line}\n" for line in lines if _step(line) <= step))
    return path.open("a")


def _step(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except json.JSONDecodeError:  # cut off when the machine stopped
        return math.inf


def _board(output: Path) -> Any:
    """Return TensorBoard's writer, or None where it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(output / "tensorboard"))
