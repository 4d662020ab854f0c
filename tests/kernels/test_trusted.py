"""Whether a kernel is trusted: it is checked once for a device and a precision. No Triton is needed here."""

import subprocess
import sys
import threading
import warnings
from collections.abc import Callable

import pytest
import torch

from maskrcnn import kernels
from maskrcnn.ops import boxes as box_ops
from maskrcnn.ops import roi_align as roi
from maskrcnn.ops.roi_align import flatten_levels

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def verdicts(monkeypatch: pytest.MonkeyPatch) -> dict:
    """No verdicts yet."""
    empty: dict = {}
    monkeypatch.setattr(kernels, "_VERDICTS", empty)
    return empty


class Counted:
    """A check that counts its runs and ends as it is told."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.runs: list[tuple[torch.device, torch.dtype]] = []

    def __call__(self, device: torch.device, dtype: torch.dtype) -> None:
        self.runs.append((device, dtype))
        if self.error is not None:
            raise self.error


def test_a_kernel_is_checked_once_for_a_device_and_a_precision() -> None:
    check = Counted()
    for dtype in (torch.float32, torch.float32, torch.bfloat16):
        assert kernels.trusted("a", CPU, dtype, check)
    assert check.runs == [(CPU, torch.float32), (CPU, torch.bfloat16)]
    assert kernels.trusted("b", CPU, torch.float32, check) and len(check.runs) == 3


@pytest.mark.parametrize(
    "error", [AssertionError("not close\n\nmismatched"), RuntimeError("no PTX"), OSError("cc")]
)
def test_a_kernel_that_fails_or_differs_is_not_used_and_warned_of_once(error: Exception) -> None:
    check = Counted(error)
    with pytest.warns(
        UserWarning, match=r"kernel a is not used on cpu in torch.float32.*plain operator"
    ) as caught:
        assert not kernels.trusted("a", CPU, torch.float32, check)
    assert f"({type(error).__name__}: {str(error).splitlines()[0]})" in str(caught[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not kernels.trusted("a", CPU, torch.float32, check)
    assert len(check.runs) == 1


def test_the_check_runs_with_gradients_and_without_autocast() -> None:
    def check(device: torch.device, dtype: torch.dtype) -> None:
        weight = torch.ones(2, 2, requires_grad=True)
        product = weight @ weight
        assert product.dtype == torch.float32 and torch.autograd.grad(product.sum(), weight)

    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert kernels.trusted("a", CPU, torch.float32, check)


def test_threads_check_it_together_once() -> None:
    barrier, check = threading.Barrier(4), Counted(RuntimeError("no"))
    verdicts: list[bool] = []

    def use() -> None:
        barrier.wait(60)
        verdicts.append(kernels.trusted("a", CPU, torch.float32, check))

    threads = [threading.Thread(target=use) for _ in range(4)]
    with pytest.warns(UserWarning) as caught:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert verdicts == [False] * 4 and len(check.runs) == len(caught) == 1


def test_nothing_is_checked_while_a_cuda_graph_is_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda, check, capturing = torch.device("cuda", 0), Counted(), [True]
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: capturing[0])
    monkeypatch.setattr(torch, "autocast", lambda *args, **options: torch.no_grad())
    assert not kernels.trusted("a", cuda, torch.float32, check) and not check.runs
    capturing[0] = False  # the verdict was left open
    assert kernels.trusted("a", cuda, torch.float32, check) and len(check.runs) == 1
    capturing[0] = True  # after a warm-up
    assert kernels.trusted("a", cuda, torch.float32, check) and len(check.runs) == 1


def test_nothing_is_checked_with_fake_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    class Uses(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + 1 if kernels.trusted("a", x.device, x.dtype, check) else x - 1

    check = Counted()
    program = torch.export.export(Uses(), (torch.zeros(2),), strict=False)
    assert not check.runs and program.module()(torch.zeros(2)).tolist() == [-1, -1]
    assert kernels.trusted("a", CPU, torch.float32, check)
    program = torch.export.export(Uses(), (torch.zeros(2),), strict=False)
    assert len(check.runs) == 1 and program.module()(torch.zeros(2)).tolist() == [1, 1]


# In a process of its own, without the shape checks, which the compiler cannot trace.
COMPILED = """
import sys, torch
from maskrcnn import kernels

runs = []
def check(device, dtype):
    leaf = torch.ones(2, device=device, dtype=dtype, requires_grad=True)
    torch.autograd.grad(leaf.sum(), leaf)[0].tolist()  # real numbers
    runs.append(dtype)

if sys.argv[1] == "traced":
    del kernels.trusted._dynamo_marked_constant

def use(x):
    return x + 1 if kernels.trusted("a", x.device, x.dtype, check) else x - 1

compiled = torch.compile(use, backend="aot_eager", fullgraph=True)
first = compiled(torch.zeros(2)).tolist()
state = torch.get_rng_state()
again = [compiled(torch.zeros(2)).tolist(), use(torch.zeros(2)).tolist(), compiled(torch.zeros(2)).tolist()]
print(first, again, len(runs))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("constant", "[1.0, 1.0] [[1.0, 1.0], [1.0, 1.0], [1.0, 1.0]] 1"),  # checked while compiling
        ("traced", "[-1.0, -1.0] [[-1.0, -1.0], [1.0, 1.0], [1.0, 1.0]] 1"),  # plain until checked eagerly
    ],
)
def test_compiles_into_one_graph(how: str, expected: str) -> None:
    done = subprocess.run([sys.executable, "-c", COMPILED, how], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == expected, done.stderr


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Callable[[], torch.Tensor]:
    """RoIAlign of one region, on a CPU that is said to run kernels."""
    monkeypatch.setattr(kernels, "AVAILABLE", True)
    monkeypatch.setattr(kernels, "can_run_on", lambda device: True)
    level = torch.randn(1, 3, 4, 4, requires_grad=True)
    zero = torch.zeros(1, dtype=torch.int64)
    boxes = torch.tensor([[3.0, 5.0, 20.0, 28.0]])
    return lambda: roi.roi_align(flatten_levels([level], [8]), boxes, zero, zero, 2)


def fail(*args: object) -> None:
    raise RuntimeError("no kernel here")


def test_without_a_working_kernel_roi_align_is_plain(
    monkeypatch: pytest.MonkeyPatch, read: Callable[[], torch.Tensor], verdicts: dict
) -> None:
    monkeypatch.setattr(roi, "_check_kernel", fail)
    with pytest.warns(UserWarning, match="the Triton kernel roi_align is not used"):
        features = read()
    monkeypatch.setattr(kernels, "AVAILABLE", True)
    monkeypatch.setattr(kernels, "can_run_on", lambda device: False)
    torch.testing.assert_close(features, read())
    assert verdicts == {("roi_align", CPU, torch.float32): False}


def test_the_backward_of_roi_align_is_checked_where_it_is_needed(
    monkeypatch: pytest.MonkeyPatch, read: Callable[[], torch.Tensor], verdicts: dict
) -> None:
    monkeypatch.setattr(roi, "_check_kernel", lambda *args: None)
    monkeypatch.setattr(roi, "_check_kernel_backward", fail)
    pyramid = flatten_levels([torch.zeros(1, 3, 4, 4, requires_grad=True)], [8])
    with torch.no_grad():
        assert roi._has_kernel(pyramid)
    assert list(verdicts) == [("roi_align", CPU, torch.float32)]
    with pytest.warns(UserWarning, match="the Triton kernel roi_align backward is not used"):
        assert not roi._has_kernel(pyramid)
    with torch.no_grad():
        assert roi._has_kernel(pyramid)


def test_suppression_without_a_working_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not box_ops.has_kernel(CPU)
    monkeypatch.setattr(kernels, "AVAILABLE", True)
    monkeypatch.setattr(kernels, "can_run_on", lambda device: True)
    monkeypatch.setattr(box_ops, "_check_kernel", fail)
    with pytest.warns(UserWarning, match="the Triton kernel nms is not used on cpu"):
        assert not box_ops.has_kernel(CPU)


def test_checks_leave_the_random_generator_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton", reason="Triton is not installed")
    state = torch.get_rng_state()
    kernels._passes("nms", CPU, torch.float32, box_ops._check_kernel)
    assert torch.equal(state, torch.get_rng_state())
