"""The choice among the ways to make a network detect faster."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch

from maskrcnn.fast.cpu import optimize_for_cpu
from maskrcnn.fast.cuda_graph import cuda_graphed
from maskrcnn.network.model import MaskRCNN
from maskrcnn.runtimes.network import ExportedNetwork
from maskrcnn.types import Batch, Detections


class Acceleration(NamedTuple):
    """How a network is made faster: the precision of its layers, and whether it is compiled or a CUDA graph.

    bf16 is for GPUs, and for processors with instructions for it. Compiling takes about a minute at the first
    batch; a compiled network is faster on a GPU. A CUDA graph is recorded for each padded size of a batch:
    it is for many pictures of few sizes. On a CPU, float32 without either takes the layers of
    `optimize_for_cpu`.
    """

    precision: Literal["float32", "bf16"] = "float32"
    compiled: bool = False
    cuda_graph: bool = False

    def apply(self, model: MaskRCNN | ExportedNetwork, device: torch.device) -> Callable[[Batch], Detections]:
        """Return a fast `detect` function for a frozen `model` on `device`, which may be modified in place.

        An exported network's own is returned. Raises ValueError for a CUDA graph on another device than
        CUDA's, for one of a compiled network, and as `optimize_for_cpu` does.
        """
        if isinstance(model, ExportedNetwork):
            return model.detect
        if self.cuda_graph and device.type != "cuda":
            raise ValueError(
                f"only a network on a CUDA device can be captured as a CUDA graph; this one is on {device}"
            )
        if self.cuda_graph and self.compiled:
            raise ValueError(
                "a network is either compiled or captured as a CUDA graph: choose one of the two"
            )
        if device.type == "cpu" and self == PLAIN:
            optimize_for_cpu(model)
        detect: Callable[[Batch], Detections] = model.detect
        if self.compiled:
            detect = torch.compile(model.detect)
        if self.cuda_graph:
            detect = cuda_graphed(model)
        return detect if self.precision == "float32" else _in_bf16(detect, device)


PLAIN = Acceleration()


def _in_bf16(detect: Callable[[Batch], Detections], device: torch.device) -> Callable[[Batch], Detections]:
    def detect_in_bf16(batch: Batch) -> Detections:
        # A context for each call: one that decorates `detect` keeps its state, and threads would share it.
        with torch.autocast(device.type, torch.bfloat16):
            return detect(batch)

    return detect_in_bf16
