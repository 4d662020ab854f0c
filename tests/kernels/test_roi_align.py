import subprocess
import sys
from functools import partial

import pytest
import torch

from maskrcnn import kernels
from maskrcnn.ops import roi_align as roi
from maskrcnn.ops import roi_pool
from maskrcnn.ops.roi_align import first_levels, flatten_levels
from maskrcnn.ops.roi_align_adaptive import adaptive_roi_align

pytest.importorskip("triton", reason="Triton is not installed")

BOXES = torch.tensor(
    [
        [10.0, 12.0, 60.0, 90.0],
        [-30.0, -20.0, 40.0, 33.0],  # crosses the border
        [-9000.0, -7000.0, 9000.0, 8000.0],  # huge
        [50.0, 50.0, 50.0, 50.0],  # a point
        [60.0, 70.0, 20.0, 30.0],  # inverted
        [300.0, 300.0, 340.0, 360.0],  # outside
        [33.3, 7.7, 35.1, 8.2],  # less than a cell
        [100.0, 80.0, 150.0, 110.0],
    ]
)


def regions(device):
    """All boxes on the first level of the second picture, and the other way round."""
    count = len(BOXES)
    pictures = torch.tensor([1, 0], device=device).repeat_interleave(count)
    levels = torch.tensor([0, 1], device=device).repeat_interleave(count)
    return BOXES.repeat(2, 1).to(device), pictures, levels


def use_kernel(monkeypatch, by_kernel):
    monkeypatch.setattr(kernels, "DEVICES", ("cpu", "cuda") if by_kernel else ())
    monkeypatch.setattr(kernels, "trusted", lambda *args, backward=False: True)


def both(monkeypatch, operator, maps, device, bins=3, dtype=torch.float32, places=None):
    """Return features and gradients, first by the kernel, then by the plain operator in float32."""
    results = []
    for by_kernel in (True, False):
        use_kernel(monkeypatch, by_kernel)
        leaves = [level.to(device, dtype).requires_grad_() for level in maps]
        inputs = leaves if by_kernel else [level.float() for level in leaves]
        pyramid = first_levels(flatten_levels(inputs, (8, 16, 32)), 2)
        features = operator(pyramid, *(places or regions(device)), bins)
        weight = torch.linspace(-1, 1, features.numel(), device=device).view(features.shape).to(dtype)
        features.backward(weight.to(features.dtype))
        results.append((features.detach(), [leaf.grad for leaf in leaves]))
    return results


@pytest.fixture
def maps():
    """Three levels; regions are read from the first two."""
    return [torch.randn(2, 5, height, width) for height, width in ((12, 16), (6, 8), (3, 4))]


@pytest.mark.parametrize(("ratio", "aligned"), [(2, True), (1, False)])
def test_equals_the_plain_operator(monkeypatch, device, maps, ratio, aligned):
    operator = partial(roi.roi_align, sampling_ratio=ratio, aligned=aligned)
    (got, got_gradients), (expected, gradients) = both(monkeypatch, operator, maps, device)
    torch.testing.assert_close(got, expected, atol=2e-5, rtol=0)
    torch.testing.assert_close(got_gradients, gradients, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_rounds_once(monkeypatch, device, maps, dtype):
    """Sums are accumulated in float32: the result is the exact one, rounded."""
    (got, got_gradients), (expected, gradients) = both(monkeypatch, roi.roi_align, maps, device, dtype=dtype)
    assert got.dtype == dtype
    torch.testing.assert_close(got.float(), expected, atol=1e-5, rtol=torch.finfo(dtype).eps)
    torch.testing.assert_close(got_gradients, gradients, atol=1e-2, rtol=2 * torch.finfo(dtype).eps)


def test_four_levels_and_more_channels_than_a_block(monkeypatch, device):
    maps = [torch.randn(1, 130, side, side + 1) for side in (9, 6, 4, 2)]
    places = (
        BOXES[:4].to(device),
        torch.zeros(4, dtype=torch.int64, device=device),
        torch.arange(4).to(device),
    )
    results = []
    for by_kernel in (True, False):
        use_kernel(monkeypatch, by_kernel)
        results.append(
            roi.roi_align(flatten_levels([m.to(device) for m in maps], (8, 16, 32, 64)), *places, 2)
        )
    torch.testing.assert_close(*results, atol=2e-5, rtol=0)


def test_no_regions(monkeypatch, device, maps):
    nothing = torch.zeros(0, dtype=torch.int64, device=device)
    places = (torch.zeros(0, 4, device=device), nothing, nothing)
    (features, gradients), _ = both(monkeypatch, roi.roi_align, maps, device, places=places)
    assert features.shape == (0, 5, 3, 3)
    assert all(not gradient.any() for gradient in gradients)


def test_the_plain_operator_computes_what_the_kernel_does_not_support(monkeypatch, device, maps):
    from maskrcnn.kernels import roi_align as kernel

    use_kernel(monkeypatch, True)
    monkeypatch.setattr(kernel, "roi_align", None)  # it would fail if it were called
    places, pyramid = regions(device), flatten_levels([level.to(device) for level in maps[:2]], (8, 16))
    adaptive_roi_align(pyramid, *places, 2)
    roi.roi_align(pyramid, *places, 2, reduction=roi_pool.maximum)
    roi.roi_align(pyramid._replace(table=pyramid.table.double()), *places, 2)
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    roi.roi_align(pyramid, *places, 2)


def test_the_operator_is_registered_as_pytorch_expects(device):
    from maskrcnn.kernels.roi_align import roi_align

    table = torch.randn(12, 4, device=device, requires_grad=True)
    nothing = torch.zeros(2, dtype=torch.int64, device=device)
    inputs = (table, BOXES[:2].to(device), nothing, nothing, [1, 3, 4, 16], 2, 1, True)
    torch.library.opcheck(roi_align, inputs)


@pytest.mark.slow
@pytest.mark.parametrize("backward", [False, True])
def test_passes_its_checks(device, backward):
    assert kernels._passes("roi_align", backward, torch.device(device), torch.float32, roi._plain)


def test_a_wrong_kernel_fails_its_check(monkeypatch, device):
    from maskrcnn.kernels import roi_align as kernel

    def wrong(table, boxes, pictures, levels, *rest):
        return roi._plain(table, boxes, pictures, 1 - levels, *rest)

    monkeypatch.setattr(kernel, "roi_align", wrong)
    for backward in (False, True):
        with pytest.warns(UserWarning, match="AssertionError: Tensor-likes are not close"):
            assert not kernels._passes("roi_align", backward, torch.device(device), torch.float32, roi._plain)
    monkeypatch.setattr(kernel, "roi_align", roi._plain)
    for backward in (False, True):
        assert kernels._passes("roi_align", backward, torch.device(device), torch.float32, roi._plain)


@pytest.mark.slow
def test_compiles_into_one_graph(device):
    """In a process of its own, without the shape checks, which the compiler cannot trace."""
    code = f"""
import torch
from maskrcnn import kernels
from maskrcnn.ops.roi_align import flatten_levels, roi_align

kernels.DEVICES = ("cpu", "cuda")
level = torch.randn(1, 3, 4, 4, device="{device}", requires_grad=True)
boxes = torch.tensor([[3.0, 5, 20, 28]], device="{device}")
zero = torch.zeros(1, dtype=int, device="{device}")

def read(level):
    return roi_align(flatten_levels([level], [8]), boxes, zero, zero, 2)

compiled = torch.compile(read, backend="aot_eager", fullgraph=True)
output = compiled(level)  # the kernel is checked during compilation
assert set(kernels._VERDICTS.values()) == {{True}} and len(kernels._VERDICTS) == 2
expected = read(level)
torch.testing.assert_close(output, expected)
torch.testing.assert_close(*(torch.autograd.grad(out.sum(), level) for out in (output, expected)))
"""
    subprocess.run([sys.executable, "-c", code], check=True)
