"""Detection as one graph of tensors: from a batch to named outputs, with dynamic batch, height and width.

What the export needs to know of a network's modules is here; the writers see the graph alone.
"""

from __future__ import annotations

import copy
import warnings
from itertools import count
from typing import Any, NamedTuple

import torch
from jaxtyping import Int, UInt8
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from maskrcnn.network.model import MaskRCNN
from maskrcnn.runtimes.description import InputFormat
from maskrcnn.types import Batch

INPUTS = ["images", "sizes_hw"]

_MAX_SIDE = 16384  # px, of an input of dynamic size
_MAX_BATCH = 1024  # pictures of a dynamic batch


class DetectGraph(nn.Module):
    """`MaskRCNN.detect`, from images (B, C, H, W) of uint8 and their sizes (B, 2) to tensors by name.

    `boxes` (B, D, 4) are x1, y1, x2, y2 in pixels of the input, `scores` (B, D) are sorted, highest first,
    `labels` (B, D) count the classes from 0, `masks` (B, D, M, M) are probabilities within the box,
    `keypoint_heatmaps` (B, D, J, M, M) are logits within the box. The first `count` (B,) of a picture's D
    slots hold its detections.
    """

    def __init__(self, model: MaskRCNN) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: UInt8[Tensor, "B C H W"], sizes_hw: Int[Tensor, "B 2"]) -> dict[str, Tensor]:
        """Return the detections by name; masks and keypoints only where the network predicts them."""
        detections = self.model.detect(Batch(images, sizes_hw))
        outputs = {
            "boxes": detections.boxes,
            "scores": detections.scores,
            "labels": detections.labels,
            "masks": detections.mask_probs,
            "keypoint_heatmaps": detections.keypoint_heatmaps,
            "count": detections.valid.sum(1),
        }
        return {name: output for name, output in outputs.items() if output is not None}


class InputShape(NamedTuple):
    """The input of a graph: None stands for a dynamic dimension."""

    size_hw: tuple[int, int] | None = None  # px
    batch: int | None = None  # pictures


DYNAMIC = InputShape()


def input_format(model: MaskRCNN, shape: InputShape) -> InputFormat:
    """Return the input of `model` in a graph of this shape. Raises ValueError for an impossible shape."""
    size_hw, batch = shape
    if size_hw is not None and any(side < 1 or side % model.stride for side in size_hw):
        raise ValueError(
            f"the sides of this network's input must be multiples of {model.stride} px, "
            f"not {size_hw[0]}x{size_hw[1]}"
        )
    if batch is not None and batch < 1:
        raise ValueError(f"a batch must hold at least 1 picture, not {batch}")
    return InputFormat(
        size_hw=size_hw,
        batch=batch,
        channels=model.in_channels,
        stride=model.stride,
        min_side=min_side(model),
        mean=tuple(model.normalise.mean.flatten().tolist()),
        std=tuple(model.normalise.std.flatten().tolist()),
        bgr=model.normalise.bgr,
    )


def min_side(model: MaskRCNN) -> int:
    """Return the smallest side, px, of an input of dynamic size.

    From this side on, every level of the pyramid has at least two cells on each axis, and there are enough
    anchors to fill all slots of the proposals, so that their number does not depend on the size.
    """
    anchors, topn = model.rpn.anchors, model.rpn.test_topn
    for side in count(model.stride, model.stride):
        cells = [-(-side // stride) for stride in anchors.strides]
        candidates = sum(min(topn.pre_nms, cell**2 * anchors.per_cell) for cell in cells)
        if min(cells) > 1 and candidates >= topn.post_nms:
            return side
    raise AssertionError


def export_graph(model: MaskRCNN, input: InputFormat) -> ExportedProgram:
    """Return the graph of `model`, whose norms are folded, as torch.export's program for this input."""
    smallest, unit = input.min_side, input.stride
    # The example leaves no trace in a dynamic graph if no dimension is 1 and no two are equal.
    height, width = input.size_hw or (smallest + 4 * unit, smallest + 5 * unit)
    images = torch.zeros(input.batch or 2, input.channels, height, width, dtype=torch.uint8)
    sizes_hw = torch.tensor([[height, width]] * len(images))
    batch = {} if input.batch else {0: Dim("batch", min=1, max=_MAX_BATCH)}
    sides = {} if input.size_hw else {2: _side("height", smallest, unit), 3: _side("width", smallest, unit)}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        return torch.export.export(
            DetectGraph(model).eval(),
            (images, sizes_hw),
            dynamic_shapes={"images": {**batch, **sides}, "sizes_hw": batch},
            strict=False,
        )


def _side(name: str, smallest: int, unit: int) -> Dim:
    dim = Dim(name, min=smallest // unit, max=_MAX_SIDE // unit)
    return dim if unit == 1 else unit * dim


def output_names(program: ExportedProgram) -> list[str]:
    """Return the names of a graph's outputs, in their order."""
    spec: Any = program.call_spec.out_spec
    return list(spec.unflatten(range(spec.num_leaves)))


def to_half(model: MaskRCNN) -> MaskRCNN:
    """Return a copy of `model` whose layers compute in half precision; boxes and scores stay in single."""
    model = copy.deepcopy(model)
    for name, part in model.named_children():
        if name != "normalise":
            part.half()
    model.backbone = nn.Sequential(_ToHalf(), model.backbone)
    return model


class _ToHalf(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.half()
