"""``maskrcnn bench``."""

from __future__ import annotations

import argparse
from pathlib import Path

from maskrcnn.cli.arguments import Commands, acceleration_of, add_acceleration, add_device, size


def add(commands: Commands) -> None:
    """Add the command's grammar."""
    parser = commands.add_parser("bench", help="measure detection on this machine")
    parser.add_argument("--recipe", default="resnet50_fpn", help="the network (default: resnet50_fpn)")
    parser.add_argument(
        "--size", type=size, default=(800, 1216), metavar="HxW", help="of pictures, in pixels"
    )
    parser.add_argument("--batch", type=int, default=1, metavar="N", help="pictures at once (default: 1)")
    parser.add_argument("--against", choices=("torchvision",), help="with the same weights, in turns")
    parser.add_argument("--train", action="store_true", help="measure a training step, not a detection")
    parser.add_argument("--objects", type=int, default=10, metavar="N", help="a picture, for --train")
    add_acceleration(parser)
    add_device(parser)
    parser.add_argument("--repeats", type=int, default=10, metavar="N", help="timed turns (default: 10)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures, too")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the command; return its exit status."""
    from rich import print as print_tables

    from maskrcnn.bench.inference import bench, printed
    from maskrcnn.bench.training import StepSpec, bench_training, printed_training
    from maskrcnn.device import resolve_device
    from maskrcnn.files import write_json

    for name in ("batch", "repeats", "objects"):
        if getattr(arguments, name) < 1:
            raise ValueError(f"--{name} must be at least 1, not {getattr(arguments, name)}")
    if arguments.train and (arguments.compile or arguments.capture):
        raise ValueError("--compile and --capture are for detection: leave them away with --train")
    speed = acceleration_of(arguments)
    device = resolve_device(arguments.device)
    if arguments.train:
        work = StepSpec(
            arguments.recipe,
            str(device),
            arguments.precision,
            arguments.batch,
            arguments.size,
            arguments.objects,
            _threads(),
        )
        figures = bench_training(work, against=arguments.against, repeats=arguments.repeats)
        print_tables(printed_training(figures))
    else:
        figures = bench(
            arguments.recipe,
            arguments.size,
            batch_size=arguments.batch,
            against=arguments.against,
            speed=speed,
            device=device,
            repeats=arguments.repeats,
        )
        print_tables(printed(figures))
    if arguments.json:
        write_json(arguments.json, figures)
        print(f"figures {arguments.json}")
    return 0


def _threads() -> int:
    import torch

    return torch.get_num_threads()
