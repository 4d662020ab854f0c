"""A network that another runtime executes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Int, UInt8

from maskrcnn.runtimes.description import Description
from maskrcnn.types import Batch, Detections

Arrays = dict[str, np.ndarray]


# From images (B, C, H, W) and their sizes (B, 2) to the outputs by name, as `export.graph.Graph` tells them.
Run = Callable[[UInt8[np.ndarray, "B C H W"], Int[np.ndarray, "B 2"]], Arrays]


@dataclass(frozen=True)
class ExportedNetwork:
    """A network that another runtime works, for a `Predictor`: `run` gives the outputs for one input."""

    description: Description
    run: Run

    @property
    def stride(self) -> int:
        """What divides the sides of the input, px."""
        return self.description.stride

    @property
    def in_channels(self) -> int:
        """Channels of a picture."""
        return self.description.channels

    @property
    def num_classes(self) -> int:
        """Classes that are told apart."""
        return len(self.description.class_names)

    def detect(self, batch: Batch) -> Detections:
        """Return the detections of uint8 pictures, as `MaskRCNN.detect` does.

        Raises ValueError for pictures that are larger than the input.
        """
        parts = [self.run(*one) for one in self.inputs(batch)]
        joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        count = len(batch.images)
        return detections({name: torch.from_numpy(array[:count]) for name, array in joined.items()})

    def inputs(self, batch: Batch) -> list[tuple[UInt8[np.ndarray, "b C h w"], Int[np.ndarray, "b 2"]]]:
        """Return what `run` takes: as many pictures as fit at a time, padded in size and number."""
        height, width = batch.images.shape[2:]
        least = self.description.least_side
        wanted = self.description.size_hw or (max(height, least), max(width, least))
        if height > wanted[0] or width > wanted[1]:
            raise ValueError(
                f"the exported network sees {wanted[0]} rows of {wanted[1]} pixels, not {height} of {width}"
            )
        at_once = self.description.batch or len(batch.images)
        missing = -len(batch.images) % at_once
        images = F.pad(batch.images, (0, wanted[1] - width, 0, wanted[0] - height, 0, 0, 0, missing))
        sizes_hw = F.pad(batch.sizes_hw, (0, 0, 0, missing), value=1)
        chunks = zip(images.contiguous().split(at_once), sizes_hw.split(at_once), strict=True)
        return [(images.numpy(), sizes_hw.numpy()) for images, sizes_hw in chunks]


def detections(outputs: Mapping[str, torch.Tensor]) -> Detections:
    """Return the outputs of an exported network as the network itself gives them."""
    slots = torch.arange(outputs["scores"].shape[1])
    return Detections(
        boxes=outputs["boxes"],
        scores=outputs["scores"],
        labels=outputs["labels"].long(),
        valid=slots < outputs["count"][:, None],
        mask_probs=outputs.get("masks"),
        keypoint_heatmaps=outputs.get("keypoint_heatmaps"),
    )
