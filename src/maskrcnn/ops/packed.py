"""All masks of a picture as one run of bits: what travels from a GPU, and what run lengths are made of.

A mask is packed column by column, as COCO counts, eight pixels a byte, the first in the lowest bit. Each
column begins with a byte of its own and ends with at least one bit 0, so that no run of ones leads from a
column into the next, and the ends of all runs of all masks are found in one go.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from maskrcnn import kernels
from maskrcnn.ops.masks import compress, paste, runs_between

# Each mask takes a whole number of so many bytes, so that a kernel's program has one mask to look at.
_TILE = 256


class PackedMasks(NamedTuple):
    """Masks within their boxes. The bits are on the device that made them, the rest is on the CPU."""

    bits: UInt8[Tensor, " bytes"]
    starts: Int[Tensor, " N"]  # each mask's first byte
    origins_yx: Int[Tensor, "N 2"]  # row and column where each begins in the picture
    sizes_hw: Int[Tensor, "N 2"]  # rows and columns; 0 where a box holds no pixel's centre

    def cpu(self) -> PackedMasks:
        """Return the same masks on the CPU, by one transfer."""
        return self._replace(bits=self.bits.cpu())


def pack(
    mask_probs: Float[Tensor, "N M M"], boxes: Float[Tensor, "N 4"], size_hw: tuple[int, int]
) -> PackedMasks:
    """Paste each mask, at least 0.5, into the pixels of its box in a picture of `size_hw`, as `paste` does.

    Boxes are best on the CPU already: they say how many bytes there will be.
    """
    on_host = boxes.cpu()
    origins_yx, sizes_hw = _extents(on_host, size_hw)
    tiles = ((sizes_hw[:, 0] // 8 + 1) * sizes_hw[:, 1] + _TILE - 1) // _TILE
    starts = (tiles.cumsum(0) - tiles) * _TILE
    if kernels.are_for(mask_probs):
        from maskrcnn.kernels import masks as kernel

        extents = torch.cat((starts[:, None], origins_yx, sizes_hw), 1)
        return PackedMasks(kernel.pack(mask_probs, on_host, extents, tiles), starts, origins_yx, sizes_hw)
    bits = torch.zeros(int(tiles.sum()) * _TILE, dtype=torch.uint8)
    for start, (crop, _) in zip(starts.tolist(), paste(mask_probs.cpu(), on_host, size_hw), strict=True):
        columns = np.packbits(np.pad((crop >= 0.5).numpy().T, ((0, 0), (0, 1))), axis=1, bitorder="little")
        bits[start : start + columns.size] = torch.from_numpy(columns).flatten()
    return PackedMasks(bits, starts, origins_yx, sizes_hw)


def unpack(masks: PackedMasks, index: int) -> tuple[Bool[np.ndarray, "h w"], tuple[int, int]]:
    """Return one mask within its box, and the row and column where it begins."""
    (rows, columns), (y0, x0) = masks.sizes_hw[index].tolist(), masks.origins_yx[index].tolist()
    start, height = int(masks.starts[index]), rows // 8 + 1
    packed = masks.bits[start : start + height * columns].cpu().numpy().reshape(columns, height)
    return np.unpackbits(packed, axis=1, count=rows, bitorder="little").T.astype(bool), (y0, x0)


def to_rle(masks: PackedMasks, size_hw: tuple[int, int]) -> list[dict[str, Any]]:
    """Return COCO's compressed run lengths of each mask in a picture of `size_hw`."""
    owners, ends = _ends_of_runs(masks, size_hw[0])
    bounds = np.searchsorted(owners, np.arange(1, len(masks.starts)))
    each = np.split(ends, bounds) if len(masks.starts) else []
    texts = [compress(runs_between(own, size_hw)) for own in each]
    return [{"size": [int(side) for side in size_hw], "counts": text} for text in texts]


def _ends_of_runs(masks: PackedMasks, height: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the mask of each end of a run, and the pixel that follows, down the picture's columns."""
    bits = masks.bits.cpu().numpy()
    shifted = bits << 1
    shifted[1:] |= bits[:-1] >> 7
    changes = bits ^ shifted  # 1 where a bit differs from the one before it
    byte = np.flatnonzero(changes)
    which, bit = np.nonzero(np.unpackbits(changes[byte, None], axis=1, bitorder="little"))
    byte = byte[which]
    starts, origins, rows = masks.starts.numpy(), masks.origins_yx.numpy(), masks.sizes_hw[:, 0].numpy()
    owner = np.searchsorted(starts, byte, side="right") - 1
    column, byte = np.divmod(byte - starts[owner], rows[owner] // 8 + 1)
    return owner, (origins[owner, 1] + column) * height + origins[owner, 0] + byte * 8 + bit


def _extents(boxes: Tensor, size_hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return the first row and column whose centres each box holds, and how many."""
    corners, limit = boxes.double().unflatten(1, (2, 2)).flip(-1), torch.tensor(size_hw)
    low, high = corners.unbind(1)
    first = (low - 0.5).ceil().long().clamp(min=0).minimum(limit)
    stop = ((high - 0.5).floor().long() + 1).maximum(first).minimum(limit)
    return first, torch.where(high > low, stop - first, 0)
