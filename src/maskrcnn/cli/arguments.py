"""Arguments that several commands share."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from maskrcnn.fast.acceleration import Acceleration

Commands = argparse._SubParsersAction  # what `ArgumentParser.add_subparsers` returns

WEIGHTS = "a file, such as runs/train/best.pt, or a published name (maskrcnn weights list)"


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add --device, a name for `maskrcnn.device.resolve_device`, which rejects wrong ones."""
    parser.add_argument(
        "--device",
        default="auto",
        metavar="NAME",
        help="cpu, cuda, cuda:N (GPU number N, from 0), mps (Apple GPU) or auto, the fastest (default: auto)",
    )


def add_acceleration(parser: argparse.ArgumentParser) -> None:
    """Add --precision, --compile and --capture."""
    parser.add_argument(
        "--precision",
        choices=("float32", "bf16"),
        default="float32",
        help="of the network's layers; bf16 is faster on GPUs and on processors that calculate in it",
    )
    either = parser.add_mutually_exclusive_group()
    either.add_argument(
        "--compile", action="store_true", help="compile the network: a slow start, then faster"
    )
    either.add_argument(
        "--capture", action="store_true", help="record a CUDA graph for each size: for pictures of few sizes"
    )


def acceleration_of(arguments: argparse.Namespace) -> Acceleration:
    """Return what `add_acceleration` asked for."""
    from maskrcnn.fast.acceleration import Acceleration

    return Acceleration(arguments.precision, arguments.compile, arguments.capture)


def add_sets(parser: argparse.ArgumentParser, help: str | None = None) -> None:
    """Add --set."""
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="field=value", dest="sets", help=help
    )


def size(text: str) -> tuple[int, int]:
    """Read HxW."""
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise argparse.ArgumentTypeError(f"expected HxW in pixels, such as 800x1216, not {text}")
    return int(height), int(width)
