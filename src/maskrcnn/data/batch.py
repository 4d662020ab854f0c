"""This module joins pictures and targets into a batch: objects in slots, masks in one flat table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from maskrcnn.data.prepare import pad
from maskrcnn.data.targets import ImageTargets, MaskCrop
from maskrcnn.types import Batch, MaskTable, Targets

SLOTS = 8  # G is a multiple of this, so that shapes seldom change between batches


def collate(
    samples: Sequence[tuple[Shaped[Tensor, "C _ _"], ImageTargets]], stride: int
) -> tuple[Batch, Targets]:
    """Join pictures and targets, as `to_network` returns them; the padded sides are multiples of `stride`."""
    images, targets = zip(*samples, strict=True)
    slots = SLOTS * max(1, -(-max(len(one.boxes) for one in targets) // SLOTS))
    unit_box = (0.0, 0.0, 1.0, 1.0)  # in empty slots: the logarithm of a side must be finite
    return pad(images, stride), Targets(
        boxes=_slotted([one.boxes for one in targets], slots, unit_box),
        labels=_slotted([one.labels for one in targets], slots, 0),
        valid=_slotted([np.ones(len(one.boxes), np.bool_) for one in targets], slots, False),
        crowd=_slotted([one.crowd for one in targets], slots, False),
        masks=_mask_table([one.crops for one in targets], slots),
        keypoints=_keypoints(targets, slots),
    )


def _slotted(rows: Sequence[np.ndarray], slots: int, empty: object) -> Tensor:
    """Return the rows of each picture, padded with `empty` to the number of slots: (B, G, …)."""
    filled = np.empty((len(rows), slots, *rows[0].shape[1:]), rows[0].dtype)
    filled[:] = empty
    for slot, row in zip(filled, rows, strict=True):
        slot[: len(row)] = row
    return torch.from_numpy(filled)


def _mask_table(crops: Sequence[list[MaskCrop | None]], slots: int) -> MaskTable:
    starts = np.zeros((len(crops), slots), np.int64)
    sizes_hw = np.zeros((len(crops), slots, 2), np.int64)
    affine = np.tile(np.array([1, 0, 1, 0], np.float32), (len(crops), slots, 1))
    pixels = [np.zeros(1, np.uint8)]  # never empty, so that every index is valid
    end = 1
    for b, picture in enumerate(crops):
        for g, crop in enumerate(picture):
            if crop is not None:
                starts[b, g], sizes_hw[b, g], affine[b, g] = end, crop.pixels.shape, crop.affine
                pixels.append(crop.pixels.ravel())
                end += crop.pixels.size
    tables = (np.concatenate(pixels), starts, sizes_hw, affine)
    return MaskTable(*map(torch.from_numpy, tables))


def _keypoints(targets: Sequence[ImageTargets], slots: int) -> Tensor | None:
    keypoints = [one.keypoints for one in targets if one.keypoints is not None]
    return _slotted(keypoints, slots, 0) if keypoints else None
