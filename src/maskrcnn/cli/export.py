"""``maskrcnn export``."""

from __future__ import annotations

import argparse
from pathlib import Path

from maskrcnn.cli.arguments import WEIGHTS, Commands, size


def add(commands: Commands) -> None:
    """Add the command's grammar."""
    parser = commands.add_parser("export", help="write a network for another runtime, and check it")
    parser.add_argument("weights", metavar="WEIGHTS", help=WEIGHTS)
    parser.add_argument("--format", choices=("onnx", "openvino", "torch", "aotinductor"), default="onnx")
    parser.add_argument(
        "--size",
        type=input_size,
        default=None,
        metavar="HxW",
        help="of the input, px; or dynamic, for any (default)",
    )
    parser.add_argument(
        "--batch",
        type=input_batch,
        default=None,
        metavar="N",
        help="pictures of an input; or dynamic, for any number (default)",
    )
    parser.add_argument("--half", action="store_true", help="compute the layers in half precision")
    parser.add_argument(
        "--int8",
        type=Path,
        metavar="DATA",
        help="quantise on these pictures, for openvino: a folder, or a data set, by which both are judged",
    )
    parser.add_argument(
        "--picture", type=Path, metavar="FILE", help="to check the file by (default: one is drawn)"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="(default: beside WEIGHTS)")
    parser.set_defaults(command=run)


def input_size(text: str) -> tuple[int, int] | None:
    """Read HxW or "dynamic"."""
    return None if text == "dynamic" else size(text)


def input_batch(text: str) -> int | None:
    """Read a number or "dynamic"."""
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
