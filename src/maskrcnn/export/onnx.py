"""The graph as an ONNX file of standard operators: regions by RoiAlign, suppression by NonMaxSuppression.

Only two things of the network have no counterpart that PyTorch's exporter knows: reading regions, which is a
lookup with weights in a table (`maskrcnn.ops.roi`), and `keep_in_order`. Regions are read by operators that
are passed in, so a copy of the network gets others, which are led to ONNX's.
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maskrcnn.export.graph import INPUTS, outputs, traced
from maskrcnn.exported import KEY, Description
from maskrcnn.network.model import MaskRCNN
from maskrcnn.network.regions import Regions
from maskrcnn.ops.nms import keep_in_order
from maskrcnn.ops.roi import RegionOperator, maximum, roi_align, roi_pool, roi_warp, to_cells
from maskrcnn.ops.taps import Pyramid, lay_out, places

OPSET = 18  # the first in which indices that ScatterElements writes may be added up


def with_standard_regions(model: MaskRCNN) -> MaskRCNN:
    """Return a copy of `model` that reads its regions by operators which ONNX has.

    Raises ValueError for an operator that cannot be expressed by them.
    """
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, Regions):
            module.operator = standard(module.operator)
    return model


def standard(operator: RegionOperator) -> RegionOperator:
    """Return what reads as `operator` does, for export. Raises ValueError where ONNX has no such thing."""
    function = operator.func if isinstance(operator, partial) else operator
    keywords = dict(operator.keywords) if isinstance(operator, partial) else {}
    reduction = keywords.pop("reduction", None)
    if function is roi_pool:
        return _pooled
    if function not in (roi_align, roi_warp):
        raise ValueError(f"regions read by {function} cannot be exported: use RoIAlign, RoIWarp or RoIPool")
    read = partial(_aligned if function is roi_align else _warped, **keywords)
    if reduction is not maximum:
        return read
    if keywords.get("sampling_ratio") == 0:
        raise ValueError("the maximum of a varying number of samples cannot be exported: set sampling_ratio")
    return partial(_highest, read)


def _aligned(
    pyramid: Pyramid,
    boxes: Tensor,
    pictures: Tensor,
    levels: Tensor,
    bins: int,
    *,
    sampling_ratio: int = 2,
    aligned: bool = True,
) -> Tensor:
    # Boxes need all digits of single precision, and ONNX wants maps of the same.
    maps = [level.float() for level in pyramid.maps]
    strides = list(pyramid.strides)
    regions = read_aligned(maps, boxes, pictures, levels, strides, bins, sampling_ratio, aligned)
    return regions.to(pyramid.table.dtype)


def _warped(
    pyramid: Pyramid, boxes: Tensor, pictures: Tensor, levels: Tensor, bins: int, *, sampling_ratio: int = 2
) -> Tensor:
    boxes = to_cells(boxes, places(pyramid, pictures, levels).stride)
    return _aligned(pyramid, boxes, pictures, levels, bins, sampling_ratio=sampling_ratio)


def _highest(
    read: RegionOperator, pyramid: Pyramid, boxes: Tensor, pictures: Tensor, levels: Tensor, bins: int
) -> Tensor:
    """Read each sample as a bin of its own, then take the maxima: ONNX's own maximum is of another kind."""
    ratio = read.keywords["sampling_ratio"]  # type: ignore[attr-defined]
    samples = partial(read, sampling_ratio=1)(pyramid, boxes, pictures, levels, bins * ratio)
    return torch.nn.functional.max_pool2d(samples, ratio)


def _pooled(pyramid: Pyramid, boxes: Tensor, pictures: Tensor, levels: Tensor, bins: int) -> Tensor:
    maps = [level.float() for level in pyramid.maps]
    regions = read_pooled(maps, boxes, pictures, levels, list(pyramid.strides), bins)
    return regions.to(pyramid.table.dtype)


@torch.library.custom_op("maskrcnn::read_aligned", mutates_args=())
def read_aligned(
    maps: list[Tensor],
    boxes: Tensor,
    pictures: Tensor,
    levels: Tensor,
    strides: list[int],
    bins: int,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """Return `roi_align` of the maps: a name for it in the graph."""
    pyramid = lay_out(maps, strides)
    return roi_align(
        pyramid, boxes, pictures, levels, bins, sampling_ratio=sampling_ratio, aligned=aligned
    ).contiguous()


@read_aligned.register_fake
def _(
    maps: list[Tensor], boxes: Tensor, pictures: Any, levels: Any, strides: Any, bins: int, *_: Any
) -> Tensor:
    return maps[0].new_empty(boxes.shape[0], maps[0].shape[1], bins, bins)


@torch.library.custom_op("maskrcnn::read_pooled", mutates_args=())
def read_pooled(
    maps: list[Tensor], boxes: Tensor, pictures: Tensor, levels: Tensor, strides: list[int], bins: int
) -> Tensor:
    """Return `roi_pool` of the maps: a name for it in the graph."""
    return roi_pool(lay_out(maps, strides), boxes, pictures, levels, bins).contiguous()


@read_pooled.register_fake
def _(maps: list[Tensor], boxes: Tensor, pictures: Any, levels: Any, strides: Any, bins: int) -> Tensor:
    return maps[0].new_empty(boxes.shape[0], maps[0].shape[1], bins, bins)


def translations() -> dict[Any, Any]:
    """Return how the graph's own operators are written in ONNX's."""
    from onnxscript import opset18 as op

    def one(value: Any) -> Any:
        return op.Constant(value_ints=[value])

    def by_level(levels: Any, count: int, read: Any) -> Any:
        """Read the regions of each level together, then put them back in their order."""
        chosen = [op.Reshape(op.NonZero(op.Equal(levels, one(level))), one(-1)) for level in range(count)]
        parts = [read(level, index) for level, index in enumerate(chosen)]
        if count == 1:
            return parts[0]
        order = op.Concat(*chosen, axis=0)
        total = op.Size(order)
        ranks = op.Range(op.Constant(value_int=0), total, op.Constant(value_int=1))
        return op.Gather(op.Concat(*parts, axis=0), op.ScatterElements(order, order, ranks, axis=0), axis=0)

    def aligned_regions(
        maps: Any,
        boxes: Any,
        pictures: Any,
        levels: Any,
        strides: Any,
        bins: int,
        sampling_ratio: int,
        aligned: bool,
    ) -> Any:
        def read(level: int, index: Any) -> Any:
            return op.RoiAlign(
                maps[level],
                op.Gather(boxes, index),
                op.Gather(pictures, index),
                coordinate_transformation_mode="half_pixel" if aligned else "output_half_pixel",
                output_height=bins,
                output_width=bins,
                sampling_ratio=sampling_ratio,
                spatial_scale=1.0 / strides[level],
            )

        return by_level(levels, len(maps), read)

    def pooled_regions(maps: Any, boxes: Any, pictures: Any, levels: Any, strides: Any, bins: int) -> Any:
        def read(level: int, index: Any) -> Any:
            picture = op.Unsqueeze(op.Cast(op.Gather(pictures, index), to=1), one(1))
            regions = op.Concat(picture, op.Gather(boxes, index), axis=1)
            return op.MaxRoiPool(
                maps[level], regions, pooled_shape=[bins, bins], spatial_scale=1.0 / strides[level]
            )

        return by_level(levels, len(maps), read)

    def suppression(boxes: Any, segments: Any, threshold: float) -> Any:
        """Lay each segment out as a picture of its own: (segments, longest) boxes, ranks as scores."""
        zero, last = op.Constant(value_int=0), op.ReduceMax(segments, keepdims=0)
        number = op.Max(op.Add(last, op.Constant(value_int=1)), op.Constant(value_int=1))
        absent = op.Less(segments, zero)
        # What is in no segment is counted in an extra place, which is then cut off.
        place = op.Where(absent, number, segments)
        ones = op.Expand(one(1), op.Shape(segments))
        places = op.Expand(one(0), op.Reshape(op.Add(number, op.Constant(value_int=1)), one(1)))
        counts = op.ScatterElements(places, place, ones, axis=0, reduction="add")
        counts = op.Slice(counts, one(0), op.Reshape(number, one(1)), one(0))
        before = op.Sub(op.Size(segments), op.ReduceSum(counts, keepdims=0))
        starts = op.Add(op.CumSum(counts, zero, exclusive=1), before)
        longest = op.Max(op.ReduceMax(counts, keepdims=0), op.Constant(value_int=1))
        within = op.Range(zero, longest, op.Constant(value_int=1))
        index = op.Add(op.Unsqueeze(starts, one(1)), op.Unsqueeze(within, one(0)))
        index = op.Min(index, op.Sub(op.Size(segments), op.Constant(value_int=1)))
        is_there = op.Less(op.Unsqueeze(within, one(0)), op.Unsqueeze(counts, one(1)))
        ranks = op.Cast(op.Sub(longest, within), to=1)
        scores = op.Where(is_there, op.Unsqueeze(ranks, one(0)), op.Constant(value_float=0.0))
        kept = op.NonMaxSuppression(
            op.Gather(boxes, index),
            op.Unsqueeze(scores, one(1)),
            op.Reshape(longest, one(1)),
            op.Constant(value_floats=[threshold]),
            op.Constant(value_floats=[0.0]),
        )
        segment, slot = (
            op.Gather(kept, op.Constant(value_int=0), axis=1),
            op.Gather(kept, op.Constant(value_int=2), axis=1),
        )
        flat = op.Add(op.Gather(starts, segment), slot)
        marks = op.ScatterElements(op.Mul(segments, zero), flat, op.Expand(one(1), op.Shape(flat)), axis=0)
        return op.Cast(marks, to=9)

    def stable_sort(values: Any, stable: bool = True, dim: int = -1, descending: bool = False) -> Any:
        """TopK of all: of equal values, that of the lower index comes first."""
        count = op.Gather(op.Shape(values), one(dim))
        return op.TopK(values, count, axis=dim, largest=int(descending), sorted=1)

    return {
        torch.ops.aten.sort.stable: stable_sort,
        torch.ops.maskrcnn.read_aligned.default: aligned_regions,
        torch.ops.maskrcnn.read_pooled.default: pooled_regions,
        torch.ops.maskrcnn.keep_in_order.default: suppression,
    }


def write_onnx(model: MaskRCNN, description: Description, path: Path) -> None:
    """Write `model`, whose norms are folded, as one ONNX file that holds its weights.

    Raises ValueError where what it takes is not installed, and as `traced` and `standard` do.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ValueError(f"to write an ONNX file: pip install 'maskrcnn[onnx]' ({error})") from error
    program = traced(with_standard_regions(model), description)
    with warnings.catch_warnings(), _quiet("torch.onnx"):
        warnings.simplefilter("ignore")
        written = torch.onnx.export(
            program,
            args=(),
            dynamo=True,
            custom_translation_table=translations(),
            opset_version=OPSET,
            input_names=INPUTS,
            output_names=outputs(model),
            verbose=False,
        )
    assert written is not None
    written.model.metadata_props[KEY] = description.to_json()
    written.model.producer_name = "maskrcnn"
    written.save(path, external_data=False)


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Silence a logger: the exporter tells of every operator of torchvision's that it goes without."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
