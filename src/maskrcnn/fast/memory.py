"""The memory allocator's settings for this process."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's numbers of these parameters
_MMAP_DEFAULT = 128 * 1024  # bytes
_LARGEST = 2**31 - 1  # bytes, the largest value of a parameter


def keep_memory() -> bool:
    """Tell glibc not to return freed memory to the system, so that tensors reuse warm pages.

    Without it glibc returns every large tensor's memory to Linux at once, and the next tensor is made of new
    pages, each of which is cleared first: a seventh of the time of a detection on a CPU. Up to 2 GiB of
    freed memory are kept. The setting is the whole process's, so programs make it (the commands that detect
    do) and a library does not.

    Returns False, with the thresholds as they were, where this is not supported: elsewhere than with glibc,
    and in older releases of glibc, which refuse a threshold for mmap above 32 MiB. One of the two alone
    makes the process slower, because setting it ends glibc's own adjustment of both.
    """
    mallopt = _mallopt()
    # A refused threshold changes nothing: the one that is refused by some releases is set first.
    if mallopt is None or not mallopt(_MMAP_THRESHOLD, _LARGEST):
        return False
    if not mallopt(_TRIM_THRESHOLD, _LARGEST):
        mallopt(_MMAP_THRESHOLD, _MMAP_DEFAULT)
        return False
    return True


def _mallopt() -> Callable[[int, int], int] | None:
    """Return glibc's function that sets a parameter of the allocator and returns 1 if it did, or None."""
    return getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
