"""Kernels for CUDA devices, written in Triton: each does at once what a function of `ops` does in steps.

The function of `ops` says what is right, and calls its kernel where there is one for its tensors. The
modules here import Triton and are therefore imported only then; under ``TRITON_INTERPRET=1`` they work on CPU
tensors.
"""

import os
import shutil
from importlib.util import find_spec

from torch import Tensor


def _has_compiler() -> bool:
    """Say whether Triton finds what it builds its launcher with: it needs the machine's C compiler."""
    return bool(os.name == "nt" or os.environ.get("CC") or any(map(shutil.which, ("cc", "gcc", "clang"))))


AVAILABLE = find_spec("triton") is not None and _has_compiler()


def are_for(tensor: Tensor) -> bool:
    """Say whether kernels can work on this tensor."""
    return AVAILABLE and tensor.is_cuda
