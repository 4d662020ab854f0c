"""A network that another runtime executes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Int, UInt8

from maskrcnn.runtimes.description import Description
from maskrcnn.types import Batch, Detections

Arrays = dict[str, np.ndarray]

# Executes the graph: images and their sizes to the outputs by name, which `export.graph.DetectGraph` lists.
Run = Callable[[UInt8[np.ndarray, "B C H W"], Int[np.ndarray, "B 2"]], Arrays]


@dataclass(frozen=True)
class ExportedNetwork:
    """An exported graph with its runtime; a `Predictor` takes it in place of a `MaskRCNN`."""

    description: Description
    run: Run

    @property
    def stride(self) -> int:
        """Pictures are padded to multiples of so many pixels."""
        return self.description.input.stride

    @property
    def in_channels(self) -> int:
        """Channels of a picture."""
        return self.description.input.channels

    @property
    def num_classes(self) -> int:
        """Number of classes, without background."""
        return len(self.description.metadata.class_names)

    def detect(self, batch: Batch) -> Detections:
        """Return the detections of a batch of uint8 pictures, as `MaskRCNN.detect` does.

        Raises ValueError for pictures larger than an input of fixed size.
        """
        outputs = [self.run(*inputs) for inputs in self.split_inputs(batch)]
        joined = {name: np.concatenate([output[name] for output in outputs]) for name in outputs[0]}
        count = len(batch.images)  # what lies beyond was padding
        return to_detections({name: torch.from_numpy(array[:count]) for name, array in joined.items()})

    def split_inputs(
        self, batch: Batch
    ) -> Iterator[tuple[UInt8[np.ndarray, "b C h w"], Int[np.ndarray, "b 2"]]]:
        """Yield the arguments of `run` for a batch, padded to the size and the number that the graph takes.

        Raises ValueError for pictures larger than an input of fixed size.
        """
        padded = self._padded(batch)
        count = self.description.input.batch or len(batch.images)
        chunks = zip(padded.images.split(count), padded.sizes_hw.split(count), strict=True)
        return ((images.numpy(), sizes_hw.numpy()) for images, sizes_hw in chunks)

    def _padded(self, batch: Batch) -> Batch:
        expected = self.description.input
        height, width = batch.images.shape[2:]
        rows, columns = expected.size_hw or (max(height, expected.min_side), max(width, expected.min_side))
        if height > rows or width > columns:
            raise ValueError(
                f"the exported network takes pictures of at most {rows}x{columns} pixels (height x width), "
                f"not {height}x{width}"
            )
        missing = -len(batch.images) % (expected.batch or len(batch.images))
        images = F.pad(batch.images, (0, columns - width, 0, rows - height, 0, 0, 0, missing))
        return Batch(images.contiguous(), F.pad(batch.sizes_hw, (0, 0, 0, missing), value=1))


def to_detections(outputs: Mapping[str, torch.Tensor]) -> Detections:
    """Return the outputs of an exported graph in the form that `MaskRCNN.detect` returns."""
    slots = torch.arange(outputs["scores"].shape[1])
    return Detections(
        boxes=outputs["boxes"],
        scores=outputs["scores"],
        labels=outputs["labels"].long(),
        valid=slots < outputs["count"][:, None],
        mask_probs=outputs.get("masks"),
        keypoint_heatmaps=outputs.get("keypoint_heatmaps"),
    )
