"""A training step of ours and of torchvision's network: the same weights, pictures and objects, in turns.

Both freeze the stem, res2 and all norms, and update by SGD. Ours is a step of ``maskrcnn train``, and cuts
mask targets by its own rule; torchvision's network is channels-last like ours, and does not have to resize.

python benchmarks/train_torchvision.py [--size 512x512] [--batch 2] [--json FILE]
"""

import contest
import torch
from rich import print as print_table

from maskrcnn.bench.networks import random_checkpoint
from maskrcnn.bench.torchvision import to_torchvision, torchvision_network
from maskrcnn.bench.training import (
    OURS,
    Scene,
    Step,
    StepSpec,
    bench_training,
    make_scenes,
    training_table,
)
from maskrcnn.cli.arguments import size
from maskrcnn.device import resolve_device


def main() -> None:
    parser = contest.arguments("a training step, ours against torchvision's", repeats=10)
    parser.add_argument("--recipe", default="resnet50_fpn", help="the network (default: resnet50_fpn)")
    parser.add_argument(
        "--size", type=size, default=(512, 512), metavar="HxW", help="of the pictures (default: 512x512)"
    )
    parser.add_argument("--batch", type=int, default=2, help="pictures per step (default: 2)")
    parser.add_argument("--objects", type=int, default=10, help="objects in each picture (default: 10)")
    parser.add_argument("--precision", choices=("float32", "bf16"), default="float32")
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto (default: auto)")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    spec = StepSpec(
        recipe=given.recipe,
        device=str(resolve_device(given.device)),
        precision=given.precision,
        batch_size=given.batch,
        size_hw=given.size,
        objects=given.objects,
        threads=given.threads,
    )
    figures = bench_training(spec, {**OURS, "torchvision": torchvision_step}, repeats=given.repeats)
    print_table(training_table(figures))
    contest.write(given.json, figures)


def torchvision_step(spec: StepSpec) -> Step:
    """Return a training step of torchvision's network with our weights."""
    device = torch.device(spec.device)
    model = torchvision_network(random_checkpoint(spec.recipe), spec.size_hw).train().to(device)
    model = model.to(memory_format=torch.channels_last)
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trainable, spec.rate, momentum=0.9, weight_decay=1e-4)
    scenes = make_scenes(spec)
    pictures, targets = [picture for picture, _ in scenes], [torchvision_target(scene) for scene in scenes]

    def step() -> dict[str, float]:
        on_device = [{name: value.to(device) for name, value in target.items()} for target in targets]
        with torch.autocast(device.type, torch.bfloat16, enabled=spec.precision == "bf16"):
            losses = model(to_torchvision(pictures, device), on_device)
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
        return {name: loss.item() for name, loss in losses.items()}

    return step


def torchvision_target(scene: Scene) -> dict[str, torch.Tensor]:
    """Return the objects of a picture for torchvision: masks of the picture's size, labels from 1."""
    picture, truth = scene
    masks = torch.zeros((len(truth.boxes), *picture.shape[1:]), dtype=torch.uint8)
    for mask, crop, (x1, y1, x2, y2) in zip(masks, truth.crops, truth.boxes.astype(int), strict=True):
        assert crop is not None
        mask[y1:y2, x1:x2] = torch.from_numpy(crop.pixels)
    return {
        "boxes": torch.from_numpy(truth.boxes),
        "labels": torch.from_numpy(truth.labels) + 1,
        "masks": masks,
    }


if __name__ == "__main__":
    main()
