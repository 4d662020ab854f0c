"""Several processes, one training: each takes its share of every batch, and all make the same step.

Started by ``torchrun --nproc-per-node 8 --no-python maskrcnn train …``, one process for each GPU (or, on
CPUs, for each few cores). The first process leads: it alone evaluates, saves and speaks.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import torch
from torch import distributed
from torch.nn import Parameter

from maskrcnn.device import resolve_device

_PATIENCE = timedelta(hours=12)  # the others wait while the first evaluates


class Processes(NamedTuple):
    """This process among all."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process evaluates, saves and speaks."""
        return self.rank == 0

    def share(self, batch_size: int) -> range:
        """Return which pictures of a batch are this process's. Raises ValueError where they do not divide."""
        if batch_size % self.size:
            raise ValueError(f"batch_size must be a multiple of the {self.size} processes, not {batch_size}")
        return range(self.rank, batch_size, self.size)

    def agree(self, elapsed: float, interrupted: bool, device: torch.device) -> tuple[float, bool]:
        """Return the longest time of all processes, and whether any was interrupted."""
        if self.size == 1:
            return elapsed, interrupted
        said = torch.tensor([elapsed, float(interrupted)], dtype=torch.float64, device=device)
        distributed.all_reduce(said, distributed.ReduceOp.MAX)
        longest, any_interrupted = said.tolist()
        return longest, any_interrupted > 0

    def average(self, parameters: Iterable[Parameter]) -> None:
        """Replace every gradient by its mean over the processes; one that a process lacks counts as 0."""
        if self.size == 1:
            return
        learning = [parameter for parameter in parameters if parameter.requires_grad]
        for parameter in learning:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [parameter.grad for parameter in learning if parameter.grad is not None]
        together = torch.cat(
            [gradient.flatten() for gradient in gradients]
        )  # one message instead of hundreds
        distributed.all_reduce(together)
        together /= self.size
        for gradient, mean in zip(gradients, together.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))


ALONE = Processes()


@contextmanager
def joined(device: str, output: Path) -> Iterator[tuple[Processes, torch.device, Path]]:
    """Join the processes that torchrun started, or be alone; give the device and where to write.

    Followers write into a folder of their own, which goes in the end, and say nothing. Raises ValueError as
    `resolve_device` does.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ALONE, resolve_device(device), output
        return
    rank, local = int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK", "0"))
    place = resolve_device(device)
    if place.type == "cuda":
        place = resolve_device(f"cuda:{local}")
        torch.cuda.set_device(place)
    distributed.init_process_group("nccl" if place.type == "cuda" else "gloo", timeout=_PATIENCE)
    with ExitStack() as stack:
        stack.callback(distributed.destroy_process_group)
        if rank:
            output = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            silence = stack.enter_context(Path(os.devnull).open("w"))
            stack.enter_context(redirect_stdout(silence))
        yield Processes(rank, size), place, output
