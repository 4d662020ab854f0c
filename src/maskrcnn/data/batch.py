"""Many pictures as one batch: padded to a common shape, objects in slots, masks in one flat table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from maskrcnn.data.transforms import MaskCrop, Truth
from maskrcnn.types import Batch, MaskTable, Targets

SLOTS = 8  # G is a multiple of it, so that shapes seldom change between batches


def collate(samples: Sequence[tuple[Shaped[Tensor, "C _ _"], Truth]], stride: int) -> tuple[Batch, Targets]:
    """Join pictures and their objects, as `to_network` gives them; `stride` divides the padded sides."""
    images, truths = zip(*samples, strict=True)
    slots = SLOTS * max(1, -(-max(len(truth.boxes) for truth in truths) // SLOTS))
    targets = Targets(
        boxes=_slotted([truth.boxes for truth in truths], slots, (0.0, 0.0, 1.0, 1.0)),  # no NaN from log(0)
        labels=_slotted([truth.labels for truth in truths], slots, 0),
        valid=_slotted([np.ones(len(truth.boxes), np.bool_) for truth in truths], slots, False),
        crowd=_slotted([truth.crowd for truth in truths], slots, False),
        masks=_mask_table([truth.crops for truth in truths], slots),
        keypoints=_keypoints(truths, slots),
    )
    return pad(images, stride), targets


def pad(images: Sequence[Shaped[Tensor, "C _ _"]], stride: int) -> Batch:
    """Lay pictures into the upper left corners of one channels-last tensor of zeros."""
    sizes_hw = torch.tensor([image.shape[-2:] for image in images])
    height, width = (-(-sizes_hw.amax(0) // stride) * stride).tolist()
    padded = torch.zeros(len(images), height, width, len(images[0]), dtype=images[0].dtype).permute(
        0, 3, 1, 2
    )
    for canvas, image in zip(padded, images, strict=True):
        canvas[:, : image.shape[1], : image.shape[2]] = image
    return Batch(padded, sizes_hw)


def _slotted(rows: Sequence[np.ndarray], slots: int, empty: object) -> Tensor:
    """Rows of each picture, then `empty` up to the number of slots: (B, G, …)."""
    filled = np.empty((len(rows), slots, *rows[0].shape[1:]), rows[0].dtype)
    filled[:] = empty
    for slot, row in zip(filled, rows, strict=True):
        slot[: len(row)] = row
    return torch.from_numpy(filled)


def _mask_table(crops: Sequence[list[MaskCrop | None]], slots: int) -> MaskTable:
    starts = np.zeros((len(crops), slots), np.int64)
    sizes_hw = np.zeros((len(crops), slots, 2), np.int64)
    affine = np.tile(np.array([1, 0, 1, 0], np.float32), (len(crops), slots, 1))
    pixels = [np.zeros(1, np.uint8)]  # the table is never empty: there is always something to look up
    end = 1
    for b, picture in enumerate(crops):
        for g, crop in enumerate(picture):
            if crop is not None:
                starts[b, g], sizes_hw[b, g], affine[b, g] = end, crop.pixels.shape, crop.affine
                pixels.append(crop.pixels.ravel())
                end += crop.pixels.size
    tables = (np.concatenate(pixels), starts, sizes_hw, affine)
    return MaskTable(*map(torch.from_numpy, tables))


def _keypoints(truths: Sequence[Truth], slots: int) -> Tensor | None:
    keypoints = [truth.keypoints for truth in truths if truth.keypoints is not None]
    return _slotted(keypoints, slots, 0) if keypoints else None
