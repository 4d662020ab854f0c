"""On a CUDA device: Triton kernels against the plain operators and torchvision's; detection as a CUDA graph.

Times are of whole calls, until the device has finished. torchvision is measured where it is installed.

python benchmarks/kernels.py [--json benchmarks/results/kernels.json]
"""

import json
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import contest
import torch
from torch import Tensor

from maskrcnn import kernels, recipes
from maskrcnn.fast.acceleration import Acceleration
from maskrcnn.fast.fold_norms import fold_norms
from maskrcnn.ops.boxes import suppress
from maskrcnn.ops.roi_align import assign_levels, flatten_levels, roi_align
from maskrcnn.types import Batch

try:
    import torchvision.models.detection.roi_heads
    import torchvision.ops
except ImportError:
    torchvision = None

SIZE_HW, STRIDES, CHANNELS = (800, 1344), (4, 8, 16, 32), 256
Contestants = dict[str, Callable[[], Any]]


def main() -> None:
    arguments = contest.arguments("kernels against plain operators and torchvision", repeats=20).parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("the kernels are for CUDA devices, but torch finds none")
    torch.backends.cudnn.benchmark = True
    warnings.filterwarnings("error", "the Triton kernel")  # its figures would be the plain operator's
    parts = (roi_cases, nms_cases, detection_cases)
    rows = {
        title: measure(title, contestants, arguments.repeats)
        for part in parts
        for title, contestants in part("cuda")
    }
    if arguments.json is not None:
        write(arguments.json, rows)


def write(path: Path, rows: dict[str, Any]) -> None:
    device = {"device": torch.cuda.get_device_name(), "torch": torch.__version__}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": device, "rows": rows}, indent=1) + "\n")
    print(f"written: {path}")


def measure(title: str, contestants: Contestants, repeats: int) -> dict[str, float]:
    """Print and return the median milliseconds of each contestant, and the ratio to the first one's."""

    def synchronised(run: Callable[[], Any]) -> None:
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    turns = {name: partial(synchronised, run) for name, run in contestants.items()}
    times = contest.take_turns(turns, repeats=repeats, warm_up=5)
    first = next(iter(times.values()))
    figures = {name: round(own.median, 4) for name, own in times.items()}
    ratios = "  ".join(
        f"{name} {own.median:9.3f} ms ({own.median / first.median:5.2f})" for name, own in times.items()
    )
    print(f"{title:<44} {ratios}", flush=True)
    return figures


@contextmanager
def plain() -> Iterator[None]:
    """Use the plain operators within this context."""
    devices, kernels.DEVICES = kernels.DEVICES, ()
    try:
        yield
    finally:
        kernels.DEVICES = devices


def without_kernels(run: Callable[..., Any], *args: Any) -> Any:
    with plain():
        return run(*args)


def random_boxes(count: int, size_hw: tuple[int, int], device: str, largest: float = 400.0) -> Tensor:
    """Return boxes within an image, their sides uniform between 16 px and `largest`."""
    generator = torch.Generator().manual_seed(count)
    limit = torch.tensor([size_hw[1], size_hw[0]])
    sides = torch.minimum(16 + (largest - 16) * torch.rand(count, 2, generator=generator), limit)
    corner = torch.rand(count, 2, generator=generator) * (limit - sides)
    return torch.cat((corner, corner + sides), 1).to(device)


def roi_cases(device: str) -> Iterator[tuple[str, Contestants]]:
    for batch_size in (1, 8):
        for count, bins in ((1000, 7), (100, 14)):
            for dtype in (torch.float16, torch.float32):
                title = f"RoIAlign {batch_size} x {count}, {bins}x{bins}, {str(dtype)[6:]}"
                forward, both = roi_contestants(batch_size, count, bins, dtype, device)
                yield title, forward
                yield f"{title}, and backward", both


def roi_contestants(
    batch_size: int, count: int, bins: int, dtype: torch.dtype, device: str
) -> tuple[Contestants, Contestants]:
    maps = [
        torch.randn(batch_size, CHANNELS, SIZE_HW[0] // s, SIZE_HW[1] // s, device=device, dtype=dtype)
        for s in STRIDES
    ]
    ours = [m.contiguous(memory_format=torch.channels_last).requires_grad_() for m in maps]
    theirs = [m.clone().requires_grad_() for m in maps]
    boxes = random_boxes(batch_size * count, SIZE_HW, device)
    pictures = torch.arange(batch_size, device=device).repeat_interleave(count)
    levels = assign_levels(boxes, first=2, last=5)

    def align() -> Tensor:
        return roi_align(flatten_levels(ours, STRIDES), boxes, pictures, levels, bins)

    contestants: dict[str, tuple[Callable[[], Tensor], list[Tensor]]] = {
        "kernel": (align, ours),
        "plain": (partial(without_kernels, align), ours),
    }
    if torchvision is not None:
        pool = torchvision.ops.MultiScaleRoIAlign(["0", "1", "2", "3"], bins, 2)
        named = dict(zip("0123", theirs, strict=True))
        each = list(boxes.to(dtype).split(count))
        sizes = [SIZE_HW] * batch_size
        contestants["torchvision"] = (lambda: pool(named, each, sizes), theirs)
    forward = {name: torch.no_grad()(run) for name, (run, _) in contestants.items()}
    both = {name: partial(gradients, run, leaves) for name, (run, leaves) in contestants.items()}
    return forward, both


def gradients(run: Callable[[], Tensor], leaves: list[Tensor]) -> None:
    features = run()
    torch.autograd.grad(features, leaves, torch.ones_like(features))


def nms_cases(device: str) -> Iterator[tuple[str, Contestants]]:
    for batch_size, groups, each in ((1, 5, 1000), (8, 5, 1000), (1, 1, 5000), (8, 80, 10)):
        count = groups * each
        boxes = torch.stack([proposals(count, seed, device) for seed in range(batch_size)])
        scores = torch.rand(batch_size, count, device=device)
        group = torch.arange(groups, device=device).repeat_interleave(each).expand(batch_size, -1)
        valid = torch.ones_like(scores, dtype=torch.bool)
        ours = partial(suppress, boxes, scores, group, valid, 0.7)
        contestants: Contestants = {"kernel": ours, "plain": partial(without_kernels, ours)}
        if torchvision is not None:
            rows = list(zip(boxes, scores, group, strict=True))
            contestants["torchvision"] = lambda rows=rows: [
                torchvision.ops.batched_nms(*row, 0.7) for row in rows
            ]
        yield f"NMS {batch_size} x {groups} groups of {each}", contestants


def proposals(count: int, seed: int, device: str) -> Tensor:
    """Return boxes scattered around a tenth as many objects, as proposals are."""
    generator = torch.Generator().manual_seed(seed)
    objects = random_boxes(max(count // 10, 1), SIZE_HW, "cpu")
    boxes = objects[torch.randint(len(objects), (count,), generator=generator)]
    sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    return (boxes + 0.07 * sides * torch.randn(count, 4, generator=generator)).to(device)


def detection_cases(device: str) -> Iterator[tuple[str, Contestants]]:
    model = fold_norms(recipes.resnet50_fpn(80)).to(device).to(memory_format=torch.channels_last)
    for batch_size in (1, 8):
        images = torch.randint(256, (batch_size, 3, *SIZE_HW), dtype=torch.uint8, device=device)
        images = images.contiguous(memory_format=torch.channels_last)
        batch = Batch(images, torch.tensor([SIZE_HW] * batch_size, device=device))
        detect = torch.inference_mode()(Acceleration("bf16").apply(model, torch.device(device)))
        replay = Acceleration("bf16", cuda_graph=True).apply(model, torch.device(device))
        yield (
            f"detect {batch_size} x {SIZE_HW[0]}x{SIZE_HW[1]}, bf16",
            {
                "CUDA graph": partial(replay, batch),
                "eager": partial(detect, batch),
                "eager, plain": partial(without_kernels, detect, batch),
            },
        )


if __name__ == "__main__":
    main()
