"""``maskrcnn train``."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskrcnn.cli.arguments import Commands, add_device, add_sets, read_sets
from maskrcnn.cli.plan import add_wish, planned_by
from maskrcnn.plain import explain, with_values
from maskrcnn.training.settings import Settings

if TYPE_CHECKING:
    from maskrcnn.plan.make import Planned


def add(commands: Commands) -> None:
    """Add the command and its arguments."""
    parser = commands.add_parser(
        "train",
        help="train a network on a data set in COCO's or Cityscapes' format",
        description="Train a network. It plans the training first, as `maskrcnn plan` does, unless --set\n"
        "gives its length (steps, time_limit): then settings that are not given are the paper's.\n"
        "Writes best.pt, last.pt, plan.json, the log metrics.jsonl and the page report.html, and resumes\n"
        "with --resume what was interrupted.",
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
    add_wish(parser)
    parser.add_argument(
        "--plan", type=Path, metavar="FILE", help="train by this plan, which `maskrcnn plan --output` wrote"
    )
    parser.add_argument(
        "--recipe", help="network: a function of maskrcnn.recipes (default: the plan's, or resnet50_fpn)"
    )
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
    from maskrcnn.training.report import PAGE

    settings, recipe_arguments = read_sets(arguments.sets)
    if arguments.resume:
        for flag in ("init", "synonyms", "minutes", "plan"):
            if getattr(arguments, flag):
                raise ValueError(f"--{flag} is for a new training: --resume goes on with that of last.pt")
        weights = resume_training(
            arguments.data,
            recipe=arguments.recipe,
            recipe_arguments=recipe_arguments,
            output=arguments.output,
            device=arguments.device,
            settings=settings,
        )
    else:
        synonyms = dict(_pair(text) for text in arguments.synonyms)
        has_length = not {"length.steps", "length.time_limit"}.isdisjoint(settings)
        if has_length and (arguments.plan or arguments.minutes):
            raise ValueError("--set steps or time_limit contradicts --minutes and --plan: give one of them")
        recipe, chosen = arguments.recipe, with_values(Settings(), settings)
        if not has_length:
            planned = _planned(arguments, settings | recipe_arguments)
            recipe, chosen = planned.plan.recipe, planned.settings
            recipe_arguments = planned.recipe_arguments
        weights = train(
            arguments.data,
            recipe=recipe,
            recipe_arguments=recipe_arguments,
            output=arguments.output,
            init=arguments.init,
            synonyms=synonyms,
            device=arguments.device,
            settings=chosen,
        )
    print(f"network {weights}")
    if (page := arguments.output / PAGE).is_file():
        print(f"report {page}")
    return 0


def _planned(arguments: argparse.Namespace, values: dict[str, Any]) -> Planned:
    """Return the plan of --plan, or of the data; show it, and keep it in the output folder."""
    from rich import print as print_table

    from maskrcnn.plan.make import describe_length, plan_from_file
    from maskrcnn.plan.write import FILE, plan_table, write_plan
    from maskrcnn.training.setup import refuse_to_overwrite

    refuse_to_overwrite(arguments.output)  # before the plan, which takes seconds
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not arguments.plan:
        raise ValueError(
            "several processes need one plan: make it by `maskrcnn plan DATA --output plan.json`, then train "
            "with --plan plan.json, or give the length by --set steps=…"
        )
    if arguments.plan:
        if arguments.minutes or arguments.recipe:
            raise ValueError(
                "--plan has a length and a recipe: edit the file instead of --minutes or --recipe"
            )
        planned = plan_from_file(arguments.data, arguments.plan, values)
    else:
        planned = planned_by(arguments, values)
    if os.environ.get("RANK", "0") == "0":  # of several processes, one is enough
        print(describe_length(planned, arguments.device), flush=True)
        print_table(plan_table(planned.plan))
    arguments.output.mkdir(parents=True, exist_ok=True)
    write_plan(arguments.output / FILE, planned.plan, planned.fingerprint)
    return planned


def _pair(text: str) -> tuple[str, str]:
    name, equals, init_name = text.partition("=")
    if not equals:
        raise ValueError(f"--synonyms {text}: expected NAME=INIT_NAME, such as lorry=truck")
    return name, init_name
