"""Several processes train one network: each computes its share of every batch, and all make the same update.

Started by ``torchrun --nproc-per-node 8 --no-python maskrcnn train …``: one process per GPU, or on CPUs per
few cores. The first process leads: only it evaluates, saves and prints.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, distributed
from torch.nn import Parameter

from maskrcnn.device import resolve_device

_TIMEOUT = timedelta(hours=12)  # the other processes wait while the first evaluates


class Processes(NamedTuple):
    """This process's number, and how many there are."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process evaluates, saves and prints."""
        return self.rank == 0

    def share(self, batch_size: int) -> range:
        """Return the slots of a batch that this process computes.

        Raises ValueError where the processes do not divide `batch_size`.
        """
        if batch_size % self.size:
            raise ValueError(f"batch_size must be a multiple of the {self.size} processes, not {batch_size}")
        return range(self.rank, batch_size, self.size)

    def agree(self, elapsed: float, stop_signal: int, device: torch.device) -> tuple[float, int]:
        """Return the longest time of all processes, and the number of a signal that any received (else 0)."""
        longest, number = self.largest([elapsed, float(stop_signal)], device)
        return longest, int(number)

    def largest(self, values: Sequence[float], device: torch.device) -> list[float]:
        """Return the largest of each value over the processes."""
        if self.size == 1:
            return list(values)
        over_all = torch.tensor(values, dtype=torch.float64, device=device)
        distributed.all_reduce(over_all, distributed.ReduceOp.MAX)
        return over_all.tolist()

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean of a tensor over the processes."""
        if self.size == 1:
            return values
        total = values.clone()
        distributed.all_reduce(total)
        return total / self.size

    def average(self, parameters: Iterable[Parameter]) -> None:
        """Replace every gradient by its mean over the processes; a missing gradient counts as 0."""
        if self.size == 1:
            return
        learning = [parameter for parameter in parameters if parameter.requires_grad]
        for parameter in learning:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [parameter.grad for parameter in learning if parameter.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])  # one message instead of hundreds
        distributed.all_reduce(flat)
        flat /= self.size
        for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))


ALONE = Processes()


@contextmanager
def joined(device: str, output: Path) -> Iterator[tuple[Processes, torch.device, Path]]:
    """Join the processes that torchrun started, if any; yield them, this process's device and its folder.

    The first process writes into `output`. Each other one writes into a temporary folder, and its standard
    output is discarded. Raises ValueError as `resolve_device` does.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ALONE, resolve_device(device), output
        return
    rank, local_rank = int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK", "0"))
    own_device = resolve_device(device)
    if own_device.type == "cuda":
        own_device = resolve_device(f"cuda:{local_rank}")
        torch.cuda.set_device(own_device)
    distributed.init_process_group("nccl" if own_device.type == "cuda" else "gloo", timeout=_TIMEOUT)
    with ExitStack() as stack:
        stack.callback(distributed.destroy_process_group)
        if rank:
            output = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            null = stack.enter_context(Path(os.devnull).open("w"))
            stack.enter_context(redirect_stdout(null))
        yield Processes(rank, size), own_device, output
