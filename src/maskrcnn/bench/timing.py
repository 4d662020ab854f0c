"""Timing side by side: contestants take turns within one run, for a busy machine slows all of them alike."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Mapping
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode


class Timing(NamedTuple):
    """Milliseconds of one contestant over its timed turns."""

    median: float
    best: float


def take_turns(
    contestants: Mapping[str, Callable[[], Any]], *, repeats: int, warm_up: int = 2
) -> dict[str, Timing]:
    """Return the times of each contestant over `repeats` turns, after `warm_up` turns not counted."""
    turns: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(warm_up + repeats):
        for name, run in contestants.items():
            turns[name].append(milliseconds(run))
    counted = {name: own[warm_up:] for name, own in turns.items()}
    return {name: Timing(statistics.median(own), min(own)) for name, own in counted.items()}


def milliseconds(run: Callable[[], Any]) -> float:
    """Return how long `run` takes until its last kernel is done."""
    synchronise()
    start = time.perf_counter()
    run()
    synchronise()
    return 1000 * (time.perf_counter() - start)


def synchronise() -> None:
    """Wait for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def operations(run: Callable[[], Any]) -> int:
    """Return the floating-point operations of the convolutions and matrix products in `run`."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def product_peak(device: torch.device, dtype: torch.dtype, *, repeats: int = 5) -> float:
    """Return the operations a second that this machine reaches in a large matrix product."""
    side = 8192 if device.type == "cuda" else 2048
    first, second = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    times = take_turns({"product": lambda: first @ second}, repeats=repeats)
    return 2 * side**3 / (times["product"].best / 1000)


def peak_memory(run: Callable[[], Any], device: torch.device) -> int | None:
    """Return the bytes that `run` needs at its peak beyond what is held before; None where none can tell.

    On a CPU these are resident bytes of the process, which only Linux counts; on a GPU PyTorch's own.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        return torch.cuda.max_memory_allocated(device) - before
    clear, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")
    try:
        clear.write_text("5")  # the peak begins anew
    except OSError:
        return None
    before = _resident(status, "VmRSS")
    run()
    return max(_resident(status, "VmHWM") - before, 0)


def _resident(status: Path, name: str) -> int:
    line = next(line for line in status.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def machine(device: torch.device) -> dict[str, Any]:
    """Return what the figures belong to: the day, versions, processor, threads, GPU."""
    versions = {name: _version(name) for name in ("torch", "torchvision")}
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "date": date.today().isoformat(),
        **versions,
        "python": platform.python_version(),
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
