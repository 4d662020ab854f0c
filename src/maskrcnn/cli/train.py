"""``maskrcnn train``."""

from __future__ import annotations

import argparse
from pathlib import Path

from maskrcnn.cli.arguments import Commands, add_device, add_sets
from maskrcnn.training.settings import explain, parse_sets


def add(commands: Commands) -> None:
    """Add the command and its arguments."""
    parser = commands.add_parser(
        "train",
        help="train a network on a data set in COCO's or Cityscapes' format",
        description="Train a network. Writes best.pt and last.pt, the log metrics.jsonl, and resumes with "
        "--resume what was interrupted.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"--set takes arguments of the recipe, as recipe.NAME=VALUE, and settings:\n\n{explain()}",
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
    parser.add_argument("--resume", action="store_true", help="resume from last.pt in the output folder")
    add_device(parser)
    add_sets(parser, "change settings or arguments of the recipe, listed below")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the command; return its exit status."""
    from maskrcnn.recipes import all_options
    from maskrcnn.training.checkpoint import load
    from maskrcnn.training.loop import train

    base = load(arguments.output / "last.pt").settings if arguments.resume else None
    settings, recipe_arguments = parse_sets(arguments.sets, all_options(), base)
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
    name, equals, init_name = text.partition("=")
    if not equals:
        raise ValueError(f"--synonyms {text}: expected NAME=INIT_NAME, such as lorry=truck")
    return name, init_name
