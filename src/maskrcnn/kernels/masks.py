"""Masks stretched over their boxes and packed into bits: a program makes 256 bytes of one mask."""

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 256


@triton.jit
def _taps(place):
    """Two neighbouring cells and their weights, as `maskrcnn.ops.masks.paste` weighs them."""
    low = tl.floor(place)
    before, after = 1 - tl.abs(place - low), 1 - tl.abs(place - (low + 1))
    cell = low.to(tl.int32)
    return cell, before.to(tl.float32), after.to(tl.float32)


@triton.jit
def _cell(mask, row, column, wanted, SIDE: tl.constexpr):
    inside = wanted & (row >= 0) & (row < SIDE) & (column >= 0) & (column < SIDE)
    return tl.load(mask + row * SIDE + column, mask=inside, other=0.0)


@triton.jit
def _pack(probs, boxes, extents, owners, bits, SIDE: tl.constexpr, TILE: tl.constexpr):
    tile = tl.program_id(0)
    owner = tl.load(owners + tile)
    extent = extents + owner * 5
    start = tl.load(extent)
    first_row, first_column = tl.load(extent + 1), tl.load(extent + 2)
    rows, columns = tl.load(extent + 3).to(tl.int32), tl.load(extent + 4).to(tl.int32)
    x1, y1 = tl.load(boxes + owner * 4), tl.load(boxes + owner * 4 + 1)
    x2, y2 = tl.load(boxes + owner * 4 + 2), tl.load(boxes + owner * 4 + 3)

    byte = (tile.to(tl.int64) * TILE - start).to(tl.int32) + tl.arange(0, TILE)
    bytes_a_column = rows // 8 + 1
    column = byte // bytes_a_column
    row = (byte % bytes_a_column)[:, None] * 8 + tl.arange(0, 8)[None, :]
    wanted = (row < rows) & (column < columns)[:, None]
    # Centres of pixels in cells of the mask, in float64 as on the CPU: a pixel more or less depends on it.
    x = ((first_column + column).to(tl.float64) + 0.5 - x1) * (SIDE / (x2 - x1)) - 0.5
    y = ((first_row + row).to(tl.float64) + 0.5 - y1) * (SIDE / (y2 - y1)) - 0.5
    left, of_left, of_right = _taps(x)
    top, of_top, of_bottom = _taps(y)
    left, of_left, of_right = left[:, None], of_left[:, None], of_right[:, None]
    mask = probs + owner * SIDE * SIDE
    nearer = of_top * _cell(mask, top, left, wanted, SIDE)
    nearer = tl.math.fma(of_bottom, _cell(mask, top + 1, left, wanted, SIDE), nearer)
    farther = of_top * _cell(mask, top, left + 1, wanted, SIDE)
    farther = tl.math.fma(of_bottom, _cell(mask, top + 1, left + 1, wanted, SIDE), farther)
    prob = tl.math.fma(of_right, farther, of_left * nearer)
    taken = (wanted & (prob >= 0.5)).to(tl.int32)
    packed = tl.sum(taken << tl.arange(0, 8)[None, :], axis=1)
    tl.store(bits + tile.to(tl.int64) * TILE + tl.arange(0, TILE), packed.to(tl.uint8))


def pack(mask_probs: Tensor, boxes: Tensor, extents: Tensor, tiles: Tensor) -> Tensor:
    """Return the bits of N masks (N, M, M) in `boxes` (N, 4), as `maskrcnn.ops.packed` lays them out.

    `extents` (N, 5) has each mask's first byte, first row and column, rows and columns; `tiles` (N,) the
    number of tiles of TILE bytes that each takes. Both are on the CPU: the host knows the size of the answer.
    """
    device, total = mask_probs.device, int(tiles.sum())
    bits = torch.empty(total * TILE, dtype=torch.uint8, device=device)
    if not total:
        return bits
    boxes, extents, tiles = boxes.to(device, torch.float64), extents.to(device), tiles.to(device)
    owners = torch.arange(len(boxes), device=device).repeat_interleave(tiles, output_size=total)
    with torch.cuda.device_of(mask_probs):
        _pack[(total,)](
            mask_probs.float().contiguous(), boxes, extents, owners, bits,
            SIDE=mask_probs.shape[-1], TILE=TILE, enable_fp_fusion=False,
        )  # fmt: skip
    return bits
