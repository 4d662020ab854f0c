"""Greedy non-maximum suppression: a program works through the segments that begin among its boxes.

A segment is gone through in blocks. A block is compared with the boxes that were kept before it, all at once,
then within itself. So the answer is the greedy one, the work is that of boxes with kept boxes, nothing of the
size N² is stored, and the host is not asked for anything.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 64


# Without fused multiply-adds and with rounded quotients, the answers are the CPU's to the last bit.


@triton.jit
def _corners(boxes, index, present):
    box = boxes + index * 4
    x1 = tl.load(box, mask=present, other=0.0)
    y1 = tl.load(box + 1, mask=present, other=0.0)
    x2 = tl.load(box + 2, mask=present, other=0.0)
    y2 = tl.load(box + 3, mask=present, other=0.0)
    return x1, y1, x2, y2


@triton.jit
def _overlapping(boxes, index, present, other, other_present, threshold):
    """Say (1 or 0) which boxes overlap which others by more than `threshold`; 0 / 0 is no overlap."""
    x1, y1, x2, y2 = _corners(boxes, index, present)
    u1, v1, u2, v2 = _corners(boxes, other, other_present)
    width = tl.minimum(x2[:, None], u2[None, :]) - tl.maximum(x1[:, None], u1[None, :])
    height = tl.minimum(y2[:, None], v2[None, :]) - tl.maximum(y1[:, None], v1[None, :])
    shared = tl.maximum(width, 0.0) * tl.maximum(height, 0.0)
    area = ((x2 - x1) * (y2 - y1))[:, None] + ((u2 - u1) * (v2 - v1))[None, :]
    hit = tl.math.div_rn(shared, area - shared) > threshold
    return (hit & present[:, None] & other_present[None, :]).to(tl.int32)


@triton.jit
def _greedy(earlier, alive):
    """Return which of a block are kept: the one fixed point of "no earlier overlapping one is kept"."""
    keep, changed = alive, 1
    while changed > 0:
        settled = alive & (1 - tl.max(earlier * keep[None, :], axis=1))
        changed = tl.max(settled ^ keep, axis=0)
        keep = settled
    return keep


@triton.jit
def _suppress(boxes, segments, keep, kept, count, first, threshold, BLOCK: tl.constexpr):
    """Go through the segment that begins at `first`; its kept boxes are listed in `kept`, from there on."""
    segment = tl.load(segments + first)
    lane = tl.arange(0, BLOCK)
    begin, listed, more = first, 0, 1
    while more > 0:
        index = begin + lane
        own = tl.load(segments + index, mask=index < count, other=-1) == segment
        alive = own.to(tl.int32)
        for start in range(0, listed, BLOCK):
            known = start + lane < listed
            rival = tl.load(kept + first + start + lane, mask=known, other=0)
            alive &= 1 - tl.max(_overlapping(boxes, index, own, rival, known, threshold), axis=1)
        earlier = _overlapping(boxes, index, own, index, own, threshold) * (lane[:, None] > lane[None, :])
        chosen = _greedy(earlier, alive)
        tl.store(keep + index, chosen.to(tl.int1), mask=own)
        tl.store(kept + first + listed + tl.cumsum(chosen, 0) - 1, index, mask=chosen > 0)
        tl.debug_barrier()  # other threads of the program read the list in the next round
        listed += tl.sum(chosen, axis=0)
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
    """Return which boxes (N, 4) of non-falling `segments` (N,) survive, as `maskrcnn.ops.nms` defines it.

    A segment of n boxes of which k are kept takes n · k / 2 comparisons by one multiprocessor; segments run
    side by side.
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
