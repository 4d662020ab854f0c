"""``maskrcnn weights``."""

from __future__ import annotations

import argparse
from pathlib import Path

from maskrcnn.cli.arguments import WEIGHTS, Commands, add_sets, read_sets
from maskrcnn.plain import with_values
from maskrcnn.training.settings import Settings

# Settings that a network keeps
_SIDES = {f"pictures.{side}" for side in ("short_sides", "long_side", "test_short_side", "test_long_side")}


def add(commands: Commands) -> None:
    """Add the command's grammar."""
    parser = commands.add_parser("weights", help="list, describe, convert and compare weights")
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    actions.add_parser("list", help="all published checkpoints").set_defaults(command=_list)
    info = actions.add_parser("info", help="say which network a file holds")
    info.add_argument("weights", metavar="WEIGHTS", help=WEIGHTS)
    info.set_defaults(command=_info)
    convert = actions.add_parser("convert", help="write a network for this or another library")
    convert.add_argument("weights", metavar="WEIGHTS", help=WEIGHTS)
    convert.add_argument("output", type=Path, metavar="OUT", help="a .pt, .pth or .pkl file")
    convert.add_argument("--layout", choices=("maskrcnn", "torchvision", "detectron2"), default="maskrcnn")
    convert.add_argument("--classes", metavar="A,B,…", help="their names, where the file does not know them")
    add_sets(convert, "what the file does not tell: recipe.NAME, test_short_side, test_long_side")
    convert.set_defaults(command=_convert)
    compare = actions.add_parser("compare", help="say where two networks differ")
    compare.add_argument("weights", metavar="A", help=WEIGHTS)
    compare.add_argument("other", metavar="B")
    compare.set_defaults(command=_compare)


def _list(arguments: argparse.Namespace) -> int:
    from maskrcnn.weights.describe import published_list

    print(published_list())
    return 0


def _info(arguments: argparse.Namespace) -> int:
    from maskrcnn.weights.describe import describe

    print(describe(arguments.weights))
    return 0


def _convert(arguments: argparse.Namespace) -> int:
    from maskrcnn.weights.describe import convert

    values, options = read_sets(arguments.sets)
    if strangers := sorted(values.keys() - _SIDES):
        raise ValueError(
            f"--set {strangers[0]}: a conversion trains nothing: it takes only arguments of the recipe, as "
            f"recipe.NAME=VALUE, and the sizes of pictures: {', '.join(sorted(_SIDES))}"
        )
    names = arguments.classes.split(",") if arguments.classes else None
    sides = with_values(Settings(), values).pictures.test_sides if values else None
    said = convert(
        arguments.weights,
        arguments.output,
        arguments.layout,
        class_names=names,
        options=options,
        sides=sides,
    )
    print(said)
    return 0


def _compare(arguments: argparse.Namespace) -> int:
    from maskrcnn.weights.describe import compare

    differences = compare(arguments.weights, arguments.other)
    print("\n".join(differences) or "the same weights, to the bit")
    return 1 if differences else 0
