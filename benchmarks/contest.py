"""What the benchmarks share: their arguments, a row of a comparison, the file that figures go to."""

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from maskrcnn.bench import timing as turns
from maskrcnn.bench.timing import Timing, take_turns

__all__ = ["Timing", "arguments", "row", "take_turns", "write"]


def arguments(description: str, *, repeats: int) -> argparse.ArgumentParser:
    """Return the parser with what every benchmark can be told."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--threads", type=int, default=2, help="threads of PyTorch (default: 2)")
    parser.add_argument("--repeats", type=int, default=repeats, help=f"timed turns (default: {repeats})")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    return parser


def row(title: str, ours: Timing, theirs: Timing) -> dict[str, float]:
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


def write(path: Path | None, figures: dict[str, Any]) -> None:
    """Write the figures and the machine they belong to, if a path was given."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        machine = turns.machine(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        path.write_text(json.dumps({"machine": machine, **figures}, indent=1) + "\n")
        print(f"written: {path}")
