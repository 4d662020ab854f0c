"""The values that networks take and return: a batch of images, its ground truth, detections.

The coordinate rule. Coordinates are continuous: pixel ``i`` covers ``[i, i + 1)`` and its centre is
``i + 0.5``. ``boxes`` are always ``x1, y1, x2, y2`` with width ``x2 - x1``; ``sizes_hw`` are always rows,
columns. Everything in this module is in the frame of the network's input; file pixels exist only in ``data``
and ``predict``.

Every stage works on tensors of a fixed capacity (slots) with a mask of the valid ones, so that no shape
depends on the data. Letters of the shapes, used throughout:

    B images of a batch        C channels           H, W rows and columns of the network's input
    G ground-truth objects     A anchors            P proposals
    S sampled anchors          D detections         K object classes (background not counted)
    N regions, flat            M side of a mask     J keypoints
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Shaped, UInt8
from torch import Tensor


class Batch(NamedTuple):
    """Images, padded on the right and at the bottom to a common shape.

    Pixel values are 0 … 255, uint8 or float; the network normalises them and clears the padding.
    """

    images: Shaped[Tensor, "B C H W"]
    sizes_hw: Int[Tensor, "B 2"]  # of each image without its padding

    def to(self, device: torch.device | str) -> Batch:
        """Return the same batch on `device`."""
        return Batch(*(field.to(device, non_blocking=True) for field in self))

    def pinned(self) -> Batch:
        """Return the same batch in pinned memory, from which a CUDA device copies asynchronously."""
        return Batch(*(field.pin_memory() for field in self))

    def split(self, size: int) -> list[Batch]:
        """Return batches of `size` consecutive images, the last one of the rest."""
        return [Batch(*fields) for fields in zip(*(field.split(size) for field in self), strict=True)]


@dataclass(frozen=True)
class Metadata:
    """What a network detects, in the order of its labels and of its keypoints.

    Raises ValueError for names, ids and thresholds that differ in number, for thresholds beyond 0 … 1, and
    for a skeleton of other keypoints.
    """

    class_names: tuple[str, ...]  # of the labels 0 … K-1
    category_ids: tuple[int, ...]  # of the same classes in the data set
    keypoint_names: tuple[str, ...] = ()
    skeleton: tuple[tuple[int, ...], ...] = ()  # pairs of keypoints, from 0, that a drawing joins by a line
    score_thresholds: tuple[float, ...] = ()  # of each class, for prediction; empty: not measured

    def __post_init__(self) -> None:
        if len(self.class_names) != len(self.category_ids):
            raise ValueError(
                f"expected as many category ids as class names, not {len(self.category_ids)} for "
                f"{len(self.class_names)}"
            )
        thresholds = self.score_thresholds
        if thresholds and len(thresholds) != len(self.class_names):
            raise ValueError(
                f"expected as many score thresholds as class names, not {len(thresholds)} for "
                f"{len(self.class_names)}"
            )
        if not all(isinstance(value, int | float) and 0 <= value <= 1 for value in thresholds):
            raise ValueError(f"score thresholds must be from 0 to 1, not {list(thresholds)}")
        last = len(self.keypoint_names) - 1
        for limb in self.skeleton:
            if len(limb) != 2 or not all(0 <= end <= last for end in limb):
                raise ValueError(f"a skeleton joins pairs of the keypoints 0 … {last}, not {list(limb)}")


class MaskTable(NamedTuple):
    """Ground-truth masks, each as the crop of its own box: memory grows with the objects' areas, not G·H·W.

    Crops lie one after another in `pixels`, each row by row. A crop keeps the resolution of its source:
    `affine` is ``(scale_x, shift_x, scale_y, shift_y)`` and maps the network's input to the crop,
    ``x_crop = scale_x * x + shift_x`` (negative scale: mirrored), so no transform resamples a mask;
    only what copy-paste leaves of a covered one is in pixels of the network's input.
    """

    pixels: UInt8[Tensor, " pixels"]  # 0 or 1
    starts: Int[Tensor, "B G"]  # where each crop begins in `pixels`
    sizes_hw: Int[Tensor, "B G 2"]  # rows and columns of each crop; 0, 0 where the object has no mask
    affine: Float[Tensor, "B G 4"]

    def split(self, size: int) -> list[MaskTable]:
        """Return the tables of `size` consecutive images, the last one of the rest, over the same pixels."""
        parts = (field.split(size) for field in self[1:])
        return [MaskTable(self.pixels, *fields) for fields in zip(*parts, strict=True)]


class Targets(NamedTuple):
    """Ground truth of a batch. Slots where `valid` is False are empty, and their numbers mean nothing.

    There is at least one slot (G ≥ 1), also where no image has an object.
    """

    boxes: Float[Tensor, "B G 4"]
    labels: Int[Tensor, "B G"]  # 0 … K-1
    valid: Bool[Tensor, "B G"]
    crowd: Bool[Tensor, "B G"]  # a region of many objects, which is not learnt from
    masks: MaskTable | None = None
    # x, y, visibility (0 not labelled, 1 hidden, 2 visible)
    keypoints: Float[Tensor, "B G J 3"] | None = None

    def to(self, device: torch.device | str) -> Targets:
        """Return the same targets on `device`."""
        moved = [None if field is None else _to(field, device) for field in self]
        return Targets(*moved)  # type: ignore[arg-type]

    def split(self, size: int) -> list[Targets]:
        """Return the targets of `size` consecutive images, the last ones of the rest."""
        parts = (repeat(None) if field is None else field.split(size) for field in self)
        return [Targets(*fields) for fields in zip(*parts, strict=False)]


def _to(field: Tensor | MaskTable, device: torch.device | str) -> Tensor | MaskTable:
    if isinstance(field, Tensor):
        return field.to(device, non_blocking=True)
    return MaskTable(*(part.to(device, non_blocking=True) for part in field))


class Detections(NamedTuple):
    """Detections, best first; of the D slots of each image, the first ones are valid."""

    boxes: Float[Tensor, "B D 4"]
    scores: Float[Tensor, "B D"]
    labels: Int[Tensor, "B D"]  # 0 … K-1
    valid: Bool[Tensor, "B D"]
    mask_probs: Float[Tensor, "B D M M"] | None = None  # within the box, of the detected class
    keypoint_heatmaps: Float[Tensor, "B D J M M"] | None = None  # logits within the box

    def cpu(self) -> Detections:
        """Return the same detections on the CPU, by one transfer."""
        fetched = iter(_fetch([field for field in self if field is not None]))
        return Detections(*(None if field is None else next(fetched) for field in self))  # type: ignore[arg-type]


def _fetch(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return tensors on the CPU by one transfer: bytes in one buffer, widest elements first to be aligned."""
    widest_first = sorted(range(len(tensors)), key=lambda i: -tensors[i].element_size())
    pieces = [tensors[i].contiguous().view(torch.uint8).flatten() for i in widest_first]
    parts = torch.cat(pieces).cpu().split([len(piece) for piece in pieces])
    fetched = dict(zip(widest_first, parts, strict=True))
    return [fetched[i].view(tensor.dtype).view(tensor.shape) for i, tensor in enumerate(tensors)]
