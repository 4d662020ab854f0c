"""Detection as a CUDA graph: for a shape seen before, the host launches one thing instead of hundreds.

At batch size 1 a GPU works off a network's kernels faster than Python can ask for them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any, NamedTuple

import torch

from maskrcnn.network.model import MaskRCNN
from maskrcnn.types import Batch, Detections

_WARM_UP = 3  # rounds in which kernels are chosen and compiled, before one is recorded


class _Recorded(NamedTuple):
    graph: torch.cuda.CUDAGraph
    batch: Batch  # the graph reads its pictures here
    found: Detections  # and leaves its answer here


def cuda_graphed(model: MaskRCNN, *, shapes: int = 8) -> Callable[[Batch], Detections]:
    """Return `model.detect` for batches on a CUDA device, recorded once for each shape and then replayed.

    The `shapes` that were used last are kept; a new one takes as long as some detections. The answers are
    those of `model.detect` and the caller's own: no later call changes them. Weights may change in place, but
    the network must stay where it is, and calls must follow each other on one stream. Raises ValueError for
    pictures that are not on a CUDA device.
    """
    # All graphs share their memory: one runs at a time, and its answer is copied before the next one runs.
    pool = cache(torch.cuda.graph_pool_handle)

    @lru_cache(maxsize=shapes)
    def recorded(
        shape: torch.Size, pixels: torch.dtype, device: torch.device, precision: torch.dtype | None
    ) -> _Recorded:
        images = torch.zeros(shape, dtype=pixels, device=device).contiguous(memory_format=torch.channels_last)
        batch = Batch(images, torch.zeros(shape[0], 2, dtype=torch.int64, device=device))
        with torch.autocast("cuda", precision, precision is not None, cache_enabled=False):
            return _record(model, batch, pool())

    @torch.inference_mode()
    def detect(batch: Batch) -> Detections:
        images = batch.images
        if not images.is_cuda:
            raise ValueError(f"CUDA graphs need pictures on a CUDA device, but these are on {images.device}")
        precision = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else None
        graph, inputs, found = recorded(images.shape, images.dtype, images.device, precision)
        for here, given in zip(inputs, batch, strict=True):
            here.copy_(given)
        graph.replay()
        return Detections(*(None if field is None else field.clone() for field in found))  # type: ignore[arg-type]

    return detect


def _record(model: MaskRCNN, batch: Batch, pool: Any) -> _Recorded:
    with torch.cuda.device_of(batch.images):
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(_WARM_UP):
                model.detect(batch)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        # Threads that pin memory for the loader go on with it: only this one is held to what can be recorded.
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            found = model.detect(batch)
    return _Recorded(graph, batch, found)
