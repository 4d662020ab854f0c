"""Greedy non-maximum suppression: a program computes the segments that begin among its 64 boxes.

A segment is computed in blocks. A block is compared with the kept boxes before it, all at once, then within
itself. So the result is the greedy one, boxes are compared with kept boxes only, no tensor has N² elements,
and the host never waits for the device.
"""

from collections.abc import Callable

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 64


# Without fused multiply-adds and with correctly rounded quotients, IoUs equal the CPU's to the last bit.


@triton.jit
def _corners(boxes, index, mask):
    box = boxes + index * 4
    x1 = tl.load(box, mask=mask, other=0.0)
    y1 = tl.load(box + 1, mask=mask, other=0.0)
    x2 = tl.load(box + 2, mask=mask, other=0.0)
    y2 = tl.load(box + 3, mask=mask, other=0.0)
    return x1, y1, x2, y2


@triton.jit
def _overlapping(boxes, index, mask, other, other_mask, threshold):
    """Return 1 where a box overlaps another one by more than `threshold`, else 0; 0 / 0 is no overlap."""
    x1, y1, x2, y2 = _corners(boxes, index, mask)
    u1, v1, u2, v2 = _corners(boxes, other, other_mask)
    width = tl.minimum(x2[:, None], u2[None, :]) - tl.maximum(x1[:, None], u1[None, :])
    height = tl.minimum(y2[:, None], v2[None, :]) - tl.maximum(y1[:, None], v1[None, :])
    shared = tl.maximum(width, 0.0) * tl.maximum(height, 0.0)
    area = ((x2 - x1) * (y2 - y1))[:, None] + ((u2 - u1) * (v2 - v1))[None, :]
    hit = tl.math.div_rn(shared, area - shared) > threshold
    return (hit & mask[:, None] & other_mask[None, :]).to(tl.int32)


@triton.jit
def _greedy(earlier, alive):
    """Return which boxes of a block are kept: the fixed point of "no earlier overlapping box is kept"."""
    keep, changed = alive, 1
    while changed > 0:
        settled = alive & (1 - tl.max(earlier * keep[None, :], axis=1))
        changed = tl.max(settled ^ keep, axis=0)
        keep = settled
    return keep


@triton.jit
def _suppress(boxes, segments, keep, kept, count, first, threshold, BLOCK: tl.constexpr):
    """Compute the segment that begins at `first`; list its kept boxes in `kept`, from `first` on."""
    segment = tl.load(segments + first)
    lane = tl.arange(0, BLOCK)
    begin, num_kept, more = first, 0, 1
    while more > 0:
        index = begin + lane
        own = tl.load(segments + index, mask=index < count, other=-1) == segment
        alive = own.to(tl.int32)
        for start in range(0, num_kept, BLOCK):
            listed = start + lane < num_kept
            other = tl.load(kept + first + start + lane, mask=listed, other=0)
            alive &= 1 - tl.max(_overlapping(boxes, index, own, other, listed, threshold), axis=1)
        earlier = _overlapping(boxes, index, own, index, own, threshold) * (lane[:, None] > lane[None, :])
        chosen = _greedy(earlier, alive)
        tl.store(keep + index, chosen.to(tl.int1), mask=own)
        tl.store(kept + first + num_kept + tl.cumsum(chosen, 0) - 1, index, mask=chosen > 0)
        tl.debug_barrier()  # other threads of the program read the list in the next round
        num_kept += tl.sum(chosen, axis=0)
        begin += BLOCK
        more = tl.min(own.to(tl.int32), axis=0)


@triton.jit(do_not_specialize=["count"])
def _keep(boxes, segments, keep, kept, count, threshold, BLOCK: tl.constexpr):
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    segment = tl.load(segments + index, mask=index < count, other=-1)
    before = tl.load(segments + index - 1, mask=(index < count) & (index > 0), other=-1)
    start = tl.where((segment >= 0) & (segment != before), index, count)
    first = tl.min(start, axis=0)
    while first < count:
        _suppress(boxes, segments, keep, kept, count, first, threshold, BLOCK)
        start = tl.where(start == first, count, start)
        first = tl.min(start, axis=0)


def keep_in_order(boxes: Tensor, segments: Tensor, threshold: float) -> Tensor:
    """Return `maskrcnn.ops.boxes.keep_in_order` of boxes (N, 4) and segments (N,) that do not decrease.

    A segment of n boxes of which k are kept takes n · k / 2 comparisons on one multiprocessor; segments are
    computed in parallel.
    """
    count = len(boxes)
    keep = torch.zeros(count, dtype=torch.bool, device=boxes.device)
    kept = torch.empty(count, dtype=torch.int32, device=boxes.device)
    if count:
        boxes, segments = boxes.detach().float().contiguous(), segments.contiguous()
        with torch.cuda.device_of(boxes):
            _keep[(triton.cdiv(count, _BLOCK),)](
                boxes, segments, keep, kept, count, threshold,
                BLOCK=_BLOCK, num_warps=8, enable_fp_fusion=False,
            )  # fmt: skip
    return keep


def check(plain: Callable[..., Tensor], device: torch.device, dtype: torch.dtype) -> None:
    """Raise AssertionError where other boxes are kept than by `plain`, a function of the same arguments."""
    generator = torch.Generator().manual_seed(0)
    corner, size = (torch.rand(2, 200, 2, generator=generator) * 24).round()  # many IoUs equal the threshold
    boxes = torch.cat((corner, corner + size), 1).to(dtype)
    segments = torch.randint(-1, 3, (200,), generator=generator).sort().values
    keep = keep_in_order(boxes.to(device), segments.to(device), 0.5)
    torch.testing.assert_close(keep.cpu(), plain(boxes, segments, 0.5))
