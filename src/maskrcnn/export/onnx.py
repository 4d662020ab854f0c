"""Writes the graph as an ONNX file of standard operators: regions by RoiAlign, NMS by NonMaxSuppression.

PyTorch's exporter translates all of the network but two functions: reading regions, which is a weighted
lookup in a table (`maskrcnn.ops.roi_align`), and `keep_in_order`, the NMS. Region operators are passed to the
network as functions, so a copy of the network gets stand-ins that exist for the export alone; the stand-ins
and `keep_in_order` are translated here (`_TRANSLATIONS`).
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

from maskrcnn.export.graph import INPUTS, export_graph, output_names
from maskrcnn.extras import import_extra
from maskrcnn.network.model import MaskRCNN
from maskrcnn.ops.roi_align import Pyramid, RegionOperator, flatten_levels, roi_align
from maskrcnn.ops.roi_align_adaptive import adaptive_roi_align
from maskrcnn.ops.roi_pool import maximum, roi_pool, roi_warp
from maskrcnn.runtimes.description import KEY, Description

_FLOAT, _BOOL = 1, 9  # data types in ONNX's numbering
_OPSET = 18  # the first with ScatterElements(reduction="add")


def with_onnx_regions(model: MaskRCNN) -> MaskRCNN:
    """Return a copy of `model` whose region operators have ONNX translations.

    Raises ValueError for an operator that has none.
    """
    model = copy.deepcopy(model)
    branches: list[Any] = [model.box_branch, *model.branches.values()]
    for branch in branches:
        if branch.pooler is not None:
            branch.pooler = branch.pooler._replace(operator=onnx_operator(branch.pooler.operator))
    return model


def onnx_operator(operator: RegionOperator) -> RegionOperator:
    """Return the stand-in of a region operator, which computes the same and has an ONNX translation.

    Raises ValueError for an operator that has none.
    """
    function = operator.func if isinstance(operator, partial) else operator
    keywords = dict(operator.keywords) if isinstance(operator, partial) else {}
    if function is roi_pool:
        return _roi_pool
    if function is roi_warp:
        return partial(roi_warp, align=onnx_operator(keywords.get("align", roi_align)))
    if function not in (roi_align, adaptive_roi_align):
        raise ValueError(
            f"the region operator {function} is not supported in ONNX: use RoIAlign, RoIWarp or RoIPool"
        )
    ratio = 0 if function is adaptive_roi_align else keywords.get("sampling_ratio", 2)
    aligned = keywords.get("aligned", True)
    if keywords.get("reduction") is not maximum:
        return partial(_roi_align, sampling_ratio=ratio, aligned=aligned)
    if ratio == 0:
        raise ValueError(
            "the maximum of an adaptive number of samples is not supported in ONNX: "
            "set sampling_ratio to 1 or more"
        )
    read = partial(_roi_align, sampling_ratio=1, aligned=aligned)
    return partial(_max_of_samples, read=read, ratio=ratio)


def _roi_align(
    pyramid: Pyramid,
    boxes: Tensor,
    pictures: Tensor,
    levels: Tensor,
    bins: int,
    *,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    # ONNX's RoiAlign takes maps and boxes of one type, and boxes need single precision.
    maps = [level.float() for level in pyramid.maps]
    strides = list(pyramid.strides)
    regions = align_levels(maps, boxes, pictures, levels, strides, bins, sampling_ratio, aligned)
    return regions.to(pyramid.table.dtype)


def _max_of_samples(
    pyramid: Pyramid,
    boxes: Tensor,
    pictures: Tensor,
    levels: Tensor,
    bins: int,
    *,
    read: RegionOperator,
    ratio: int,
) -> Tensor:
    """Read each sample as a bin of its own, then take the maximum of each bin's samples.

    The max mode of ONNX's RoiAlign is another operation: it takes the maximum of weighted neighbours.
    """
    samples = read(pyramid, boxes, pictures, levels, bins * ratio)
    return torch.nn.functional.max_pool2d(samples, ratio)


def _roi_pool(pyramid: Pyramid, boxes: Tensor, pictures: Tensor, levels: Tensor, bins: int) -> Tensor:
    maps = [level.float() for level in pyramid.maps]
    regions = pool_levels(maps, boxes, pictures, levels, list(pyramid.strides), bins)
    return regions.to(pyramid.table.dtype)


@torch.library.custom_op("maskrcnn::align_levels", mutates_args=())
def align_levels(
    maps: list[Tensor],
    boxes: Tensor,
    pictures: Tensor,
    levels: Tensor,
    strides: list[int],
    bins: int,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """`roi_align` of the maps, as one operator in the graph; with a ratio of 0, `adaptive_roi_align`."""
    align = partial(roi_align, sampling_ratio=sampling_ratio) if sampling_ratio else adaptive_roi_align
    pyramid = flatten_levels(maps, strides)
    return align(pyramid, boxes, pictures, levels, bins, aligned=aligned).contiguous()


@align_levels.register_fake
def _(
    maps: list[Tensor], boxes: Tensor, pictures: Any, levels: Any, strides: Any, bins: int, *_: Any
) -> Tensor:
    return maps[0].new_empty(boxes.shape[0], maps[0].shape[1], bins, bins)


@torch.library.custom_op("maskrcnn::pool_levels", mutates_args=())
def pool_levels(
    maps: list[Tensor], boxes: Tensor, pictures: Tensor, levels: Tensor, strides: list[int], bins: int
) -> Tensor:
    """`roi_pool` of the maps, as one operator in the graph."""
    return roi_pool(flatten_levels(maps, strides), boxes, pictures, levels, bins).contiguous()


@pool_levels.register_fake
def _(maps: list[Tensor], boxes: Tensor, pictures: Any, levels: Any, strides: Any, bins: int) -> Tensor:
    return maps[0].new_empty(boxes.shape[0], maps[0].shape[1], bins, bins)


def _op() -> Any:
    """Return ONNX's operators, as functions that add a node to the graph."""
    return import_extra("onnxscript", "onnx").opset18


def _vector(value: int) -> Any:
    return _op().Constant(value_ints=[value])


def _scalar(value: int) -> Any:
    return _op().Constant(value_int=value)


def _onnx_align_levels(
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


def _onnx_pool_levels(maps: Any, boxes: Any, pictures: Any, levels: Any, strides: Any, bins: int) -> Any:
    op = _op()

    def read(level: int, index: Any) -> Any:
        picture = op.Unsqueeze(op.Cast(op.Gather(pictures, index), to=_FLOAT), _vector(1))
        regions = op.Concat(picture, op.Gather(boxes, index), axis=1)
        return op.MaxRoiPool(
            maps[level], regions, pooled_shape=[bins, bins], spatial_scale=1.0 / strides[level]
        )

    return _by_level(levels, len(maps), read)


def _by_level(levels: Any, count: int, read: Callable[[int, Any], Any]) -> Any:
    """Apply `read` to the regions of each level, then restore the order of all regions."""
    op = _op()
    indices = [
        op.Reshape(op.NonZero(op.Equal(levels, _vector(level))), _vector(-1)) for level in range(count)
    ]
    parts = [read(level, index) for level, index in enumerate(indices)]
    if count == 1:
        return parts[0]
    order = op.Concat(*indices, axis=0)
    ranks = op.Range(_scalar(0), op.Size(order), _scalar(1))
    return op.Gather(op.Concat(*parts, axis=0), op.ScatterElements(order, order, ranks, axis=0), axis=0)


def _onnx_keep_in_order(boxes: Any, segments: Any, threshold: float) -> Any:
    """Give each segment a row of its own, (segments, longest) boxes, with descending scores.

    NonMaxSuppression then takes the segments for the pictures of a batch.
    """
    op = _op()
    starts, counts = _starts_and_counts(segments)
    longest = op.Max(op.ReduceMax(counts, keepdims=0), _scalar(1))
    within = op.Range(_scalar(0), longest, _scalar(1))
    index = op.Add(op.Unsqueeze(starts, _vector(1)), op.Unsqueeze(within, _vector(0)))
    index = op.Min(index, op.Sub(op.Size(segments), _scalar(1)))
    is_box = op.Less(op.Unsqueeze(within, _vector(0)), op.Unsqueeze(counts, _vector(1)))
    scores = op.Cast(op.Unsqueeze(op.Sub(longest, within), _vector(0)), to=_FLOAT)
    kept = op.NonMaxSuppression(
        op.Gather(boxes, index),
        op.Unsqueeze(op.Where(is_box, scores, op.Constant(value_float=0.0)), _vector(1)),
        op.Reshape(longest, _vector(1)),
        op.Constant(value_floats=[threshold]),
        op.Constant(value_floats=[0.0]),  # the score threshold: padding scores 0
    )
    segment, position = (op.Gather(kept, _scalar(column), axis=1) for column in (0, 2))
    flat = op.Add(op.Gather(starts, segment), position)
    zeros = op.Expand(_vector(0), op.Shape(segments))
    keep = op.ScatterElements(zeros, flat, op.Expand(_vector(1), op.Shape(flat)), axis=0)
    return op.Cast(keep, to=_BOOL)


def _starts_and_counts(segments: Any) -> tuple[Any, Any]:
    """Return the first index of each segment and its number of boxes. Boxes of no segment (-1) come first."""
    op = _op()
    number = op.Max(op.Add(op.ReduceMax(segments, keepdims=0), _scalar(1)), _scalar(1))
    last = op.Reshape(number, _vector(1))
    # Boxes of no segment are counted in an additional element, which is then cut off.
    element = op.Where(op.Less(segments, _scalar(0)), number, segments)
    zeros = op.Expand(_vector(0), op.Add(last, _vector(1)))
    ones = op.Expand(_vector(1), op.Shape(segments))
    counts = op.Slice(
        op.ScatterElements(zeros, element, ones, axis=0, reduction="add"), _vector(0), last, _vector(0)
    )
    before = op.Sub(op.Size(segments), op.ReduceSum(counts, keepdims=0))
    return op.Add(op.CumSum(counts, _scalar(0), exclusive=1), before), counts


def _onnx_stable_sort(values: Any, stable: bool = True, dim: int = -1, descending: bool = False) -> Any:
    """Translate a stable sort to TopK of all values, which puts the lower index first among equal values.

    Not every runtime follows this rule for integers, or is fast at it, so they are made distinct first.
    """
    op = _op()
    count = op.Gather(op.Shape(values), _vector(dim))
    if values.dtype.is_floating_point():
        return op.TopK(values, count, axis=dim, largest=int(descending), sorted=1)
    positions = op.Sub(op.CumSum(op.Expand(_vector(1), op.Shape(values)), _scalar(dim)), _scalar(1))
    scaled = op.Mul(values, count)
    distinct = op.Sub(scaled, positions) if descending else op.Add(scaled, positions)
    _, order = op.TopK(distinct, count, axis=dim, largest=int(descending), sorted=1)
    return op.GatherElements(values, order, axis=dim), order


_TRANSLATIONS: dict[Any, Callable[..., Any]] = {
    torch.ops.aten.sort.stable: _onnx_stable_sort,
    torch.ops.maskrcnn.align_levels.default: _onnx_align_levels,
    torch.ops.maskrcnn.pool_levels.default: _onnx_pool_levels,
    torch.ops.maskrcnn.keep_in_order.default: _onnx_keep_in_order,
}


def write_onnx(model: MaskRCNN, description: Description, path: Path) -> None:
    """Write `model`, whose norms are folded, as one ONNX file with its weights inside.

    Raises ValueError where the packages of the extra ``onnx`` are not installed, and as `onnx_operator` does.
    """
    import_extra("onnxscript", "onnx")
    program = export_graph(with_onnx_regions(model), description.input)
    onnx_program = to_onnx(program, INPUTS, output_names(program))
    onnx_program.model.metadata_props[KEY] = description.to_json()
    onnx_program.model.producer_name = "maskrcnn"
    onnx_program.save(path, external_data=False)


def to_onnx(program: ExportedProgram, inputs: Sequence[str], outputs: Sequence[str]) -> ONNXProgram:
    """Return a program of torch.export in ONNX's standard operators, its inputs and outputs renamed."""
    with warnings.catch_warnings(), _errors_only("torch.onnx"):
        warnings.simplefilter("ignore")
        onnx_program = torch.onnx.export(
            program,
            args=(),
            dynamo=True,
            custom_translation_table=_TRANSLATIONS,
            opset_version=_OPSET,
            input_names=inputs,
            output_names=outputs,
            verbose=False,
        )
    assert onnx_program is not None
    return onnx_program


@contextmanager
def _errors_only(name: str) -> Iterator[None]:
    """Silence a logger's warnings: the exporter warns of each torchvision operator that is not installed."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
