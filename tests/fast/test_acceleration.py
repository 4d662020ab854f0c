"""The choice among the ways to make a network faster."""

import threading
from collections.abc import Callable

import pytest
import torch

from maskrcnn.fast import acceleration
from maskrcnn.fast.acceleration import PLAIN, Acceleration
from maskrcnn.fast.fold_norms import fold_norms
from maskrcnn.network.model import MaskRCNN
from maskrcnn.types import Batch, Detections
from networks import small

CPU = torch.device("cpu")
NOTHING = Detections(
    torch.zeros(1, 0, 4), torch.zeros(1, 0), torch.zeros(1, 0, dtype=torch.int64), torch.zeros(1, 0).bool()
)


@pytest.fixture
def model() -> MaskRCNN:
    return fold_norms(small().build())


@pytest.fixture
def batch() -> Batch:
    return Batch(torch.zeros(1, 3, 32, 32, dtype=torch.uint8), torch.tensor([[32, 32]]))


@pytest.mark.parametrize(
    ("how", "optimised"), [(PLAIN, True), (Acceleration("bf16"), False), (Acceleration(compiled=True), False)]
)
def test_plain_float32_on_a_cpu_takes_the_faster_layers(
    monkeypatch: pytest.MonkeyPatch, model: MaskRCNN, how: Acceleration, optimised: bool
) -> None:
    optimised_models = []
    monkeypatch.setattr(torch, "compile", lambda detect: detect)
    monkeypatch.setattr(acceleration, "optimize_for_cpu", optimised_models.append)
    how.apply(model, CPU)
    assert optimised_models == ([model] if optimised else [])


def test_bf16_is_the_precision_of_the_call_alone(
    monkeypatch: pytest.MonkeyPatch, model: MaskRCNN, batch: Batch
) -> None:
    precisions = []

    def detect(batch: Batch) -> Detections:
        precisions.append(autocast_dtype())
        return NOTHING

    monkeypatch.setattr(model, "detect", detect)
    detect = Acceleration("bf16").apply(model, CPU)
    detect(batch)
    assert precisions == [torch.bfloat16] and autocast_dtype() is None


def autocast_dtype() -> torch.dtype | None:
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None


def test_threads_do_not_share_the_state_of_autocast(
    monkeypatch: pytest.MonkeyPatch, model: MaskRCNN, batch: Batch
) -> None:
    """One thread is in fp16 before and after its call; a second one, which is not, calls in between."""
    first_is_in, second_is_in = threading.Event(), threading.Event()

    def detect(batch: Batch) -> Detections:
        if threading.current_thread().name == "first":
            first_is_in.set()
            assert second_is_in.wait(60)
        else:
            second_is_in.set()
        return NOTHING

    monkeypatch.setattr(model, "detect", detect)
    in_bf16 = Acceleration("bf16").apply(model, CPU)
    after: dict[str, torch.dtype | None] = {}

    def first() -> None:
        with torch.autocast("cpu", torch.float16):
            in_bf16(batch)
            after["first"] = autocast_dtype()

    def second() -> None:
        assert first_is_in.wait(60)
        in_bf16(batch)
        after["second"] = autocast_dtype()

    run_together(first=first, second=second)
    assert after == {"first": torch.float16, "second": None}


def run_together(**functions: Callable[[], None]) -> None:
    threads = [threading.Thread(target=function, name=name) for name, function in functions.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


def test_a_cuda_graph_is_for_cuda_and_not_compiled(model: MaskRCNN) -> None:
    with pytest.raises(ValueError, match=r"only a network on a CUDA device can be captured .* is on cpu"):
        Acceleration(cuda_graph=True).apply(model, CPU)
    with pytest.raises(ValueError, match="either compiled or captured"):
        Acceleration(compiled=True, cuda_graph=True).apply(model, torch.device("cuda"))
