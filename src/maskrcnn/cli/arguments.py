"""Arguments that several commands share."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from maskrcnn.plain import options_of, parse_assignments
from maskrcnn.training.settings import Settings

if TYPE_CHECKING:
    from maskrcnn.fast.acceleration import Acceleration

Commands = argparse._SubParsersAction  # what `ArgumentParser.add_subparsers` returns

WEIGHTS = "checkpoint: a file such as runs/train/best.pt, or a published name (see: maskrcnn weights list)"


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
        help="number format of convolutions and linear layers; bf16 is faster on GPUs, and on CPUs with bf16 "
        "instructions (default: float32)",
    )
    either = parser.add_mutually_exclusive_group()
    either.add_argument(
        "--compile", action="store_true", help="use torch.compile: minutes for the first picture, then faster"
    )
    either.add_argument(
        "--capture",
        action="store_true",
        help="record a CUDA graph for each padded size: faster for many pictures of few sizes",
    )


def acceleration_of(arguments: argparse.Namespace) -> Acceleration:
    """Return the values of the arguments that `add_acceleration` added."""
    from maskrcnn.fast.acceleration import Acceleration

    return Acceleration(arguments.precision, arguments.compile, arguments.capture)


def add_sets(parser: argparse.ArgumentParser, help: str | None = None) -> None:
    """Add --set."""
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="name=value", dest="sets", help=help
    )


def read_sets(sets: Iterable[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the values of --set: settings of a training, and options of a recipe, by their dotted names.

    Raises ValueError for an unknown or ambiguous name and for a value of the wrong type.
    """
    from maskrcnn.recipes import all_options

    known = options_of(Settings())
    values = parse_assignments(sets, known, all_options())
    settings = {name: value for name, value in values.items() if name in known}
    return settings, {name: value for name, value in values.items() if name not in settings}


def size(text: str) -> tuple[int, int]:
    """Parse HxW, in pixels; argparse reports anything else."""
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise argparse.ArgumentTypeError(f"expected HxW in pixels, such as 800x1216, not {text}")
    return int(height), int(width)
