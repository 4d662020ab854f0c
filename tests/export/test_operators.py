"""The graph's operators in ONNX Runtime equal the library's own, on random and degenerate input."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.export import Dim

from maskrcnn.ops.boxes import keep_in_order
from maskrcnn.ops.roi_align import assign_levels, flatten_levels, roi_align
from maskrcnn.ops.roi_align_adaptive import adaptive_roi_align
from maskrcnn.ops.roi_pool import maximum, roi_pool, roi_warp

pytest.importorskip("onnxscript", reason="onnxscript writes ONNX files")
onnxruntime = pytest.importorskip("onnxruntime", reason="ONNX Runtime runs them")

from maskrcnn.export.onnx import onnx_operator, to_onnx  # noqa: E402


def outputs_in_onnx(module, arguments, dynamic, path, others):
    """Export a module; return its outputs for `others` in ONNX Runtime."""
    names = [f"in{i}" for i in range(len(arguments))]
    program = torch.export.export(module, arguments, dynamic_shapes=dynamic, strict=False)
    to_onnx(program, names, ["out"]).save(path)
    session = onnxruntime.InferenceSession(path)
    return [
        torch.from_numpy(session.run(None, {n: a.numpy() for n, a in zip(names, inputs, strict=True)})[0])
        for inputs in others
    ]


class Suppression(nn.Module):
    def forward(self, boxes, segments):
        return keep_in_order(boxes, segments, 0.5)


def sorted_boxes(count, segments, seed):
    generator = torch.Generator().manual_seed(seed)
    corner, size = torch.rand(2, count, 2, generator=generator) * torch.tensor([40.0, 20.0])[:, None, None]
    boxes = torch.cat((corner, corner + size.round()), 1)  # some are empty, many have equal sides
    return boxes, torch.randint(-1, segments, (count,), generator=generator).sort().values


def test_suppression(tmp_path):
    others = [
        sorted_boxes(count, segments, seed)
        for seed, (count, segments) in enumerate([(200, 1), (200, 5), (300, 60), (7, 1), (1, 2)])
    ]
    boxes, _ = others[0]
    others += [
        (boxes, torch.full((200,), -1)),
        (boxes, torch.arange(200) // 100 * 7),
    ]  # no segment at all; segments 0 and 7
    n = Dim("n", min=1, max=1000)
    outputs = outputs_in_onnx(
        Suppression(), sorted_boxes(50, 3, 9), ({0: n}, {0: n}), tmp_path / "a.onnx", others
    )
    for got, (boxes, segments) in zip(outputs, others, strict=True):
        assert torch.equal(got, keep_in_order(boxes, segments, 0.5))
    assert 0 < int(outputs[0].sum()) < 200


class Order(nn.Module):
    def forward(self, values):
        return torch.stack([values.argsort(dim=1, descending=down, stable=True) for down in (False, True)])


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32])
def test_equal_values_keep_their_order(dtype, tmp_path):
    others = [(torch.randint(-2, 3, (2, count)).to(dtype),) for count in (1, 7, 300)]
    n = Dim("n", min=1, max=1000)
    outputs = outputs_in_onnx(Order(), others[-1], ({1: n},), tmp_path / "a.onnx", others)
    for got, (values,) in zip(outputs, others, strict=True):
        assert torch.equal(got, Order()(values))


class Reading(nn.Module):
    def __init__(self, operator):
        super().__init__()
        self.operator = operator

    def forward(self, fine, coarse, boxes, pictures):
        levels = assign_levels(boxes, first=2, last=3, canonical_side=60.0, canonical_level=3)
        return self.operator(flatten_levels([fine, coarse], (4, 8)), boxes, pictures, levels, 3)


def maps_and_boxes(count, seed):
    generator = torch.Generator().manual_seed(seed)
    fine, coarse = (torch.randn(2, 5, side, side + 4, generator=generator) for side in (24, 12))
    corner = torch.rand(count, 2, generator=generator) * 110 - 10  # 96 × 112 pixels: some lie outside
    boxes = torch.cat((corner, corner + torch.rand(count, 2, generator=generator) ** 3 * 120), 1)
    boxes[::7, 2] = boxes[::7, 0]  # no width
    return fine, coarse, boxes, torch.randint(2, (count,), generator=generator)


OPERATORS = {
    "aligned": partial(roi_align, aligned=True, sampling_ratio=2),
    "legacy": partial(roi_align, aligned=False, sampling_ratio=2),
    "adaptive": adaptive_roi_align,
    "adaptive, legacy": partial(adaptive_roi_align, aligned=False),
    "max": partial(roi_align, reduction=maximum, sampling_ratio=2),
    "warped": roi_warp,
    "warped, max": partial(roi_warp, align=partial(roi_align, sampling_ratio=3, reduction=maximum)),
    "pooled": roi_pool,
}


@pytest.mark.parametrize("name", OPERATORS)
def test_regions(name, tmp_path):
    operator = OPERATORS[name]
    others = [maps_and_boxes(count, seed) for seed, count in enumerate((60, 1, 33))]
    n = Dim("n", min=1, max=1000)
    module = Reading(onnx_operator(operator))
    outputs = outputs_in_onnx(
        module, maps_and_boxes(20, 9), ({}, {}, {0: n}, {0: n}), tmp_path / "a.onnx", others
    )
    for got, arguments in zip(outputs, others, strict=True):
        torch.testing.assert_close(got, Reading(operator)(*arguments), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(got, module(*arguments), atol=1e-4, rtol=1e-4)


def test_operators_without_an_onnx_form_are_rejected():
    with pytest.raises(ValueError, match="set sampling_ratio"):
        onnx_operator(partial(adaptive_roi_align, reduction=maximum))
    with pytest.raises(ValueError, match="is not supported in ONNX: use RoIAlign"):
        onnx_operator(lambda *arguments: None)
