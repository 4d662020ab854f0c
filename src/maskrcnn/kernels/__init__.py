"""Kernels for CUDA devices, written in Triton: one pass each for what a function of `ops` does in steps.

The function of `ops` defines the result, and calls its kernel where `can_run_on` and `trusted` allow it. The
modules here import Triton, so they are imported only then. Under ``TRITON_INTERPRET=1`` they run on the CPU.
"""

import os
import shutil
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from threading import Lock

import torch


def _has_compiler() -> bool:
    """Return whether Triton finds the C compiler that it builds its launcher with."""
    return bool(os.name == "nt" or os.environ.get("CC") or any(map(shutil.which, ("cc", "gcc", "clang"))))


AVAILABLE = find_spec("triton") is not None and _has_compiler()

Check = Callable[[torch.device, torch.dtype], None]

_VERDICTS: dict[tuple[str, torch.device, torch.dtype], bool] = {}
_LOCK = Lock()


def can_run_on(device: torch.device) -> bool:
    """Return whether Triton is installed and compiles for this device."""
    return AVAILABLE and device.type == "cuda"


def trusted(name: str, device: torch.device, dtype: torch.dtype, check: Check) -> bool:
    """Return whether the kernel `name` equals the plain operator on this device and in this precision.

    The first call runs `check`, which compares the two on a small case and raises an exception where they
    differ: then a warning is given, and the plain operator is used in this process from then on. `check`
    must call neither this function nor the global random generator.

    `torch.compile` calls this while it traces: the check runs at once, eagerly, and its verdict becomes a
    constant of the graph. Nothing can be checked while a CUDA graph is captured or tensors are fake
    (`torch.export`): a kernel is trusted there only if it was checked before. So capture after a warm-up, as
    PyTorch asks.
    """
    key = (name, device, dtype)
    verdict = _VERDICTS.get(key)
    if verdict is None and _can_check(device):
        with _LOCK:
            verdict = _VERDICTS.get(key)
            if verdict is None:
                verdict = _VERDICTS[key] = _passes(name, device, dtype, check)
    return bool(verdict)


# What `torch.compiler.assume_constant_result` sets, without its import of the whole compiler. A compiler that
# ignores it traces this function: then `_can_check` is False, and only earlier verdicts count.
trusted._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _can_check(device: torch.device) -> bool:
    if torch.compiler.is_dynamo_compiling() or type(torch.empty(0)) is not torch.Tensor:
        return False
    return not (device.type == "cuda" and torch.cuda.is_current_stream_capturing())


def _passes(name: str, device: torch.device, dtype: torch.dtype, check: Check) -> bool:
    try:
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device.type, enabled=False):
            check(device, dtype)
    except Exception as error:
        reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        warnings.warn(
            f"the Triton kernel {name} is not used on {device} in {dtype}, because it fails there or differs "
            f"from the plain operator ({reason}). The plain operator is used instead; it is slower.",
            stacklevel=2,
        )
        return False
    return True
