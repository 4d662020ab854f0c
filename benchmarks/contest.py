"""Timing side by side: contestants take turns within one run: a busy machine slows all of them alike."""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch


def arguments(description: str, *, repeats: int) -> argparse.ArgumentParser:
    """Return the parser with what every benchmark can be told."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--threads", type=int, default=2, help="threads of PyTorch (default: 2)")
    parser.add_argument("--repeats", type=int, default=repeats, help=f"timed turns (default: {repeats})")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    return parser


def sides(text: str) -> tuple[int, int]:
    """Read 800x1344, or 512 for a square."""
    height, _, width = text.partition("x")
    return int(height), int(width or height)


class Times(NamedTuple):
    """Milliseconds of one contestant over its timed turns."""

    median: float
    best: float


def take_turns(
    contestants: dict[str, Callable[[], Any]], *, repeats: int, warm_up: int = 2
) -> dict[str, Times]:
    """Return the times of each contestant over `repeats` turns, after `warm_up` turns not counted."""
    turns: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(warm_up + repeats):
        for name, run in contestants.items():
            start = time.perf_counter()
            run()
            turns[name].append(1000 * (time.perf_counter() - start))
    counted = {name: own[warm_up:] for name, own in turns.items()}
    return {name: Times(statistics.median(own), min(own)) for name, own in counted.items()}


def row(title: str, ours: Times, theirs: Times) -> dict[str, float]:
    """Print one comparison and return it as figures; a ratio above 1 says that ours is faster."""
    ratio, best_ratio = theirs.median / ours.median, theirs.best / ours.best
    print(f"{title:<36} ours {ours.median:8.2f} ms  torchvision {theirs.median:8.2f} ms", end="  ")
    print(f"theirs / ours: {ratio:5.2f} by medians, {best_ratio:5.2f} by the best turns", flush=True)
    return {
        "ours_ms": round(ours.median, 3),
        "torchvision_ms": round(theirs.median, 3),
        "theirs_over_ours": round(ratio, 3),
        "ours_best_ms": round(ours.best, 3),
        "torchvision_best_ms": round(theirs.best, 3),
        "theirs_over_ours_best": round(best_ratio, 3),
    }


def machine() -> dict[str, Any]:
    """Return the day, the versions and the hardware that the figures belong to."""
    return {
        "date": date.today().isoformat(),
        "torch": torch.__version__,
        "torchvision": version("torchvision") if find_spec("torchvision") else None,
        "python": platform.python_version(),
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def write(path: Path | None, figures: dict[str, Any]) -> None:
    """Write the figures and the machine they belong to, if a path was given."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"machine": machine(), **figures}, indent=1) + "\n")
        print(f"written: {path}")
