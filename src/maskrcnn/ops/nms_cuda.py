"""Non-maximum suppression on a CUDA device: by the Triton kernel, or without one in bounded memory."""

from __future__ import annotations

import torch
from torch import Tensor

from maskrcnn import kernels
from maskrcnn.ops.overlaps import iou

_BLOCK = 1024  # 4 MB for each matrix of a block with a block


def keep_in_order_on_cuda(boxes: Tensor, segments: Tensor, threshold: float) -> Tensor:
    """Return `maskrcnn.ops.boxes.keep_in_order` of boxes on a CUDA device."""
    if not has_kernel(boxes.device):
        return keep_in_blocks(boxes, segments, threshold)
    from maskrcnn.kernels import nms as kernel

    return kernel.keep_in_order(boxes, segments, threshold)


def has_kernel(device: torch.device) -> bool:
    """Return whether suppression on this device is a Triton kernel, which never waits for the device."""
    return device.type in kernels.DEVICES and kernels.trusted("nms", device, torch.float32, keep_in_blocks)


def keep_in_blocks(boxes: Tensor, segments: Tensor, threshold: float, *, block: int = _BLOCK) -> Tensor:
    """Return `keep_in_order`, computed on the device of `boxes` without a kernel.

    A block of boxes is compared with each earlier block of its own segments, then within itself: no tensor
    has more than ``block²`` or 4 N elements.
    """
    present = (segments >= 0).nonzero().flatten()
    boxes, segment = boxes.detach()[present], segments[present]
    keep = torch.ones_like(segment, dtype=torch.bool)
    first_of_segment = torch.searchsorted(segment, segment[::block].contiguous()).tolist()
    for number, first in enumerate(first_of_segment):
        own = slice(number * block, (number + 1) * block)
        for start in range(first // block * block, own.start, block):
            rivals = slice(start, start + block)
            hit = _overlapping(boxes, segment, own, rivals, threshold) & keep[rivals]
            keep[own] &= ~hit.any(1)
        earlier = _overlapping(boxes, segment, own, own, threshold).tril(-1)
        keep[own] = _greedy(earlier, keep[own])
    return (segments >= 0).scatter(0, present, keep)


def _overlapping(boxes: Tensor, segment: Tensor, rows: slice, columns: slice, threshold: float) -> Tensor:
    first, second = boxes[rows], boxes[columns]
    return (iou(first, second) > threshold) & (segment[rows, None] == segment[columns])


def _greedy(earlier: Tensor, alive: Tensor) -> Tensor:
    """Return what the greedy rule keeps of the boxes that are `alive`, as `_greedy` of `ops.boxes` does."""
    keep = alive
    while not torch.equal(settled := alive & ~(earlier & keep).any(1), keep):
        keep = settled
    return keep
