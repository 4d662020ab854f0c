"""How a network is made fast."""

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
    """How a network is made fast: with which precision its layers calculate, whether compiled or captured.

    bf16 is for GPUs and for processors that calculate in it. A compiled network takes a minute to make for
    the first picture, and is then faster on a GPU. A captured one is a CUDA graph, recorded for each size of
    the padded batch: for many pictures of few sizes.
    """

    precision: Literal["float32", "bf16"] = "float32"
    compiled: bool = False
    cuda_graph: bool = False

    def apply(self, model: MaskRCNN | ExportedNetwork, device: torch.device) -> Callable[[Batch], Detections]:
        """Return the `detect` of `model`, which is changed to be fast in this way; as it is, if exported.

        Raises ValueError where it is to be captured on another device than CUDA's, or compiled as well.
        """
        if isinstance(model, ExportedNetwork):
            return model.detect
        if self.cuda_graph and device.type != "cuda":
            raise ValueError(f"only a network on a CUDA device can be captured, and this one is on {device}")
        if self.cuda_graph and self.compiled:
            raise ValueError("a network is either compiled or captured: choose one of the two")
        if device.type == "cpu" and self == PLAIN:
            optimize_for_cpu(model)
        detect: Callable[[Batch], Detections] = model.detect
        if self.compiled:
            detect = torch.compile(model.detect)
        if self.cuda_graph:
            detect = cuda_graphed(model)
        if self.precision == "float32":
            return detect
        return torch.autocast(device.type, torch.bfloat16)(detect)


PLAIN = Acceleration()
