"""What the benchmarks share: their arguments, a row of a comparison, and the file of figures."""

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from maskrcnn.bench.timing import Timing, machine, take_turns

__all__ = ["Timing", "arguments", "row", "take_turns", "write"]


def arguments(description: str, *, repeats: int) -> argparse.ArgumentParser:
    """Return a parser with the arguments of every benchmark."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--threads", type=int, default=2, help="threads of PyTorch (default: 2)")
    parser.add_argument("--repeats", type=int, default=repeats, help=f"timed turns (default: {repeats})")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    return parser


def row(title: str, ours: Timing, theirs: Timing) -> dict[str, float]:
    """Print one comparison and return its figures; a ratio above 1 means that ours is faster."""
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


def write(path: Path | None, figures: dict[str, Any]) -> None:
    """Write the figures, with the machine that they were measured on, if a path was given."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        path.write_text(json.dumps({"machine": machine(device), **figures}, indent=1) + "\n")
        print(f"written: {path}")
