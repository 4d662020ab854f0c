"""Compute devices by name."""

from __future__ import annotations

import os
import warnings

import torch

# RoIAlign and its gradient are an `embedding_bag`, which PyTorch computes on Apple GPUs only since 2.10.
_REQUIRED_ON_MPS = (
    "aten::_embedding_bag",
    "aten::_embedding_bag_forward_only",
    "aten::_embedding_bag_dense_backward",
)
_FALLBACK = "PYTORCH_ENABLE_MPS_FALLBACK"


def resolve_device(device: str | torch.device = "auto") -> torch.device:
    """Return the device with this name: cpu, cuda, cuda:N, mps, or auto, the fastest of them.

    "cpu" never touches CUDA. "auto" warns where it has to ignore an Apple GPU. Raises ValueError for an
    unknown name, and for a device that this machine or this build of PyTorch does not have.
    """
    kind, colon, index = str(device).partition(":")
    if str(device) == "auto":
        return torch.device(_fastest())
    is_number = index.isdecimal() if colon else True
    if not is_number or int(index or 0) >= (1 if kind == "cpu" else _devices().get(kind, 0)):
        devices = ", ".join(f"{count} {kind}" for kind, count in _devices().items() if count)
        raise ValueError(
            f"device '{device}' is not available: expected auto, cpu, cuda, cuda:N or mps, "
            f"and PyTorch {torch.__version__} has {devices} on this machine"
        )
    if kind == "mps" and (operator := _missing_on_mps()):
        raise ValueError(
            f"device 'mps' is not supported: PyTorch {torch.__version__} has no {operator} for it; "
            f"update PyTorch, use cpu, or set {_FALLBACK}=1 before Python starts, to compute it on the CPU"
        )
    return torch.device(device)


def _devices() -> dict[str, int]:
    """Return the number of devices of each kind, the fastest kind first."""
    cuda = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return {"cuda": cuda, "mps": int(torch.backends.mps.is_available()), "cpu": 1}


def _fastest() -> str:
    kind = next(kind for kind, count in _devices().items() if count)
    if kind == "mps" and (operator := _missing_on_mps()):
        warnings.warn(
            f"computing on the CPU: PyTorch {torch.__version__} has no {operator} for the Apple GPU",
            stacklevel=3,
        )
        return "cpu"
    return kind


def _missing_on_mps() -> str | None:
    """Return an operator of region pooling that neither has an MPS kernel nor falls back to the CPU."""
    if os.environ.get(_FALLBACK, "0") != "0":
        return None
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    return next((name for name in _REQUIRED_ON_MPS if not has_kernel(name, "MPS")), None)
