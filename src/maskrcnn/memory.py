"""Out of memory: how it is recognised, and how work goes on with fewer pictures at a time."""

from __future__ import annotations

import gc
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from maskrcnn.messages import counted

T = TypeVar("T")

# What PyTorch's RuntimeErrors say where an allocation failed, on a GPU or in the host's memory
_FAILED_ALLOCATION = re.compile(
    r"out of memory|can't allocate memory|not enough memory|(CUBLAS|CUDNN)_STATUS_ALLOC_FAILED"
)


class MemoryShortage(MemoryError):
    """Memory is too small even for the least work at a time; the message says what to lower."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that an allocation failed.

    PyTorch's own class for GPUs is known by its name, so that this file does without torch.
    """
    if isinstance(error, RuntimeError):
        return type(error).__name__ == "OutOfMemoryError" or bool(_FAILED_ALLOCATION.search(str(error)))
    return isinstance(error, MemoryError)


@dataclass
class BatchLimit:
    """How many pictures are computed at a time: all of a batch until memory runs out, from then on fewer.

    The limit stays for as long as this object lives: memory that ran out once does so again, and each failed
    attempt takes time.
    """

    pictures: int | None = None  # None: any number

    def run(
        self,
        compute: Callable[[int], T],
        batch_size: int,
        *,
        least: int = 1,
        place: str = "",
        consequence: str = "",
        remedy: str,
    ) -> T:
        """Return what `compute` returns, which takes the number of pictures at a time.

        Where memory runs out, `compute` is called again with half as many (rounded up), and a warning says
        so: `place` tells where, `consequence` what remains as it was. `compute` must leave nothing behind
        when it raises. Raises MemoryShortage, whose message ends in `remedy`, where `least` pictures at a
        time are too many.
        """
        while True:
            at_a_time = min(self.pictures or batch_size, batch_size)
            try:
                return compute(at_a_time)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                sentence = f"out of memory{place} with {counted(at_a_time, 'picture')} at a time"
                if at_a_time <= least:
                    raise MemoryShortage(f"{sentence}: {remedy}") from error
            gc.collect()  # tensors in reference cycles; those of the traceback are free by now
            self.pictures = (at_a_time + 1) // 2
            warnings.warn(f"{sentence}: {self.pictures} at a time from here on{consequence}", stacklevel=2)
