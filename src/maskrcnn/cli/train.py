"""``maskrcnn train``."""

from __future__ import annotations

import argparse
from pathlib import Path

from maskrcnn.cli.arguments import Commands, add_device, add_sets, read_sets
from maskrcnn.plain import explain, with_values
from maskrcnn.training.settings import Settings


def add(commands: Commands) -> None:
    """Add the command and its arguments."""
    parser = commands.add_parser(
        "train",
        help="train a network on a data set in COCO's or Cityscapes' format",
        description="Train a network. Writes best.pt and last.pt, the log metrics.jsonl, and resumes with "
        "--resume what was interrupted.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="--set takes these settings, and options of the recipe (maskrcnn/recipes/options.py); the\n"
        f"last part of a name is enough where only one name ends in it (lr=0.01):\n\n{explain(Settings())}",
    )
    parser.add_argument(
        "data",
        metavar="DATA",
        help="folder of a data set: COCO's layout with annotations/instances_{train,val}.json, Roboflow's, "
        "or Cityscapes'",
    )
    parser.add_argument("--recipe", help="network: a function of maskrcnn.recipes (default: resnet50_fpn)")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("runs/train"),
        metavar="DIR",
        help="folder for checkpoints and logs (default: runs/train)",
    )
    parser.add_argument(
        "--init",
        metavar="WEIGHTS",
        help="start from these weights of a network or of its backbone: a file or a published name",
    )
    parser.add_argument(
        "--synonyms",
        nargs="+",
        default=[],
        metavar="NAME=INIT_NAME",
        help="take over a class of --init that has another name there, such as lorry=truck",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="resume from last.pt in the output folder; --set changes settings",
    )
    add_device(parser)
    add_sets(parser, "change settings, listed below, or options of the recipe")
    parser.set_defaults(command=run)


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
    name, equals, init_name = text.partition("=")
    if not equals:
        raise ValueError(f"--synonyms {text}: expected NAME=INIT_NAME, such as lorry=truck")
    return name, init_name
