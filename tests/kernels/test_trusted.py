"""Whether a kernel is trusted: it is checked once for a device and a precision. No Triton is needed here."""

import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from maskrcnn import kernels
from maskrcnn.ops import nms_cuda
from maskrcnn.ops import roi_align as roi
from maskrcnn.ops.roi_align import flatten_levels

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def verdicts(monkeypatch: pytest.MonkeyPatch) -> dict:
    """No verdicts yet."""
    empty: dict = {}
    monkeypatch.setattr(kernels, "_VERDICTS", empty)
    return empty


def plain(*_: object) -> Tensor:
    raise AssertionError("the checks of these tests compare nothing")


def install(monkeypatch: pytest.MonkeyPatch, name: str, **checks: Callable[..., None]) -> None:
    """Let a module of kernels have these checks."""
    monkeypatch.setitem(sys.modules, f"maskrcnn.kernels.{name}", SimpleNamespace(**checks))


class Counted:
    """A check that counts its runs and ends as it is told."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.runs: list[tuple[torch.device, torch.dtype]] = []

    def __call__(self, operator: object, device: torch.device, dtype: torch.dtype) -> None:
        assert operator is plain
        self.runs.append((device, dtype))
        if self.error is not None:
            raise self.error


def test_a_kernel_is_checked_once_for_a_device_and_a_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    check = Counted()
    install(monkeypatch, "a", check=check)
    install(monkeypatch, "b", check=check)
    for dtype in (torch.float32, torch.float32, torch.bfloat16):
        assert kernels.trusted("a", CPU, dtype, plain)
    assert check.runs == [(CPU, torch.float32), (CPU, torch.bfloat16)]
    assert kernels.trusted("b", CPU, torch.float32, plain) and len(check.runs) == 3


@pytest.mark.parametrize(
    "error", [AssertionError("not close\n\nmismatched"), RuntimeError("no PTX"), OSError("cc")]
)
def test_a_kernel_that_fails_or_differs_is_not_used_and_warned_of_once(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    check = Counted(error)
    install(monkeypatch, "a", check=check)
    with pytest.warns(
        UserWarning, match=r"kernel a is not used on cpu in torch.float32.*plain operator"
    ) as caught:
        assert not kernels.trusted("a", CPU, torch.float32, plain)
    assert f"({type(error).__name__}: {str(error).splitlines()[0]})" in str(caught[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not kernels.trusted("a", CPU, torch.float32, plain)
    assert len(check.runs) == 1


def test_a_gradient_is_trusted_only_together_with_its_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    check, check_backward = Counted(RuntimeError("no")), Counted()
    install(monkeypatch, "a", check=check, check_backward=check_backward)
    with pytest.warns(UserWarning, match="kernel a is not used"):
        assert not kernels.trusted("a", CPU, torch.float32, plain, backward=True)
    install(monkeypatch, "b", check=Counted(), check_backward=check_backward)
    assert kernels.trusted("b", CPU, torch.float32, plain, backward=True)
    assert len(check.runs) == len(check_backward.runs) == 1


def test_a_kernel_that_is_not_installed_is_not_used() -> None:
    with pytest.warns(UserWarning, match="kernel absent is not used on cpu.*ModuleNotFoundError"):
        assert not kernels.trusted("absent", CPU, torch.float32, plain)


def test_the_check_runs_with_gradients_and_without_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    def check(operator: object, device: torch.device, dtype: torch.dtype) -> None:
        weight = torch.ones(2, 2, requires_grad=True)
        product = weight @ weight
        assert product.dtype == torch.float32 and torch.autograd.grad(product.sum(), weight)

    install(monkeypatch, "a", check=check)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert kernels.trusted("a", CPU, torch.float32, plain)


def test_threads_check_it_together_once(monkeypatch: pytest.MonkeyPatch) -> None:
    barrier, check = threading.Barrier(4), Counted(RuntimeError("no"))
    install(monkeypatch, "a", check=check)
    verdicts: list[bool] = []

    def use() -> None:
        barrier.wait(60)
        verdicts.append(kernels.trusted("a", CPU, torch.float32, plain))

    threads = [threading.Thread(target=use) for _ in range(4)]
    with pytest.warns(UserWarning) as caught:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert verdicts == [False] * 4 and len(check.runs) == len(caught) == 1


def test_nothing_is_checked_while_a_cuda_graph_is_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda, check, capturing = torch.device("cuda", 0), Counted(), [True]
    install(monkeypatch, "a", check=check)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: capturing[0])
    monkeypatch.setattr(torch, "autocast", lambda *args, **options: torch.no_grad())
    assert not kernels.trusted("a", cuda, torch.float32, plain) and not check.runs
    capturing[0] = False  # the verdict was left open
    assert kernels.trusted("a", cuda, torch.float32, plain) and len(check.runs) == 1
    capturing[0] = True  # after a warm-up
    assert kernels.trusted("a", cuda, torch.float32, plain) and len(check.runs) == 1


def test_nothing_is_checked_with_fake_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    class Uses(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + 1 if kernels.trusted("a", x.device, x.dtype, plain) else x - 1

    check = Counted()
    install(monkeypatch, "a", check=check)
    program = torch.export.export(Uses(), (torch.zeros(2),), strict=False)
    assert not check.runs and program.module()(torch.zeros(2)).tolist() == [-1, -1]
    assert kernels.trusted("a", CPU, torch.float32, plain)
    program = torch.export.export(Uses(), (torch.zeros(2),), strict=False)
    assert len(check.runs) == 1 and program.module()(torch.zeros(2)).tolist() == [1, 1]


# In a process of its own, without the shape checks, which the compiler cannot trace.
COMPILED = """
import sys, torch
from types import SimpleNamespace
from maskrcnn import kernels

runs = []
def check(plain, device, dtype):
    leaf = torch.ones(2, device=device, dtype=dtype, requires_grad=True)
    torch.autograd.grad(leaf.sum(), leaf)[0].tolist()  # real numbers
    runs.append(dtype)

sys.modules["maskrcnn.kernels.a"] = SimpleNamespace(check=check)

if sys.argv[1] == "traced":
    del kernels.trusted._dynamo_marked_constant

def use(x):
    return x + 1 if kernels.trusted("a", x.device, x.dtype, torch.sin) else x - 1

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
    monkeypatch.setattr(kernels, "DEVICES", ("cpu",))
    level = torch.randn(1, 3, 4, 4, requires_grad=True)
    zero = torch.zeros(1, dtype=torch.int64)
    boxes = torch.tensor([[3.0, 5.0, 20.0, 28.0]])
    return lambda: roi.roi_align(flatten_levels([level], [8]), boxes, zero, zero, 2)


def fail(*args: object) -> None:
    raise RuntimeError("no kernel here")


def test_without_a_working_kernel_roi_align_is_plain(
    monkeypatch: pytest.MonkeyPatch, read: Callable[[], torch.Tensor], verdicts: dict
) -> None:
    install(monkeypatch, "roi_align", check=fail)
    with pytest.warns(UserWarning, match="the Triton kernel roi_align is not used"):
        features = read()
    monkeypatch.setattr(kernels, "DEVICES", ())
    torch.testing.assert_close(features, read())
    assert verdicts == {("roi_align", False, CPU, torch.float32): False}


def test_the_backward_of_roi_align_is_checked_where_it_is_needed(
    monkeypatch: pytest.MonkeyPatch, read: Callable[[], torch.Tensor], verdicts: dict
) -> None:
    install(monkeypatch, "roi_align", check=lambda *args: None, check_backward=fail)
    pyramid = flatten_levels([torch.zeros(1, 3, 4, 4, requires_grad=True)], [8])
    with torch.no_grad():
        assert roi._has_kernel(pyramid)
    assert list(verdicts) == [("roi_align", False, CPU, torch.float32)]
    with pytest.warns(UserWarning, match="the Triton kernel roi_align backward is not used"):
        assert not roi._has_kernel(pyramid)
    with torch.no_grad():
        assert roi._has_kernel(pyramid)


def test_suppression_without_a_working_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not nms_cuda.has_kernel(CPU)
    monkeypatch.setattr(kernels, "DEVICES", ("cpu",))
    install(monkeypatch, "nms", check=fail)
    boxes = torch.tensor([[0.0, 0.0, 9.0, 9.0]] * 2)
    with pytest.warns(UserWarning, match="the Triton kernel nms is not used on cpu"):
        keep = nms_cuda.keep_in_order_on_cuda(boxes, torch.zeros(2, dtype=torch.int64), 0.5)
    assert keep.tolist() == [True, False] and not nms_cuda.has_kernel(CPU)


def test_suppression_with_a_working_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton", reason="Triton is not installed")
    from maskrcnn.kernels import nms

    monkeypatch.setattr(kernels, "DEVICES", ("cpu",))
    monkeypatch.setattr(kernels, "trusted", lambda name, *args: name == "nms")
    monkeypatch.setattr(nms, "keep_in_order", lambda boxes, segments, threshold: segments > threshold)
    keep = nms_cuda.keep_in_order_on_cuda(torch.zeros(2, 4), torch.tensor([1, 2]), 1.5)
    assert keep.tolist() == [False, True]


def test_checks_leave_the_random_generator_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton", reason="Triton is not installed")
    state = torch.get_rng_state()
    assert kernels._passes("nms", False, CPU, torch.float32, nms_cuda.keep_in_blocks)
    assert torch.equal(state, torch.get_rng_state())
