"""Devices by name."""

from __future__ import annotations

import torch


def resolve_device(device: str | torch.device = "auto") -> torch.device:
    """Return the device of that name, such as cpu, mps or cuda:1; "auto" is the fastest kind that is there.

    Raises ValueError for a device that this machine, or this build of torch, does not have.
    """
    cuda = torch.cuda.device_count() if torch.cuda.is_available() else 0
    counts = {"cuda": cuda, "mps": int(torch.backends.mps.is_available()), "cpu": 1}
    kind, _, index = str(device).partition(":")
    if kind == "auto":
        return torch.device(next(kind for kind, count in counts.items() if count))
    index = index or "0"
    if not index.isdecimal() or int(index) >= counts.get(kind, 0):
        there = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)
        raise ValueError(f"there is no device '{device}' for torch here: it sees {there}")
    return torch.device(device)
