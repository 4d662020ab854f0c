"""``maskrcnn train``."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from maskrcnn.cli.arguments import Commands, add_device, add_sets, read_sets
from maskrcnn.cli.check import check_first
from maskrcnn.cli.plan import add_wish, planned_by
from maskrcnn.messages import all_faults
from maskrcnn.plain import explain, with_values
from maskrcnn.training.settings import Settings

if TYPE_CHECKING:
    from maskrcnn.plan.make import Planned

CHECK = "check.json"


def add(commands: Commands) -> None:
    """Add the command and its arguments."""
    parser = commands.add_parser(
        "train",
        help="train a network on a data set in COCO's or Cityscapes' format",
        description="Train a network. It plans the training first, as `maskrcnn plan` does, unless --set\n"
        "gives its length (steps, time_limit): then settings that are not given are the paper's.\n"
        "Writes best.pt, last.pt, plan.json, check.json (the faults of the data), the log metrics.jsonl and\n"
        "the page report.html, and resumes with --resume what was interrupted.",
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
        help="weights of a network or of its backbone to start from: a file, a published name, auto (the "
        "published ones that suit, downloaded once; drawn ones where there is no network) or none (drawn "
        "ones); default: auto where a plan is made, else none",
    )
    parser.add_argument(
        "--synonyms",
        nargs="+",
        default=[],
        metavar="NAME=INIT_NAME",
        help="take over a class of --init that has another name there, such as lorry=truck",
    )
    parser.add_argument(
        "--folds",
        type=int,
        metavar="K",
        help="for few pictures: train K networks, each validated on its part of the pictures, then one on "
        "all; --minutes is for all of them together",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="resume from last.pt in the output folder, or its folds; --set changes settings",
    )
    add_device(parser)
    add_sets(parser, "change settings, listed below, or options of the recipe")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the command; return its exit status."""
    from maskrcnn.training.report import PAGE

    report = check_first(Path(arguments.data)) if is_first_process() else None
    words = _read_words(arguments)
    if report and (arguments.output.exists() or not arguments.resume):
        arguments.output.mkdir(parents=True, exist_ok=True)
        report.write(arguments.output / CHECK)
    weights = _resume(arguments, words) if arguments.resume else _start(arguments, words)
    print(f"network {weights}")
    if (page := arguments.output / PAGE).is_file():
        print(f"report {page}")
    return 0


def _start(arguments: argparse.Namespace, words: _Words) -> Path:
    from maskrcnn.training.folds import TrainArguments, train_folds
    from maskrcnn.training.loop import train

    init = None if arguments.init == "none" else arguments.init
    chosen = TrainArguments(
        with_values(Settings(), words.settings),
        arguments.recipe,
        words.recipe_arguments,
        init,
        words.synonyms,
    )
    if not words.has_length:
        planned = _planned(arguments, words.settings | words.recipe_arguments)
        if not arguments.folds:
            return planned.train(arguments.output, synonyms=words.synonyms)
        planned.write(arguments.output)
        chosen = TrainArguments(
            planned.settings, planned.plan.recipe, planned.recipe_arguments, planned.plan.init, words.synonyms
        )
    where = {"output": arguments.output, "device": arguments.device}
    if arguments.folds:
        return train_folds(arguments.data, arguments.folds, chosen, asked=_asked(arguments), **where)
    return train(arguments.data, **where, **chosen.keywords)


def _resume(arguments: argparse.Namespace, words: _Words) -> Path:
    from maskrcnn.training.folds import FOLDS, resume_folds
    from maskrcnn.training.loop import resume_training

    if (arguments.output / FOLDS).exists():
        return resume_folds(arguments.data, output=arguments.output, device=arguments.device)
    return resume_training(
        arguments.data,
        recipe=arguments.recipe,
        recipe_arguments=words.recipe_arguments,
        output=arguments.output,
        device=arguments.device,
        settings=words.settings,
    )


class _Words(NamedTuple):
    """What the words of the command mean."""

    settings: dict[str, Any]
    recipe_arguments: dict[str, Any]
    synonyms: dict[str, str]

    @property
    def has_length(self) -> bool:
        """Whether the settings say how long the training is, so that none is planned."""
        return not {"length.steps", "length.time_limit"}.isdisjoint(self.settings)


def _read_words(arguments: argparse.Namespace) -> _Words:
    """Read the arguments. Raises ValueError for all that cannot be meant, at once."""
    from maskrcnn.device import resolve_device
    from maskrcnn.recipes import options_of_recipe
    from maskrcnn.training.folds import check_folds
    from maskrcnn.training.setup import refuse_to_overwrite

    words = _Words({}, {}, {})
    with all_faults() as attempt:
        with attempt():
            settings, recipe_arguments = read_sets(arguments.sets)
            words = words._replace(settings=settings, recipe_arguments=recipe_arguments)
        with attempt():
            words = words._replace(synonyms=dict(_pair(text) for text in arguments.synonyms))
        with attempt():
            resolve_device(arguments.device)
        if arguments.recipe:
            with attempt():
                options_of_recipe(arguments.recipe)
        if not arguments.resume:
            with attempt():
                refuse_to_overwrite(arguments.output)
            with attempt():
                with_values(Settings(), words.settings)
            if arguments.folds is not None:
                with attempt():
                    check_folds(arguments.data, arguments.folds, arguments.output)
        for contradiction in _contradictions(arguments, words.has_length):
            with attempt():
                raise ValueError(contradiction)
    return words


def _contradictions(arguments: argparse.Namespace, has_length: bool) -> Iterator[str]:
    from maskrcnn.training.folds import FOLDS, read_folds

    if arguments.resume and (arguments.output / FOLDS).exists():
        kept = read_folds(arguments.output).asked
        for flag, value in _asked(arguments).items():
            if value and value != kept.get(flag):
                yield (
                    f"--{flag} {value} is for a new training: that in {arguments.output} began with "
                    f"{kept.get(flag)}"
                )
        return
    if arguments.resume:
        for flag in ("init", "synonyms", "minutes", "plan", "folds"):
            if getattr(arguments, flag):
                yield f"--{flag} is for a new training: --resume goes on with that of last.pt"
        return
    if has_length and (arguments.plan or arguments.minutes):
        yield "--set steps or time_limit contradicts --minutes and --plan: give one of them"
    if has_length and arguments.init == "auto":
        yield (
            "--init auto is a choice of the plan, which --set steps or time_limit replaces: give a file, a "
            "published name or none, or --minutes"
        )
    if arguments.plan and (arguments.minutes or arguments.recipe):
        yield "--plan has a length and a recipe: edit the file instead of --minutes or --recipe"
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not arguments.plan and not has_length:
        yield (
            "several processes need one plan: make it by `maskrcnn plan DATA --output plan.json`, then train "
            "with --plan plan.json, or give the length by --set steps=…"
        )


def _asked(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the words of the command that only a new training can follow."""
    flags = ("folds", "minutes", "plan", "recipe", "init", "synonyms")
    values = {flag: getattr(arguments, flag) for flag in flags} | {"set": arguments.sets}
    return {flag: str(value) if isinstance(value, Path) else value for flag, value in values.items()}


def _planned(arguments: argparse.Namespace, values: dict[str, Any]) -> Planned:
    """Return the plan of --plan, or of the data, and show it."""
    from rich import print as print_table

    from maskrcnn.plan.make import describe_length, download, plan_from_file
    from maskrcnn.plan.write import plan_table

    if arguments.plan:
        planned = plan_from_file(arguments.data, arguments.plan, values, arguments.device)
        if arguments.init not in (None, "auto"):
            init = None if arguments.init == "none" else arguments.init
            planned = planned._replace(plan=planned.plan.replaced({"init": init}, "set by --init"))
    else:
        minutes = arguments.minutes and arguments.minutes / (1 + (arguments.folds or 0))
        each = argparse.Namespace(**{**vars(arguments), "minutes": minutes})
        planned = planned_by(each, values, download)
    if is_first_process():
        print(describe_length(planned), flush=True)
        print_table(plan_table(planned.plan))
    return planned


def is_first_process() -> bool:
    """Return whether this is the process that prints and writes, the first of those of torchrun."""
    return os.environ.get("RANK", "0") == "0"


def _pair(text: str) -> tuple[str, str]:
    name, equals, init_name = text.partition("=")
    if not equals:
        raise ValueError(f"--synonyms {text}: expected NAME=INIT_NAME, such as lorry=truck")
    return name, init_name
