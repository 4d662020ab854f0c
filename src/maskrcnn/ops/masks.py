"""Masks in and out: targets cut from the truth, probabilities pasted into a picture, run lengths, outlines.

A mask is handled as a crop, the rows and columns of its own box, with an origin that says where the crop
lies in its picture. Nothing here makes a picture-sized mask except `paste_dense` and `decode`.

The first part works on tensors in any frame. From `crop_to_rle` on, masks are numpy arrays: they are on
their way to or from a file. Run lengths are COCO's, ``{"size": [rows, columns], "counts": …}``, counted down
the columns, zeros first; `counts` is a text in COCO's compressed form or a list of integers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from maskrcnn.types import MaskTable


def crop_targets(
    table: MaskTable,
    picture: Int[Tensor, " N"],
    object_: Int[Tensor, " N"],
    boxes: Float[Tensor, "N 4"],
    size: int,
    *,
    sampling_ratio: int = 2,
) -> Float[Tensor, "N size size"]:
    """Cut the mask of one object to each box: RoIAlign out of the object's own crop, zero outside it.

    Row n of `boxes`, in the frame of the network's input, cuts object `object_[n]` of picture `picture[n]`.
    The answer is the share of each bin that the object covers, 0 … 1.

    A bin averages `sampling_ratio`² bilinear samples. With 0 it takes one for each pixel of the crop that the
    bin spans, rounded up along each axis, box by box, because shapes then depend on the data.
    """
    slots = (picture, object_)
    starts, sizes_hw, affine = table.starts[slots], table.sizes_hw[slots], table.affine[slots]
    scale, shift = affine[:, [0, 2, 0, 2]], affine[:, [1, 3, 1, 3]]
    corners = scale * boxes + shift  # in the crop; a mirrored picture runs from x1 down to x2
    pixels = F.pad(table.pixels, (0, 1))  # a crop of no pixels at the end of the table can be addressed
    if sampling_ratio > 0:
        return _sample(pixels, starts, sizes_hw, corners, size, (sampling_ratio, sampling_ratio))
    spans = ((corners[:, 2:] - corners[:, :2]).abs() / size).ceil().clamp(min=1).int().tolist()
    cuts = [boxes.new_zeros(0, size, size)]
    for n, (across, down) in enumerate(spans):
        one = slice(n, n + 1)
        cuts.append(_sample(pixels, starts[one], sizes_hw[one], corners[one], size, (down, across)))
    return torch.cat(cuts)


def binary_targets(
    table: MaskTable,
    picture: Int[Tensor, " N"],
    object_: Int[Tensor, " N"],
    boxes: Float[Tensor, "N 4"],
    size: int,
    *,
    sampling_ratio: int = 2,
) -> Float[Tensor, "N size size"]:
    """Return `crop_targets`, 1 where the object covers half of a bin or more, else 0 (paper §3.1)."""
    return (crop_targets(table, picture, object_, boxes, size, sampling_ratio=sampling_ratio) >= 0.5).float()


def soft_legacy_targets(
    table: MaskTable,
    picture: Int[Tensor, " N"],
    object_: Int[Tensor, " N"],
    boxes: Float[Tensor, "N 4"],
    size: int,
) -> Float[Tensor, "N size size"]:
    """Return the truth that torchvision's weights learnt: shares, by RoIAlign as it was first published.

    A pixel's value stands at its corner, not at its centre, and no box is smaller than a pixel.
    """
    sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1)
    corners = torch.cat((boxes[:, :2], boxes[:, :2] + sides), 1)
    return crop_targets(table, picture, object_, corners + 0.5, size, sampling_ratio=0)


def _sample(
    pixels: Tensor, starts: Tensor, sizes_hw: Tensor, corners: Tensor, size: int, samples: tuple[int, int]
) -> Tensor:
    """Average `samples` (down, across) bilinear samples in each of size × size bins between the corners."""
    rows, row_weights = _taps(corners[:, 1], corners[:, 3], sizes_hw[:, 0], size, samples[0])
    columns, column_weights = _taps(corners[:, 0], corners[:, 2], sizes_hw[:, 1], size, samples[1])
    across = columns[:, None, None]  # N 1 1 size taps
    down = (rows * sizes_hw[:, 1, None, None] + starts[:, None, None])[..., None, None]  # N size taps 1 1
    # products and sums instead of einsum: autocast would round an einsum to 8 bits, and 0.5 is a threshold
    by_row = (pixels[down + across] * column_weights[:, None, None]).sum(-1)
    return (by_row * row_weights[..., None]).sum(2)


def _taps(low: Tensor, high: Tensor, extent: Tensor, size: int, samples: int) -> tuple[Tensor, Tensor]:
    """Pixels and weights, (N, size, 2 * samples), of the linear samples in `size` bins of [low, high]."""
    steps = (torch.arange(size * samples, device=low.device) + 0.5) / (size * samples)
    place = low[:, None] + (high - low)[:, None] * steps - 0.5  # pixel i has its centre at i + 0.5
    before = place.floor()
    after_share = place - before
    index = torch.stack([before, before + 1], -1)
    weights = torch.stack([1 - after_share, after_share], -1) / samples
    outside = (index < 0) | (index >= extent[:, None, None])
    index, weights = index.long().masked_fill(outside, 0), weights.masked_fill(outside, 0)
    return index.view(-1, size, 2 * samples), weights.view(-1, size, 2 * samples)


def paste(
    mask_probs: Float[Tensor, "N M M"], boxes: Float[Tensor, "N 4"], size_hw: tuple[int, int]
) -> Iterator[tuple[Float[Tensor, "h w"], tuple[int, int]]]:
    """Stretch each mask over its box, interpolating linearly, for the pixels whose centres the box holds.

    Yields, for each box, the crop of probabilities and the row and column where it begins. The crop is
    clipped to a picture of `size_hw` and may be empty. It equals sampling the mask, zeros around it, at every
    pixel's centre, except that outside its box such a sample fades out, below 0.5, and here there is none.
    """
    # one at a time: of a large picture all crops together would fill the memory
    return (_paste_one(probs, box, size_hw) for probs, box in zip(mask_probs, boxes.tolist(), strict=True))


def paste_dense(
    mask_probs: Float[Tensor, "N M M"], boxes: Float[Tensor, "N 4"], size_hw: tuple[int, int]
) -> Bool[Tensor, "N H W"]:
    """Paste each mask, at least 0.5, into a whole picture of `size_hw`."""
    masks = torch.zeros((len(boxes), *size_hw), dtype=torch.bool, device=mask_probs.device)
    for mask, (crop, (y0, x0)) in zip(masks, paste(mask_probs, boxes, size_hw), strict=True):
        mask[y0 : y0 + crop.shape[0], x0 : x0 + crop.shape[1]] = crop >= 0.5
    return masks


def paste_in_whole_pixels(
    mask_probs: Float[Tensor, "N M M"], boxes: Float[Tensor, "N 4"], size_hw: tuple[int, int]
) -> Float[Tensor, "N H W"]:
    """Paste as torchvision does: for comparisons, and for thresholds that were chosen on its masks.

    A border of zeros is put around the mask, the box grows with it and loses its fractions, the far edge
    counts as a pixel, and the mask is stretched over the pixels that this gives. Objects come out up to a
    pixel aside and larger than by `paste`, which is exact.
    """
    side = mask_probs.shape[-1]
    centres, halves = (boxes[:, 2:] + boxes[:, :2]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
    halves = halves * ((side + 2) / side)
    corners = torch.cat((centres - halves, centres + halves), 1).long().tolist()
    pasted = mask_probs.new_zeros(len(boxes), *size_hw)
    for whole, probs, (x1, y1, x2, y2) in zip(pasted, F.pad(mask_probs, (1, 1, 1, 1)), corners, strict=True):
        stretched = F.interpolate(
            probs[None, None], (max(y2 - y1 + 1, 1), max(x2 - x1 + 1, 1)), mode="bilinear"
        )[0, 0]
        rows, columns = slice(max(y1, 0), min(y2 + 1, size_hw[0])), slice(max(x1, 0), min(x2 + 1, size_hw[1]))
        whole[rows, columns] = stretched[max(-y1, 0) :, max(-x1, 0) :][
            : rows.stop - rows.start, : columns.stop - columns.start
        ]
    return pasted


def _paste_one(
    probs: Tensor, box: Sequence[float], size_hw: tuple[int, int]
) -> tuple[Tensor, tuple[int, int]]:
    x1, y1, x2, y2 = box
    y0, row_weights = _stretch(y1, y2, size_hw[0], probs)
    x0, column_weights = _stretch(x1, x2, size_hw[1], probs)
    return row_weights @ probs @ column_weights.T, (y0, x0)  # linear in each axis: two small matrices


def _stretch(low: float, high: float, limit: int, probs: Tensor) -> tuple[int, Tensor]:
    """First pixel whose centre is in [low, high], and the weights of the mask's cells for each such pixel."""
    first = min(max(math.ceil(low - 0.5), 0), limit)
    stop = min(max(math.floor(high - 0.5) + 1, first), limit) if high > low else first
    cells = probs.shape[-1]
    centres = torch.arange(first, stop, dtype=torch.float64) + 0.5
    places = (centres - low) * (cells / max(high - low, 1e-9)) - 0.5
    return first, (1 - (places[:, None] - torch.arange(cells)).abs()).clamp(min=0).to(probs)


def crop_to_rle(
    crop: Bool[np.ndarray, "h w"], origin_yx: tuple[int, int], size_hw: tuple[int, int]
) -> dict[str, Any]:
    """Run lengths of a picture of `size_hw` that is zero except for `crop`, which begins at `origin_yx`."""
    counts = _crop_counts(crop, origin_yx, size_hw)
    return {"size": [int(side) for side in size_hw], "counts": compress(counts)}


def _crop_counts(crop: np.ndarray, origin_yx: tuple[int, int], size_hw: tuple[int, int]) -> np.ndarray:
    height = size_hw[0]
    columns = np.pad(crop.T, ((0, 0), (1, 1)))
    column, row = np.nonzero(columns[:, 1:] != columns[:, :-1])  # where runs begin and end, in order
    return runs_between((column + origin_yx[1]) * height + row + origin_yx[0], size_hw)


def runs_between(ends: Int[np.ndarray, " ends"], size_hw: tuple[int, int]) -> Int[np.ndarray, " runs"]:
    """Run lengths of a picture of `size_hw`, given where its runs of ones begin and end, column by column.

    A place that stands twice is where one column's last run and the next one's first touch: they are one.
    """
    edges, seen = np.unique(ends, return_counts=True)
    counts = np.diff(edges[seen == 1], prepend=0, append=size_hw[0] * size_hw[1])
    return counts[:-1] if len(counts) > 1 and counts[-1] == 0 else counts


def compress(counts: Int[np.ndarray, " runs"]) -> str:
    """COCO's text of run lengths: from the fourth on, the difference to the last but one, 5 bits a letter."""
    values = counts.astype(np.int64)
    values[3:] -= counts[1:-2]
    letters, written = [], []
    more = np.ones(len(values), bool)
    while more.any():
        written.append(more)
        low, values = values & 31, values >> 5
        more = more & (values != np.where(low & 16, -1, 0))
        letters.append(low + 48 + 32 * more)
    text = np.stack(letters, 1)[np.stack(written, 1)]
    return text.astype(np.uint8).tobytes().decode()


def decompress(text: str) -> Int[np.ndarray, " runs"]:
    """Run lengths of COCO's compressed text. Raises ValueError for a text that is not one."""
    letters = np.frombuffer(text.encode(), np.uint8).astype(np.int64) - 48
    last = (letters & 32) == 0
    if not len(letters) or letters.min() < 0 or letters.max() > 63 or not last[-1]:
        raise ValueError(f"not COCO's compressed run lengths: {text[:40]!r}")
    firsts = np.flatnonzero(np.r_[True, last[:-1]])
    lengths = np.diff(firsts, append=len(letters))
    if lengths.max() > 10:
        raise ValueError(f"a run length of more than 50 bits in {text[:40]!r}")
    place = np.arange(len(letters)) - np.repeat(firsts, lengths)
    values = np.add.reduceat((letters & 31) << (5 * place), firsts)
    values -= np.where(letters[last] & 16, 1 << (5 * lengths), 0)  # the highest bit is the sign
    values[1::2], values[2::2] = values[1::2].cumsum(), values[2::2].cumsum()
    return values


def rle_counts(rle: Mapping[str, Any]) -> Int[np.ndarray, " runs"]:
    """Counts of either form of run lengths. Raises ValueError where they do not fill their picture."""
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
    """Tight crop of a mask, and the row and column where it begins; a crop of 0 × 0 for an empty mask."""
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


def rle_area(rle: Mapping[str, Any]) -> int:
    """Pixels of a mask."""
    return int(rle_counts(rle)[1::2].sum())


def decode(rle: Mapping[str, Any]) -> Bool[np.ndarray, "H W"]:
    """Whole mask of the picture."""
    height, width = rle["size"]
    counts = rle_counts(rle)
    return np.ascontiguousarray(np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(width, height).T)


def polygons(
    crop: Bool[np.ndarray, "h w"], origin_xy: tuple[int, int] = (0, 0)
) -> list[Float[np.ndarray, "n 2"]]:
    """Outlines of a mask along the edges of its pixels: closed rings of x, y corners, in whole numbers.

    Filling all rings by the even-odd rule gives back exactly the mask; holes are rings like the others.
    Pixels that touch only at a corner are not joined there.

    Corners suffice: along any row of the pixel grid they are, in order, the two ends of one edge after
    another, and so they are along any column. Going along a row, then along a column, and so on, walks around
    a ring.
    """
    padded = np.pad(crop, 1)
    upper_left, upper_right = padded[:-1, :-1], padded[:-1, 1:]
    lower_left, lower_right = padded[1:, :-1], padded[1:, 1:]
    odd = upper_left ^ upper_right ^ lower_left ^ lower_right  # 1 or 3 of the 4 pixels around a grid point
    crossing = (upper_left == lower_right) & (upper_right == lower_left) & (upper_left != upper_right)
    corners = np.argwhere(odd | crossing)  # row by row
    copies = np.repeat(corners, 1 + crossing[tuple(corners.T)], axis=0)  # two rings meet at a crossing
    y, x = copies.T
    second = np.r_[False, (copies[1:] == copies[:-1]).all(1)]
    # at a crossing the first copy ends at the left; it turns up around an upper left pixel, else down
    below = np.where(upper_left[y, x], second, ~second)
    in_columns = np.lexsort((below, y, x))
    along_row = np.arange(len(copies)) ^ 1
    along_column = np.empty_like(in_columns)
    along_column[in_columns] = in_columns[np.arange(len(copies)) ^ 1]
    rings = _cycles(along_row.tolist(), along_column.tolist())
    points = np.stack([x, y], 1) + np.array(origin_xy, float)
    return [points[ring] for ring in rings]


def _cycles(along_row: list[int], along_column: list[int]) -> list[list[int]]:
    """The rings that come of following the one list, then the other, from each corner not yet walked."""
    rings, walked = [], [False] * len(along_row)
    for start in range(len(along_row)):
        ring, here = [], start
        while not walked[here]:
            ahead = along_row[here]
            walked[here] = walked[ahead] = True
            ring += [here, ahead]
            here = along_column[ahead]
        if ring:
            rings.append(ring)
    return rings
