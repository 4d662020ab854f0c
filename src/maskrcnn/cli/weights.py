"""``maskrcnn weights``."""

from __future__ import annotations

import argparse
from pathlib import Path

from maskrcnn.cli.arguments import WEIGHTS, Commands, add_sets, read_sets
from maskrcnn.plain import with_values
from maskrcnn.training.settings import Settings

# Settings that a checkpoint keeps
_SIDES = {f"pictures.{side}" for side in ("short_sides", "long_side", "test_short_side", "test_long_side")}


def add(commands: Commands) -> None:
    """Add the command and its arguments."""
    parser = commands.add_parser("weights", help="list, describe, convert and compare checkpoints")
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    actions.add_parser("list", help="list all published checkpoints").set_defaults(command=_list)
    info = actions.add_parser("info", help="describe the network of a checkpoint")
    info.add_argument("weights", metavar="WEIGHTS", help=WEIGHTS)
    info.set_defaults(command=_info)
    convert = actions.add_parser(
        "convert", help="write a checkpoint for this library, torchvision or Detectron2"
    )
    convert.add_argument("weights", metavar="WEIGHTS", help=WEIGHTS)
    convert.add_argument(
        "output", type=Path, metavar="OUT", help="file to write: .pt or .pth, or .pkl for Detectron2"
    )
    convert.add_argument(
        "--layout",
        choices=("maskrcnn", "torchvision", "detectron2"),
        default="maskrcnn",
        help="library to write for (default: maskrcnn)",
    )
    convert.add_argument(
        "--classes", metavar="A,B,…", help="names of the classes, where the checkpoint has none"
    )
    add_sets(
        convert,
        "set what the checkpoint does not hold: options of the recipe, test_short_side, test_long_side",
    )
    convert.set_defaults(command=_convert)
    compare = actions.add_parser("compare", help="list the differences between two checkpoints")
    compare.add_argument("weights", metavar="A", help=WEIGHTS)
    compare.add_argument("other", metavar="B", help="the checkpoint to compare it with")
    compare.set_defaults(command=_compare)


def _list(arguments: argparse.Namespace) -> int:
    from maskrcnn.weights.describe import list_published

    print(list_published())
    return 0


def _info(arguments: argparse.Namespace) -> int:
    from maskrcnn.weights.describe import describe

    print(describe(arguments.weights))
    return 0


def _convert(arguments: argparse.Namespace) -> int:
    from maskrcnn.weights.convert import convert

    values, options = read_sets(arguments.sets)
    if unused := sorted(values.keys() - _SIDES):
        raise ValueError(
            f"--set {unused[0]} has no effect on a conversion: expected options of the recipe, or sizes of "
            f"pictures: {', '.join(sorted(_SIDES))}"
        )
    summary = convert(
        arguments.weights,
        arguments.output,
        arguments.layout,
        class_names=arguments.classes.split(",") if arguments.classes else None,
        options=options,
        test_sides=with_values(Settings(), values).pictures.test_sides if values else None,
    )
    print(summary)
    return 0


def _compare(arguments: argparse.Namespace) -> int:
    from maskrcnn.weights.describe import compare

    differences = compare(arguments.weights, arguments.other)
    print("\n".join(differences) or "the weights are identical")
    return 1 if differences else 0
