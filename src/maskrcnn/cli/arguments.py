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

WEIGHTS = "a file, such as runs/train/best.pt, or a published name (maskrcnn weights list)"
_RECIPE = "recipe."  # prefix of a recipe's options in --set
DEVICES = ("cpu", "cuda", "mps", "auto")


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
        "--set", nargs="+", action="extend", default=[], metavar="name=value", dest="sets", help=help
    )


def read_sets(sets: Iterable[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what `add_sets` was given: settings by their dotted names, and options of the recipe.

    Raises ValueError for an unknown or ambiguous name and for a value of the wrong type.
    """
    from maskrcnn.recipes import Options

    recipe = {f"{_RECIPE}{name}": option for name, option in options_of(Options()).items()}
    values = parse_assignments(sets, options_of(Settings()), recipe)
    settings = {name: value for name, value in values.items() if name not in recipe}
    return settings, {name[len(_RECIPE) :]: values[name] for name in values if name in recipe}


def size(text: str) -> tuple[int, int]:
    """Read HxW."""
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise argparse.ArgumentTypeError(f"expected HxW in pixels, such as 800x1216, not {text}")
    return int(height), int(width)
