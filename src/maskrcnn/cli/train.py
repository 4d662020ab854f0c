"""``maskrcnn train``."""

from __future__ import annotations

import argparse
from pathlib import Path

from maskrcnn.cli.arguments import DEVICES, Commands, add_sets, read_sets
from maskrcnn.plain import explain, with_values
from maskrcnn.training.settings import Settings


def add(commands: Commands) -> None:
    """Add the command's grammar."""
    train = commands.add_parser(
        "train",
        help="train a network on a folder in COCO layout",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"--set: options of the recipe, as recipe.NAME=VALUE, and these settings; the last part of a\n"
        f"name is enough (lr=0.01):\n\n{explain(Settings())}",
    )
    train.add_argument(
        "data", metavar="DATA", help="folder with annotations/instances_{train,val}.json, or the like"
    )
    train.add_argument("--recipe", help="the network, of maskrcnn.recipes (default: resnet50_fpn)")
    train.add_argument("--output", type=Path, default=Path("runs/train"), metavar="DIR")
    train.add_argument(
        "--init",
        metavar="WEIGHTS",
        help="weights to start from: a file or a published name, of a network or body",
    )
    train.add_argument(
        "--synonyms",
        nargs="+",
        default=[],
        metavar="ours=theirs",
        help="classes of --init that are called otherwise there",
    )
    train.add_argument("--resume", action="store_true", help="go on from last.pt in the output folder")
    train.add_argument("--device", choices=DEVICES, default="auto")
    add_sets(train)
    train.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the command; return its exit status."""
    from maskrcnn.training.checkpoint import load
    from maskrcnn.training.loop import train

    values, recipe_arguments = read_sets(arguments.sets)
    base = load(arguments.output / "last.pt").settings if arguments.resume else Settings()
    settings = with_values(base, values)
    weights = train(
        arguments.data,
        recipe=arguments.recipe,
        recipe_arguments=recipe_arguments,
        output=arguments.output,
        init=arguments.init,
        synonyms=dict(_pair(text) for text in arguments.synonyms),
        resume=arguments.resume,
        device=arguments.device,
        settings=settings,
    )
    print(f"network {weights}")
    return 0


def _pair(text: str) -> tuple[str, str]:
    ours, equals, theirs = text.partition("=")
    if not equals:
        raise ValueError(f"--synonyms {text}: expected ours=theirs")
    return ours, theirs
