"""``maskrcnn export``."""

from __future__ import annotations

import argparse
from pathlib import Path

from maskrcnn.cli.arguments import WEIGHTS, Commands, size


def add(commands: Commands) -> None:
    """Add the command and its arguments."""
    parser = commands.add_parser(
        "export",
        help="write a network for another runtime",
        description="Write a network for another runtime, and compare its detections with PyTorch's. A file "
        "that differs is not kept.",
    )
    parser.add_argument("weights", metavar="WEIGHTS", help=WEIGHTS)
    parser.add_argument(
        "--format",
        choices=("onnx", "openvino", "torch", "aotinductor"),
        default="onnx",
        help="ONNX, OpenVINO, torch.export's program, or AOTInductor's package (default: onnx)",
    )
    parser.add_argument(
        "--size",
        type=input_size,
        default=None,
        metavar="HxW",
        help="size of the input in pixels, or dynamic, for any size (default: dynamic)",
    )
    parser.add_argument(
        "--batch",
        type=input_batch,
        default=None,
        metavar="N",
        help="pictures per input, or dynamic, for any number (default: dynamic)",
    )
    parser.add_argument(
        "--half", action="store_true", help="compute convolutions and linear layers in float16"
    )
    parser.add_argument(
        "--int8",
        type=Path,
        metavar="DATA",
        help="quantise to int8 (OpenVINO only), calibrated on the pictures of this folder or data set; a "
        "data set also gives the AP before and after",
    )
    parser.add_argument(
        "--picture",
        type=Path,
        metavar="FILE",
        help="picture to compare detections on (default: a synthetic one)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="file to write (default: beside WEIGHTS, with its own suffix)",
    )
    parser.set_defaults(command=run)


def input_size(text: str) -> tuple[int, int] | None:
    """Parse HxW, or "dynamic", which gives None."""
    return None if text == "dynamic" else size(text)


def input_batch(text: str) -> int | None:
    """Parse a number of pictures, or "dynamic", which gives None."""
    if text != "dynamic" and not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a number of pictures, or dynamic, not {text}")
    return None if text == "dynamic" else int(text)


def run(arguments: argparse.Namespace) -> int:
    """Run the command; return its exit status."""
    from rich import print as print_table

    from maskrcnn.export.check import differences_table
    from maskrcnn.export.graph import InputShape
    from maskrcnn.export.run import export

    written = export(
        arguments.weights,
        arguments.format,
        shape=InputShape(arguments.size, arguments.batch),
        half=arguments.half,
        int8=arguments.int8,
        picture=arguments.picture,
        output=arguments.output,
    )
    print_table(differences_table(written.differences))
    for name, metrics in written.metrics.items():
        for kind, numbers in metrics.items():
            print(f"{name} {kind} AP {numbers['AP'] or 0.0:.1f}, AP50 {numbers['AP50'] or 0.0:.1f}")
    print(f"network {written.path}")
    return 0
