"""Worker processes that read ahead: they leave Ctrl-C to the main process, and end when it ends.

Their tensors come back in shared memory. Where little of it is free, as in a container with docker's default
of 64 MB, they come through a pipe, copied twice more: a full shared memory ends or blocks a worker.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset

_SHARED_MEMORY = Path("/dev/shm")  # of Linux; other systems do not bound it
_ENOUGH = 1 << 30  # bytes: several of the largest batches
_LONGEST_WAIT = 300  # seconds for one item; a slow network drive takes seconds


def in_workers(items: Dataset, indices: Iterable[Any], workers: int, pin: bool) -> Iterator[Any]:
    """Yield the items of the given indices, in order, from `workers` processes; from this one if 0.

    Raises ValueError if a worker ends or returns nothing for five minutes, and what `items` raises.
    """
    workers = _possible_workers(workers)
    loader = DataLoader(
        _Sent(items) if workers else items,
        sampler=indices,
        batch_size=None,
        num_workers=workers,
        collate_fn=_unchanged,
        pin_memory=pin,
        timeout=_LONGEST_WAIT if workers else 0,
        worker_init_fn=_init_worker,
        generator=torch.Generator(),  # for the workers' seeds; torch's own generator would advance
    )
    if workers and multiprocessing.get_start_method() != "fork":
        resource_tracker.ensure_running()  # or else the first worker starts it, and that unblocks the signal
    with _sigint_blocked():
        iterator = iter(loader)
    try:
        for item in iterator:
            yield pickle.loads(item.content) if isinstance(item, _Pickled) else item
    except RuntimeError as error:
        if str(error).startswith("DataLoader timed out"):
            raise ValueError(
                f"a worker process has read nothing for {_LONGEST_WAIT} seconds: is the drive of the "
                "pictures connected, or a worker process stopped?"
            ) from error
        if not str(error).startswith(("DataLoader worker (pid", "Too many open files")):
            raise
        raise ValueError(
            f"a worker process that reads pictures ended ({' '.join(str(error).split())}): use fewer workers"
            " if memory ran out, or 0; on macOS and Windows, a script that starts workers must protect its"
            " start by `if __name__ == '__main__':`"
        ) from error


class _Pickled(NamedTuple):
    """An item as bytes, which are not put into shared memory."""

    content: bytes


@dataclass(frozen=True)
class _Sent(Dataset):
    """Items as a worker sends them."""

    items: Dataset

    def __getitem__(self, index: Any) -> Any:
        item = self.items[index]
        return item if free_shared_memory() >= _ENOUGH else _Pickled(pickle.dumps(item))


def free_shared_memory() -> float:
    """Return the bytes of shared memory that are free; infinity where the system sets no bound."""
    if not _SHARED_MEMORY.is_dir():
        return float("inf")
    status = os.statvfs(_SHARED_MEMORY)
    return float(status.f_bavail * status.f_frsize)


def _init_worker(worker: int) -> None:
    """Leave Ctrl-C to the main process, which may still need batches until it has saved; end if it ends.

    torch lets a worker end when its parent process does. Under "forkserver", the default on Linux from Python
    3.14 on, the parent is a server that in turn waits for the workers.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_main_process, daemon=True).start()


def _end_with_main_process() -> None:
    main_process = multiprocessing.parent_process()
    assert main_process is not None
    main_process.join()
    os._exit(1)


@contextmanager
def _sigint_blocked() -> Iterator[None]:
    """Delay SIGINT: in this thread to the end of the block, and in processes that start in it.

    Spawned workers import torch, for seconds, before they ignore the signal.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _possible_workers(workers: int) -> int:
    """Return at most as many as this process has cores; 0 in a process that may not start others."""
    if multiprocessing.current_process().daemon:
        return 0
    return min(
        workers, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )


def _unchanged(item: Any) -> Any:
    return item
