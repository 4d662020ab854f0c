"""How this process treats memory that it no longer needs."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's numbers of these parameters
_MOST = 2**31 - 1  # bytes, the largest that they can be


def keep_memory() -> bool:
    """Let the process keep what it frees, up to 2 GiB, for its next tensors; return whether that can be.

    Without it, glibc hands every large tensor's memory back to Linux, and the next one is made of new pages,
    each of which is cleared first: a seventh of the time of a detection on a CPU. It is the whole process's
    setting, so programs choose it (the commands that detect do), and a library does not. Elsewhere than with
    glibc nothing is changed.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(which, _MOST) for which in (_TRIM_THRESHOLD, _MMAP_THRESHOLD))
