"""Times, floating-point operations and memory of a function.

Contestants of a comparison take turns within one run, so that a busy machine slows all of them alike.
"""

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

_CLEAR = Path("/proc/self/clear_refs")


class Timing(NamedTuple):
    """Milliseconds of one contestant over its timed turns."""

    median: float
    best: float


def take_turns(
    contestants: Mapping[str, Callable[[], Any]], *, repeats: int, warm_up: int = 2
) -> dict[str, Timing]:
    """Return the timing of each contestant over `repeats` turns, after `warm_up` turns that do not count."""
    turns: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(warm_up + repeats):
        for name, run in contestants.items():
            turns[name].append(milliseconds(run))
    timed = {name: times[warm_up:] for name, times in turns.items()}
    return {name: Timing(statistics.median(times), min(times)) for name, times in timed.items()}


def milliseconds(run: Callable[[], Any]) -> float:
    """Return the duration of `run`, including the GPU kernels that it starts."""
    synchronize()
    start = time.perf_counter()
    run()
    synchronize()
    return 1000 * (time.perf_counter() - start)


def synchronize() -> None:
    """Wait until the GPU, if there is one, has finished its work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def count_flops(run: Callable[[], Any]) -> int:
    """Return the floating-point operations of the convolutions and matrix products in `run`."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def peak_flops(device: torch.device, dtype: torch.dtype, *, repeats: int = 5) -> float:
    """Return the floating-point operations per second that a large matrix product reaches on `device`."""
    side = 8192 if device.type == "cuda" else 2048
    first, second = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    timings = take_turns({"product": lambda: first @ second}, repeats=repeats)
    return 2 * side**3 / (timings["product"].best / 1000)


def peak_memory(run: Callable[[], Any], device: torch.device) -> int | None:
    """Return the bytes that `run` allocates at its peak, beyond what was allocated before.

    None where `memory_in_use` is.
    """
    before = memory_in_use(device)
    return None if before is None else max((peak_memory_in_use(run, device) or 0) - before, 0)


def memory_in_use(device: torch.device) -> int | None:
    """Return the bytes that are allocated at present.

    On a GPU these are PyTorch's allocations; elsewhere they are resident bytes of the process, which only
    Linux counts: on another system the answer is None.
    """
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    try:
        _CLEAR.write_text("5")  # resets VmHWM, the peak, to the present size
    except OSError:
        return None
    return _status_bytes("VmRSS")


def peak_memory_in_use(run: Callable[[], Any], device: torch.device) -> int | None:
    """Return the most bytes in use at a time during `run`, or None as `memory_in_use` does."""
    if memory_in_use(device) is None:
        return None
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        run()
        return torch.cuda.max_memory_allocated(device)
    run()
    return _status_bytes("VmHWM")


def _status_bytes(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{name}:")).split()[1]) * 1024


def machine(device: torch.device) -> dict[str, Any]:
    """Return what figures depend on: date, versions, processor, threads and GPU."""
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
