"""The graph as an ONNX file of standard operators: regions by RoiAlign, suppression by NonMaxSuppression.

Only two things of the network have no counterpart that PyTorch's exporter knows: reading regions, which is a
lookup with weights in a table (`maskrcnn.ops.roi_align`), and `keep_in_order`. Regions are read by operators
that are passed in, so a copy of the network gets others, which are led to ONNX's.
"""

import copy
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.onnx import ONNXProgram

from maskrcnn.export.graph import INPUTS, outputs, traced
from maskrcnn.extras import import_extra
from maskrcnn.network.model import MaskRCNN
from maskrcnn.ops.roi_align import Pyramid, RegionOperator, flatten_levels, map_slices, roi_align
from maskrcnn.ops.roi_pool import maximum, roi_pool, roi_warp, round_to_cells
from maskrcnn.runtimes.description import KEY, Description

_FLOAT, _BOOL = 1, 9  # ONNX's numbers of these types
_OPSET = 18  # the first in which indices that ScatterElements writes may be added up


def with_standard_regions(model: MaskRCNN) -> MaskRCNN:
    """Return a copy of `model` that reads its regions by operators which ONNX has.

    Raises ValueError for an operator that cannot be expressed by them.
    """
    model = copy.deepcopy(model)
    branches: list[Any] = [model.box_branch, *model.branches.values()]
    for branch in branches:
        if branch.pooler is not None:
            branch.pooler = branch.pooler._replace(operator=standard(branch.pooler.operator))
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
    ratio = keywords.get("sampling_ratio", 2)
    if ratio == 0:
        raise ValueError("the maximum of a varying number of samples cannot be exported: set sampling_ratio")
    return partial(_highest, read=partial(read, sampling_ratio=1), ratio=ratio)


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
    boxes = round_to_cells(boxes, map_slices(pyramid, pictures, levels).stride)
    return _aligned(pyramid, boxes, pictures, levels, bins, sampling_ratio=sampling_ratio)


def _highest(
    pyramid: Pyramid,
    boxes: Tensor,
    pictures: Tensor,
    levels: Tensor,
    bins: int,
    *,
    read: RegionOperator,
    ratio: int,
) -> Tensor:
    """Read each sample as a bin of its own, then take the maxima: ONNX's own maximum is of another kind."""
    samples = read(pyramid, boxes, pictures, levels, bins * ratio)
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
    pyramid = flatten_levels(maps, strides)
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
    return roi_pool(flatten_levels(maps, strides), boxes, pictures, levels, bins).contiguous()


@read_pooled.register_fake
def _(maps: list[Tensor], boxes: Tensor, pictures: Any, levels: Any, strides: Any, bins: int) -> Tensor:
    return maps[0].new_empty(boxes.shape[0], maps[0].shape[1], bins, bins)


def _op() -> Any:
    """Return ONNX's operators, as functions that write them."""
    return import_extra("onnxscript", "onnx").opset18


def _one(value: int) -> Any:
    return _op().Constant(value_ints=[value])


def _number(value: int) -> Any:
    return _op().Constant(value_int=value)


def _read_aligned(
    maps: Any, boxes: Any, pictures: Any, levels: Any, strides: Any, bins: int, ratio: int, aligned: bool
) -> Any:
    def read(level: int, index: Any) -> Any:
        return _op().RoiAlign(
            maps[level],
            _op().Gather(boxes, index),
            _op().Gather(pictures, index),
            coordinate_transformation_mode="half_pixel" if aligned else "output_half_pixel",
            output_height=bins,
            output_width=bins,
            sampling_ratio=ratio,
            spatial_scale=1.0 / strides[level],
        )

    return _by_level(levels, len(maps), read)


def _read_pooled(maps: Any, boxes: Any, pictures: Any, levels: Any, strides: Any, bins: int) -> Any:
    op = _op()

    def read(level: int, index: Any) -> Any:
        picture = op.Unsqueeze(op.Cast(op.Gather(pictures, index), to=_FLOAT), _one(1))
        regions = op.Concat(picture, op.Gather(boxes, index), axis=1)
        return op.MaxRoiPool(
            maps[level], regions, pooled_shape=[bins, bins], spatial_scale=1.0 / strides[level]
        )

    return _by_level(levels, len(maps), read)


def _by_level(levels: Any, count: int, read: Callable[[int, Any], Any]) -> Any:
    """Read the regions of each level together, then put them back in their order."""
    op = _op()
    chosen = [op.Reshape(op.NonZero(op.Equal(levels, _one(level))), _one(-1)) for level in range(count)]
    parts = [read(level, index) for level, index in enumerate(chosen)]
    if count == 1:
        return parts[0]
    order = op.Concat(*chosen, axis=0)
    ranks = op.Range(_number(0), op.Size(order), _number(1))
    return op.Gather(op.Concat(*parts, axis=0), op.ScatterElements(order, order, ranks, axis=0), axis=0)


def _keep_in_order(boxes: Any, segments: Any, threshold: float) -> Any:
    """Lay each segment out as a picture of its own, (segments, longest) boxes, with falling scores."""
    op = _op()
    starts, counts = _extents(segments)
    longest = op.Max(op.ReduceMax(counts, keepdims=0), _number(1))
    within = op.Range(_number(0), longest, _number(1))
    index = op.Add(op.Unsqueeze(starts, _one(1)), op.Unsqueeze(within, _one(0)))
    index = op.Min(index, op.Sub(op.Size(segments), _number(1)))
    is_there = op.Less(op.Unsqueeze(within, _one(0)), op.Unsqueeze(counts, _one(1)))
    falling = op.Cast(op.Unsqueeze(op.Sub(longest, within), _one(0)), to=_FLOAT)
    kept = op.NonMaxSuppression(
        op.Gather(boxes, index),
        op.Unsqueeze(op.Where(is_there, falling, op.Constant(value_float=0.0)), _one(1)),
        op.Reshape(longest, _one(1)),
        op.Constant(value_floats=[threshold]),
        op.Constant(value_floats=[0.0]),  # scores must be above it
    )
    segment, place = (op.Gather(kept, _number(column), axis=1) for column in (0, 2))
    flat = op.Add(op.Gather(starts, segment), place)
    nothing = op.Expand(_one(0), op.Shape(segments))
    marks = op.ScatterElements(nothing, flat, op.Expand(_one(1), op.Shape(flat)), axis=0)
    return op.Cast(marks, to=_BOOL)


def _extents(segments: Any) -> tuple[Any, Any]:
    """Return where each segment starts in the order, and how many boxes it has; those below 0 come first."""
    op = _op()
    number = op.Max(op.Add(op.ReduceMax(segments, keepdims=0), _number(1)), _number(1))
    last = op.Reshape(number, _one(1))
    # What is in no segment is counted in an extra place, which is then cut off.
    place = op.Where(op.Less(segments, _number(0)), number, segments)
    zeros = op.Expand(_one(0), op.Add(last, _one(1)))
    ones = op.Expand(_one(1), op.Shape(segments))
    counts = op.Slice(op.ScatterElements(zeros, place, ones, axis=0, reduction="add"), _one(0), last, _one(0))
    before = op.Sub(op.Size(segments), op.ReduceSum(counts, keepdims=0))
    return op.Add(op.CumSum(counts, _number(0), exclusive=1), before), counts


def _stable_sort(values: Any, stable: bool = True, dim: int = -1, descending: bool = False) -> Any:
    """Write it as TopK of all: of equal values, that of the lower index comes first.

    Not every runtime keeps that rule, or keeps it fast: of whole numbers, none are equal here.
    """
    op = _op()
    count = op.Gather(op.Shape(values), _one(dim))
    if values.dtype.is_floating_point():
        return op.TopK(values, count, axis=dim, largest=int(descending), sorted=1)
    map_slices = op.Sub(op.CumSum(op.Expand(_one(1), op.Shape(values)), _number(dim)), _number(1))
    scaled = op.Mul(values, count)
    distinct = op.Sub(scaled, map_slices) if descending else op.Add(scaled, map_slices)
    _, order = op.TopK(distinct, count, axis=dim, largest=int(descending), sorted=1)
    return op.GatherElements(values, order, axis=dim), order


_TRANSLATIONS: dict[Any, Callable[..., Any]] = {
    torch.ops.aten.sort.stable: _stable_sort,
    torch.ops.maskrcnn.read_aligned.default: _read_aligned,
    torch.ops.maskrcnn.read_pooled.default: _read_pooled,
    torch.ops.maskrcnn.keep_in_order.default: _keep_in_order,
}


def write_onnx(model: MaskRCNN, description: Description, path: Path) -> None:
    """Write `model`, whose norms are folded, as one ONNX file that holds its weights.

    Raises ValueError where what it takes is not installed, and as `traced` and `standard` do.
    """
    import_extra("onnxscript", "onnx")
    program = traced(with_standard_regions(model), description)
    written = translated(program, INPUTS, outputs(model))
    written.model.metadata_props[KEY] = description.to_json()
    written.model.producer_name = "maskrcnn"
    written.save(path, external_data=False)


def translated(program: ExportedProgram, inputs: Sequence[str], outputs: Sequence[str]) -> ONNXProgram:
    """Return a graph in ONNX's standard operators; it may hold `read_aligned` and its like."""
    with warnings.catch_warnings(), _quiet("torch.onnx"):
        warnings.simplefilter("ignore")
        written = torch.onnx.export(
            program,
            args=(),
            dynamo=True,
            custom_translation_table=_TRANSLATIONS,
            opset_version=_OPSET,
            input_names=inputs,
            output_names=outputs,
            verbose=False,
        )
    assert written is not None
    return written


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
