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
        epilog="--set takes options of the recipe, as recipe.NAME=VALUE, and these settings; the last part\n"
        f"of a setting's name is enough (lr=0.01):\n\n{explain(Settings())}",
    )
    train.add_argument(
        "data", metavar="DATA", help="folder with annotations/instances_{train,val}.json, or the like"
    )
    train.add_argument("--recipe", help="the network, one of maskrcnn.recipes (default: resnet50_fpn)")
    train.add_argument("--output", type=Path, default=Path("runs/train"), metavar="DIR")
    train.add_argument(
        "--init",
        metavar="WEIGHTS",
        help="initial weights: a file or a published name, of a detector or a backbone",
    )
    train.add_argument(
        "--synonyms",
        nargs="+",
        default=[],
        metavar="ours=theirs",
        help="classes that have another name in --init",
    )
    train.add_argument(
        "--resume", action="store_true", help="resume last.pt of the output folder; --set changes settings"
    )
    train.add_argument("--device", choices=DEVICES, default="auto")
    add_sets(train)
    train.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the command; return its exit status."""
    from maskrcnn.training.loop import resume_training, train

    settings, recipe_arguments = read_sets(arguments.sets)
    if arguments.resume:
        for flag in ("init", "synonyms"):
            if getattr(arguments, flag):
                raise ValueError(f"--{flag} is for a new training: --resume takes the weights of last.pt")
        weights = resume_training(
            arguments.data,
            recipe=arguments.recipe,
            recipe_arguments=recipe_arguments,
            output=arguments.output,
            device=arguments.device,
            settings=settings,
        )
    else:
        weights = train(
            arguments.data,
            recipe=arguments.recipe,
            recipe_arguments=recipe_arguments,
            output=arguments.output,
            init=arguments.init,
            synonyms=dict(_pair(text) for text in arguments.synonyms),
            device=arguments.device,
            settings=with_values(Settings(), settings),
        )
    print(f"network {weights}")
    return 0


def _pair(text: str) -> tuple[str, str]:
    ours, equals, theirs = text.partition("=")
    if not equals:
        raise ValueError(f"--synonyms {text}: expected ours=theirs")
    return ours, theirs
