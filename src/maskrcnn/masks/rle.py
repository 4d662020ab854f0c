"""COCO's run-length encoding (RLE): lengths of runs of zeros and ones in turn, column by column."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Int


def crop_to_rle(
    crop: Bool[np.ndarray, "h w"], origin_yx: tuple[int, int], size_hw: tuple[int, int]
) -> dict[str, Any]:
    """Return the compressed RLE of an image of `size_hw` that is zero except for `crop`, at `origin_yx`."""
    counts = _crop_counts(crop, origin_yx, size_hw)
    return {"size": [int(side) for side in size_hw], "counts": compress(counts)}


def _crop_counts(crop: np.ndarray, origin_yx: tuple[int, int], size_hw: tuple[int, int]) -> np.ndarray:
    height = size_hw[0]
    columns = np.pad(crop.T, ((0, 0), (1, 1)))
    column, row = np.nonzero(columns[:, 1:] != columns[:, :-1])  # where runs begin and end, sorted
    return runs_between((column + origin_yx[1]) * height + row + origin_yx[0], size_hw)


def runs_between(ends: Int[np.ndarray, " ends"], size_hw: tuple[int, int]) -> Int[np.ndarray, " runs"]:
    """Return the run lengths of an image of `size_hw`, given the positions where runs of ones begin and end.

    Positions count pixels column by column. One that occurs twice is where the last run of a column and the
    first of the next one touch: they are one run.
    """
    edges, occurrences = np.unique(ends, return_counts=True)
    counts = np.diff(edges[occurrences == 1], prepend=0, append=size_hw[0] * size_hw[1])
    return counts[:-1] if len(counts) > 1 and counts[-1] == 0 else counts


def compress(counts: Int[np.ndarray, " runs"]) -> str:
    """Return COCO's compressed text of run lengths, 5 bits a letter.

    From the fourth run on, the difference to the last but one is encoded.
    """
    values = counts.astype(np.int64)
    values[3:] -= counts[1:-2]
    letters, used = [], []
    more = np.ones(len(values), bool)
    while more.any():
        used.append(more)
        low, values = values & 31, values >> 5
        more = more & (values != np.where(low & 16, -1, 0))
        letters.append(low + 48 + 32 * more)
    text = np.stack(letters, 1)[np.stack(used, 1)]
    return text.astype(np.uint8).tobytes().decode()


def decompress(text: str) -> Int[np.ndarray, " runs"]:
    """Return the run lengths of COCO's compressed text. Raises ValueError for any other text."""
    letters = np.frombuffer(text.encode(), np.uint8).astype(np.int64) - 48
    last = (letters & 32) == 0
    if not len(letters) or letters.min() < 0 or letters.max() > 63 or not last[-1]:
        raise ValueError(f"not COCO's compressed RLE: {text[:40]!r}")
    firsts = np.flatnonzero(np.r_[True, last[:-1]])
    lengths = np.diff(firsts, append=len(letters))
    if lengths.max() > 10:
        raise ValueError(f"a run length of more than 50 bits in COCO's compressed RLE {text[:40]!r}")
    position = np.arange(len(letters)) - np.repeat(firsts, lengths)
    values = np.add.reduceat((letters & 31) << (5 * position), firsts)
    values -= np.where(letters[last] & 16, 1 << (5 * lengths), 0)  # the highest bit is the sign
    values[1::2], values[2::2] = values[1::2].cumsum(), values[2::2].cumsum()
    return values


def rle_counts(rle: Mapping[str, Any]) -> Int[np.ndarray, " runs"]:
    """Return the run lengths of an RLE, compressed or not.

    Raises ValueError where they are not integers of at least 0 whose sum is the number of pixels.
    """
    height, width = rle["size"]
    counts = rle["counts"]
    counts = counts.decode() if isinstance(counts, bytes) else counts
    counts = decompress(counts) if isinstance(counts, str) else np.asarray(counts)
    if counts.ndim != 1 or counts.dtype.kind not in "iu" or (counts < 0).any():
        raise ValueError("run lengths must be integers of at least 0")
    if (total := sum(counts.tolist())) != height * width:
        raise ValueError(f"run lengths sum to {total}, but their picture has {height}x{width} pixels")
    return counts.astype(np.int64)


def rle_to_crop(rle: Mapping[str, Any]) -> tuple[Bool[np.ndarray, "h w"], tuple[int, int]]:
    """Return the tight crop of a mask and the row and column of its first pixel; 0 × 0 for an empty mask."""
    counts, height = rle_counts(rle), int(rle["size"][0])
    stops = counts.cumsum()
    runs = np.stack([stops - counts, stops], 1)[1::2]
    runs = runs[runs[:, 0] < runs[:, 1]]
    if not len(runs):
        return np.zeros((0, 0), bool), (0, 0)
    x0, x1 = int(runs[0, 0]) // height, (int(runs[-1, 1]) - 1) // height + 1
    lengths = np.diff(runs.ravel(), prepend=x0 * height, append=x1 * height)
    columns = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths).reshape(x1 - x0, height)
    rows = np.flatnonzero(columns.any(0))
    return np.ascontiguousarray(columns[:, rows[0] : rows[-1] + 1].T), (int(rows[0]), x0)


def decode(rle: Mapping[str, Any]) -> Bool[np.ndarray, "H W"]:
    """Return the whole mask, in the size of its image."""
    height, width = rle["size"]
    counts = rle_counts(rle)
    return np.ascontiguousarray(np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(width, height).T)
