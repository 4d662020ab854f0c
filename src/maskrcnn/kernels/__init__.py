"""Kernels for CUDA devices, written in Triton: one pass each for what a function of `ops` does in steps.

The function of `ops` defines the result, and calls its kernel on one of `DEVICES` where `trusted` allows it.
The modules here import Triton: they are imported only then. Under ``TRITON_INTERPRET=1`` they run on the CPU.

Each module has a function `check`, and `check_backward` where its kernel has a gradient. They take the plain
operator, a device and a precision, compare kernel and operator on a small case, and raise an exception where
the two differ. They must call neither `trusted` nor the global random generator.
"""

import os
import shutil
import warnings
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from threading import Lock

import torch
from torch import Tensor


def _has_compiler() -> bool:
    """Return whether Triton finds the C compiler that it builds its launcher with."""
    return bool(os.name == "nt" or os.environ.get("CC") or any(map(shutil.which, ("cc", "gcc", "clang"))))


# The types of devices that kernels run on: none where Triton is missing or cannot compile.
DEVICES = ("cuda",) if find_spec("triton") is not None and _has_compiler() else ()

_VERDICTS: dict[tuple[str, bool, torch.device, torch.dtype], bool] = {}
_LOCK = Lock()


def trusted(
    name: str,
    device: torch.device,
    dtype: torch.dtype,
    plain: Callable[..., Tensor],
    *,
    backward: bool = False,
) -> bool:
    """Return whether the kernel in the module `name` equals `plain` on this device and in this precision.

    With `backward`, their gradients must be equal, too. The first call runs the module's check. Where that
    raises an exception, a warning is given, and the plain operator is used in this process from then on.

    `torch.compile` calls this while it traces: the check runs at once, eagerly, and its verdict becomes a
    constant of the graph. Nothing can be checked while a CUDA graph is captured or tensors are fake
    (`torch.export`): a kernel is trusted there only if it was checked before. So capture after a warm-up, as
    PyTorch asks.
    """
    if backward and not trusted(name, device, dtype, plain):
        return False
    key = (name, backward, device, dtype)
    verdict = _VERDICTS.get(key)
    if verdict is None and _can_check(device):
        with _LOCK:
            verdict = _VERDICTS.get(key)
            if verdict is None:
                verdict = _VERDICTS[key] = _passes(*key, plain)
    return bool(verdict)


# What `torch.compiler.assume_constant_result` sets, without its import of the whole compiler. A compiler that
# ignores it traces this function: then `_can_check` is False, and only earlier verdicts count.
trusted._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _can_check(device: torch.device) -> bool:
    if torch.compiler.is_dynamo_compiling() or type(torch.empty(0)) is not torch.Tensor:
        return False
    return not (device.type == "cuda" and torch.cuda.is_current_stream_capturing())


def _passes(
    name: str, backward: bool, device: torch.device, dtype: torch.dtype, plain: Callable[..., Tensor]
) -> bool:
    try:
        kernel = import_module(f"{__name__}.{name}")
        check = kernel.check_backward if backward else kernel.check
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device.type, enabled=False):
            check(plain, device, dtype)
    except Exception as error:
        reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        warnings.warn(
            f"the Triton kernel {name}{' backward' if backward else ''} is not used on {device} in {dtype}, "
            f"because it fails there or differs from the plain operator ({reason}). The plain operator is "
            "used instead; it is slower.",
            stacklevel=2,
        )
        return False
    return True
