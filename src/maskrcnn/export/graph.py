"""Detection as one graph of tensors: from a batch to named outputs, with dynamic batch, height and width."""

from __future__ import annotations

import copy
import warnings
from itertools import count

import torch
from jaxtyping import Int, UInt8
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from maskrcnn.network.model import MaskRCNN
from maskrcnn.runtimes.description import Description
from maskrcnn.types import Batch

INPUTS = ["images", "sizes_hw"]

_LARGEST = 16384  # px, of a side of dynamic size
_MOST = 1024  # pictures of a dynamic batch


class Graph(nn.Module):
    """`detect`, from images (B, C, H, W) of uint8 and their sizes (B, 2) to tensors by name.

    `boxes` (B, D, 4) are x1, y1, x2, y2 in pixels of the input, `scores` (B, D) fall, `labels` (B, D) count
    the classes from 0, `masks` (B, D, M, M) are probabilities within the box, `keypoint_heatmaps`
    (B, D, J, M, M) are logits within the box. Of each picture's D slots the first `count` (B,) are taken.
    """

    def __init__(self, model: MaskRCNN) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: UInt8[Tensor, "B C H W"], sizes_hw: Int[Tensor, "B 2"]) -> dict[str, Tensor]:
        """Return the detections by name: those that the network has a branch for."""
        found = self.model.detect(Batch(images, sizes_hw))
        outputs = {
            "boxes": found.boxes,
            "scores": found.scores,
            "labels": found.labels,
            "masks": found.mask_probs,
            "keypoint_heatmaps": found.keypoint_heatmaps,
            "count": found.valid.sum(1),
        }
        return {name: output for name, output in outputs.items() if output is not None}


def outputs(model: MaskRCNN) -> list[str]:
    """Return the names of the outputs that `Graph` gives, in its order."""
    masks = ["masks"] * ("masks" in model.branches)
    heatmaps = ["keypoint_heatmaps"] * ("keypoints" in model.branches)
    return ["boxes", "scores", "labels", *masks, *heatmaps, "count"]


def traced(model: MaskRCNN, description: Description) -> ExportedProgram:
    """Return the graph of `model`, whose norms are folded, for the input that `description` names."""
    least, unit = description.least_side, description.stride
    # What it is traced with leaves no trace, as long as no side and no number is 1 or equals another.
    height, width = description.size_hw or (least + 4 * unit, least + 5 * unit)
    images = torch.zeros(description.batch or 2, description.channels, height, width, dtype=torch.uint8)
    sizes_hw = torch.tensor([[height, width]] * len(images))
    pictures = {} if description.batch else {0: Dim("batch", min=1, max=_MOST)}
    sides = {} if description.size_hw else {2: _side("height", least, unit), 3: _side("width", least, unit)}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        return torch.export.export(
            Graph(model).eval(),
            (images, sizes_hw),
            dynamic_shapes={"images": {**pictures, **sides}, "sizes_hw": pictures},
            strict=False,
        )


def _side(name: str, least: int, unit: int) -> Dim:
    dim = Dim(name, min=least // unit, max=_LARGEST // unit)
    return dim if unit == 1 else unit * dim


def half(model: MaskRCNN) -> MaskRCNN:
    """Return a copy of `model` that computes its layers in half precision, and boxes and scores in single."""
    model = copy.deepcopy(model)
    model.backbone = nn.Sequential(_ToHalf(), model.backbone.half())
    for part in (model.rpn, model.box_branch, model.branches):
        part.half()
    return model


class _ToHalf(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.half()


def least_side(model: MaskRCNN) -> int:
    """Return the least side of an input of dynamic size, px.

    From there on every level has at least two cells on each axis, and there are always enough anchors for all
    slots of the proposals, so that their number is fixed.
    """
    anchors, topn = model.rpn.anchors, model.rpn.test_topn
    for side in count(model.stride, model.stride):
        cells = [-(-side // stride) for stride in anchors.strides]
        offered = sum(min(topn.pre_nms, cell**2 * anchors.per_cell) for cell in cells)
        if min(cells) > 1 and offered >= topn.post_nms:
            return side
    raise AssertionError
