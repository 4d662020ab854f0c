"""``maskrcnn bench``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from maskrcnn.cli.arguments import Commands, acceleration_of, add_acceleration, add_device, size

_OBJECTS = 10  # in a picture of a training step, by default


def add(commands: Commands) -> None:
    """Add the command's grammar."""
    parser = commands.add_parser("bench", help="measure the speed of detection or training on this machine")
    parser.add_argument("--recipe", default="resnet50_fpn", help="the network (default: resnet50_fpn)")
    parser.add_argument(
        "--size",
        type=size,
        default=(800, 1216),
        metavar="HxW",
        help="height and width of the pictures, in pixels (default: 800x1216)",
    )
    parser.add_argument("--batch", type=int, default=1, metavar="N", help="pictures per batch (default: 1)")
    parser.add_argument(
        "--against",
        choices=("torchvision",),
        help="measure this library, too: same weights and pictures, in turns; detection only",
    )
    parser.add_argument("--train", action="store_true", help="measure a training step instead of a detection")
    parser.add_argument(
        "--objects",
        type=int,
        metavar="N",
        help=f"objects in each picture of a training step (default: {_OBJECTS})",
    )
    add_acceleration(parser)
    add_device(parser)
    parser.add_argument("--repeats", type=int, default=10, metavar="N", help="timed repeats (default: 10)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to this file")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the command; return its exit status."""
    from maskrcnn.files import write_json

    _check(arguments)
    figures = _training(arguments) if arguments.train else _detection(arguments)
    if arguments.json:
        write_json(arguments.json, figures)
        print(f"figures {arguments.json}")
    return 0


def _check(arguments: argparse.Namespace) -> None:
    for name in ("batch", "repeats", "objects"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name} must be at least 1, not {value}")
    if arguments.train and (arguments.compile or arguments.capture):
        raise ValueError("--compile and --capture apply to detection only: remove them, or --train")
    if arguments.train and arguments.against:
        raise ValueError(
            "--against applies to detection only: remove it, or --train; benchmarks/train_torchvision.py in "
            "the repository compares training steps"
        )
    if arguments.objects is not None and not arguments.train:
        raise ValueError("--objects applies to training steps only: remove it, or add --train")


def _detection(arguments: argparse.Namespace) -> dict[str, Any]:
    from rich import print as print_tables

    from maskrcnn.bench.inference import bench_detection, detection_report

    figures = bench_detection(
        arguments.recipe,
        arguments.size,
        batch_size=arguments.batch,
        against=arguments.against,
        acceleration=acceleration_of(arguments),
        device=arguments.device,
        repeats=arguments.repeats,
    )
    print_tables(detection_report(figures))
    return figures


def _training(arguments: argparse.Namespace) -> dict[str, Any]:
    import torch
    from rich import print as print_tables

    from maskrcnn.bench.training import StepSpec, bench_training, training_table
    from maskrcnn.device import resolve_device

    spec = StepSpec(
        recipe=arguments.recipe,
        device=str(resolve_device(arguments.device)),
        precision=arguments.precision,
        batch_size=arguments.batch,
        size_hw=arguments.size,
        objects=_OBJECTS if arguments.objects is None else arguments.objects,
        threads=torch.get_num_threads(),
    )
    figures = bench_training(spec, repeats=arguments.repeats)
    print_tables(training_table(figures))
    return figures
