"""Detection as a CUDA graph: for a known shape, the host launches one graph instead of hundreds of kernels.

At batch size 1 a GPU finishes a network's kernels faster than Python launches them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any, NamedTuple

import torch

from maskrcnn.network.model import MaskRCNN
from maskrcnn.ops import nms_cuda
from maskrcnn.types import Batch, Detections

_WARM_UP = 3  # detections before the recorded one: kernels are checked, compiled and chosen in them


class _Recording(NamedTuple):
    graph: torch.cuda.CUDAGraph
    batch: Batch  # the graph reads its input here
    detections: Detections  # and writes its output here


def cuda_graphed(model: MaskRCNN, *, shapes: int = 8) -> Callable[[Batch], Detections]:
    """Return `model.detect` for batches on a CUDA device, recorded once for each shape and then replayed.

    Recordings of the `shapes` used last are kept; a new shape takes as long as some detections. Results equal
    those of `model.detect`, and later calls do not overwrite them. Weights may change in place, but the
    network must stay on its device, and calls must follow each other on one stream. The returned function
    raises ValueError for images that are not on a CUDA device, and where suppression has no kernel there.
    """
    # All graphs share their memory: one runs at a time, and its output is copied before the next one runs.
    pool = cache(torch.cuda.graph_pool_handle)

    @lru_cache(maxsize=shapes)
    def recorded(
        shape: torch.Size, pixels: torch.dtype, device: torch.device, precision: torch.dtype | None
    ) -> _Recording:
        images = torch.zeros(shape, dtype=pixels, device=device).contiguous(memory_format=torch.channels_last)
        batch = Batch(images, torch.zeros(shape[0], 2, dtype=torch.int64, device=device))
        with torch.autocast("cuda", precision, precision is not None, cache_enabled=False):
            return _record(model, batch, pool())

    @torch.inference_mode()
    def detect(batch: Batch) -> Detections:
        images = batch.images
        if not images.is_cuda:
            raise ValueError(f"a CUDA graph needs images on a CUDA device, but these are on {images.device}")
        if not nms_cuda.has_kernel(images.device):
            raise ValueError(
                f"a CUDA graph needs the Triton kernel of suppression, which {images.device} does not run: "
                "install triton and a C compiler, or detect without a CUDA graph"
            )
        precision = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else None
        graph, inputs, outputs = recorded(images.shape, images.dtype, images.device, precision)
        for target, source in zip(inputs, batch, strict=True):
            target.copy_(source)
        graph.replay()
        return Detections(*(None if field is None else field.clone() for field in outputs))  # type: ignore[arg-type]

    return detect


def _record(model: MaskRCNN, batch: Batch, pool: Any) -> _Recording:
    with torch.cuda.device_of(batch.images):
        side_stream = torch.cuda.Stream()
        side_stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side_stream):
            for _ in range(_WARM_UP):
                model.detect(batch)
        torch.cuda.current_stream().wait_stream(side_stream)
        graph = torch.cuda.CUDAGraph()
        # Other threads may pin memory meanwhile: only this one is restricted to what can be captured.
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            detections = model.detect(batch)
    return _Recording(graph, batch, detections)
