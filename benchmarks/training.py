"""A training step of ResNet-50-FPN: ours, as `maskrcnn train` makes it, against torchvision's.

Both start from the same weights (the draw of `inference.py`), with stem, res2 and all norms frozen, as is
usual for fine-tuning, and learn from the same pictures and objects; a step is forward, backward and SGD.
torchvision's network is channels-last like ours and need not resize. Ours cuts the truth of masks by its own
rule. The contestants take turns. Memory is the growth of a process of its own over two steps: network,
gradients, optimiser and data (on CUDA what was allocated at most). `--memory-against-objects 10,1000`
measures ours alone with so many objects a picture.

python benchmarks/training.py [--precision bf16] [--objects 10] [--device cuda --batch 8 --size 800x1344]
python benchmarks/training.py --memory-against-objects 10,1000 --size 1024 --batch 1
"""

import argparse
import multiprocessing
from collections.abc import Callable
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from typing import Any, NamedTuple

import contest
import numpy as np
import torch
from torch import Tensor

from maskrcnn import recipes
from maskrcnn.data.batch import collate
from maskrcnn.data.transforms import MaskCrop, Truth
from maskrcnn.network.model import MaskRCNN
from maskrcnn.training.learner import Learner, fetched, make_optimiser, take_step
from maskrcnn.training.settings import Settings
from maskrcnn.types import Batch, Targets

CLASSES = 90
# The rest of what torchvision does by default, which decides how much work a step is
LIKE_TORCHVISION = {"training_proposals": 2000, "beta": 1 / 9}
RATE = 1e-5  # too small to lead anywhere: every step does the same work
Step = Callable[[], dict[str, float]]


class Work(NamedTuple):
    """What a step works on; made anew by each process."""

    device: str
    precision: str
    batch: int
    size_hw: tuple[int, int]
    objects: int  # a picture


def main() -> None:
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    work = Work(arguments.device, arguments.precision, arguments.batch, arguments.size, arguments.objects)
    if arguments.memory_against_objects:
        figures = against_objects(work, arguments.memory_against_objects, arguments.threads)
    else:
        figures = against_torchvision(work, arguments)
    contest.write(arguments.json, {"work": work._asdict(), **figures})


def parse() -> argparse.Namespace:
    parser = contest.arguments("a training step of ResNet-50-FPN, ours against torchvision's", repeats=5)
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--precision", choices=("float32", "bf16"), default="float32")
    parser.add_argument("--batch", type=int, default=2, help="pictures (default: 2)")
    parser.add_argument(
        "--size", type=contest.sides, default=(512, 512), help="512, or 800x1344 (default: 512)"
    )
    parser.add_argument("--objects", type=int, default=10, help="in a picture (default: 10)")
    parser.add_argument(
        "--memory-against-objects", type=counts, help="as 10,1000: measure ours alone with so many"
    )
    return parser.parse_args()


def counts(text: str) -> list[int]:
    return [int(count) for count in text.split(",")]


def against_torchvision(work: Work, arguments: argparse.Namespace) -> dict[str, Any]:
    ours, theirs = our_step(work, theirs_too=True), their_step(work)
    for name, step in (("ours", ours), ("torchvision", theirs)):
        print(f"{name}: " + ", ".join(f"{part} {value:.3f}" for part, value in step().items()), flush=True)
    times = contest.take_turns({"ours": ours, "theirs": theirs}, repeats=arguments.repeats)
    row = contest.row(title(work), times["ours"], times["theirs"])
    print(f"ours takes {times['ours'].median / times['theirs'].median:.2f} of torchvision's time", end="; ")
    print(f"{1000 * work.batch / times['ours'].median:.1f} pictures/s", flush=True)
    del ours, theirs
    memory = {
        name: peak(step, work, arguments.threads)
        for name, step in (("ours", our_step), ("torchvision", their_step))
    }
    ratio = memory["ours"] / memory["torchvision"]
    print(
        f"memory: ours {memory['ours']:.0f} MB, torchvision {memory['torchvision']:.0f} MB, ratio {ratio:.2f}"
    )
    return {"step": row, "peak_mb": memory, "memory_ratio": round(ratio, 3)}


def against_objects(work: Work, objects: list[int], threads: int) -> dict[str, Any]:
    memory = {count: peak(our_step, work._replace(objects=count), threads) for count in objects}
    for count, megabytes in memory.items():
        ratio = megabytes / memory[objects[0]]
        print(f"{title(work)}, {count} objects: {megabytes:.0f} MB, {ratio:.3f} of the first")
    return {"peak_mb_by_objects": memory}


def title(work: Work) -> str:
    return f"step of {work.batch} x {work.size_hw[0]}x{work.size_hw[1]}, {work.precision}, {work.device}"


def our_step(work: Work, *, theirs_too: bool = False) -> Step:
    """Return a step of `maskrcnn train`; with torchvision's weights if that is there to be compared with."""
    device, settings = torch.device(work.device), Settings(precision=work.precision, lr=RATE)
    model = (
        with_weights_of(torchvision_network())
        if theirs_too
        else recipes.resnet50_fpn(CLASSES, **LIKE_TORCHVISION)
    )
    model = model.train().to(device).to(memory_format=torch.channels_last)
    scaler = torch.amp.GradScaler(device.type, enabled=False)
    learner = Learner(model, make_optimiser(model, settings), scaler, device)
    batches = repeat(for_ours(scenes(work)))

    def step() -> dict[str, float]:
        return finished(fetched(take_step(learner, batches, settings, RATE)), device)

    return step


def with_weights_of(theirs: torch.nn.Module) -> MaskRCNN:
    from maskrcnn.weights.trained import of_library

    trained = of_library(theirs.state_dict())
    return replace(trained, arguments={**trained.arguments, "norm_eps": 1e-5, "mask_truth": "binary"}).build()


def torchvision_network() -> torch.nn.Module:
    """Return torchvision's network with drawn weights, frozen as its fine-tuning freezes it."""
    from inference import drawn
    from torchvision.models.detection import MaskRCNN as TorchvisionMaskRCNN
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
    from torchvision.ops.misc import FrozenBatchNorm2d

    backbone = resnet_fpn_backbone(
        backbone_name="resnet50", weights=None, norm_layer=FrozenBatchNorm2d, trainable_layers=3
    )
    model = TorchvisionMaskRCNN(backbone, CLASSES + 1, _skip_resize=True)
    draw = torch.Generator().manual_seed(0)
    for name, value in model.state_dict().items():
        if not name.endswith(("running_mean", "running_var")):
            value.copy_(drawn(name, value.shape, draw))
    return model


def their_step(work: Work) -> Step:
    device = torch.device(work.device)
    model = torchvision_network().train().to(device).to(memory_format=torch.channels_last)
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.SGD(learning, RATE, momentum=0.9, weight_decay=1e-4)
    images, targets = for_theirs(scenes(work))

    def step() -> dict[str, float]:
        on_device = [{name: value.to(device) for name, value in target.items()} for target in targets]
        with torch.autocast(device.type, torch.bfloat16, work.precision == "bf16"):
            losses = model([image.to(device).float() / 255 for image in images], on_device)
        loss = sum(losses.values())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return finished({"loss": loss.item(), **{name: part.item() for name, part in losses.items()}}, device)

    return step


def finished(losses: dict[str, float], device: torch.device) -> dict[str, float]:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return losses


def scenes(work: Work) -> list[tuple[Tensor, Truth]]:
    """Draw pictures of noise with bright ellipses of 1/32 … 1/4 of the short side, which may overlap."""
    draw, (height, width) = np.random.default_rng(0), work.size_hw
    drawn = []
    for _ in range(work.batch):
        image = draw.integers(0, 120, (height, width, 3), np.uint8)
        sides = np.exp(
            draw.uniform(*np.log(np.array([1 / 32, 1 / 4]) * min(height, width)), (work.objects, 2))
        ).astype(int)
        corners = (draw.uniform(size=(work.objects, 2)) * (np.array([width, height]) - sides)).astype(int)
        boxes = np.concatenate([corners, corners + sides], 1)
        crops = [
            MaskCrop(ellipse(*sides[i]), (1.0, -float(x), 1.0, -float(y))) for i, (x, y) in enumerate(corners)
        ]
        for (x1, y1, x2, y2), crop in zip(boxes, crops, strict=True):
            image[y1:y2, x1:x2][crop.pixels > 0] = 240
        labels, crowd = draw.integers(0, CLASSES, work.objects), np.zeros(work.objects, bool)
        truth = Truth(boxes.astype(np.float32), labels, crowd, list(crops), None)
        drawn.append((torch.from_numpy(image).permute(2, 0, 1), truth))
    return drawn


def ellipse(width: int, height: int) -> np.ndarray:
    y, x = (2 * (np.arange(side) + 0.5) / side - 1 for side in (height, width))
    return (y[:, None] ** 2 + x**2 <= 1).astype(np.uint8)


def for_ours(drawn: list[tuple[Tensor, Truth]]) -> tuple[Batch, Targets]:
    return collate(drawn, stride=32)


def for_theirs(drawn: list[tuple[Tensor, Truth]]) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    targets = []
    for image, truth in drawn:
        masks = torch.zeros((len(truth.boxes), *image.shape[1:]), dtype=torch.uint8)
        for mask, crop, (x1, y1, x2, y2) in zip(masks, truth.crops, truth.boxes.astype(int), strict=True):
            mask[y1:y2, x1:x2] = torch.from_numpy(crop.pixels)
        boxes, labels = torch.from_numpy(truth.boxes), torch.from_numpy(truth.labels) + 1
        targets.append({"boxes": boxes, "labels": labels, "masks": masks})
    return [image for image, _ in drawn], targets


def peak(make: Callable[[Work], Step], work: Work, threads: int) -> float:
    """Return the most memory of two steps in megabytes, measured in a process that does nothing else."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(measured, (make, work, threads))


def measured(make: Callable[[Work], Step], work: Work, threads: int) -> float:
    torch.set_num_threads(threads)
    before = resident("VmRSS")
    step = make(work)
    step(), step()
    if work.device.startswith("cuda"):
        return round(torch.cuda.max_memory_allocated() / 2**20, 1)
    return round(resident("VmHWM") - before, 1)


def resident(field: str) -> float:
    """Return a figure of this process's memory, now or at most, in megabytes (Linux)."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[field].split()[0]) / 1024


if __name__ == "__main__":
    main()
