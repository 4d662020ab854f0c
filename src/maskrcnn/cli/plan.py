"""``maskrcnn plan``."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskrcnn.cli.arguments import Commands, add_device, add_sets, read_sets

if TYPE_CHECKING:
    from maskrcnn.plan.make import Planned
    from maskrcnn.weights.published import Published


def add(commands: Commands) -> None:
    """Add the command and its arguments."""
    parser = commands.add_parser(
        "plan",
        help="show how `train` would train on these pictures, and why",
        description="Plan a training: looks at the pictures, their annotations and this machine, and shows "
        "the settings that `maskrcnn train` would take, with a reason each.",
    )
    parser.add_argument("data", type=Path, metavar="DATA", help="folder of a data set, as for `train`")
    add_wish(parser)
    parser.add_argument("--recipe", help="network, where the plan should not choose one")
    parser.add_argument(
        "--init", metavar="WEIGHTS", help="weights to start from, as for `train`; none is downloaded"
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="write the plan to this file, for `train --plan FILE`"
    )
    add_device(parser)
    add_sets(parser, "replace lines of the plan")
    parser.set_defaults(command=run)


def add_wish(parser: argparse.ArgumentParser) -> None:
    """Add --minutes."""
    parser.add_argument(
        "--minutes",
        type=float,
        metavar="T",
        help="time for the training (default: as many passes over the pictures as such data need)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the command; return its exit status."""
    from rich import print as print_table

    from maskrcnn.data.folder import has_split
    from maskrcnn.plan.make import describe_length
    from maskrcnn.plan.write import plan_table, write_plan
    from maskrcnn.training.setup import folds_hint

    settings, recipe_arguments = read_sets(arguments.sets)
    planned = planned_by(arguments, settings | recipe_arguments)
    hint = "" if has_split(arguments.data, "val") else folds_hint(len(planned.dataset))
    print(f"{describe_length(planned)}{hint}")
    print_table(plan_table(planned.plan))
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        write_plan(arguments.output, planned.plan, planned.fingerprint)
        print(f"plan {arguments.output}")
    return 0


def planned_by(
    arguments: argparse.Namespace,
    values: dict[str, Any],
    reach: Callable[[Published], str] | None = None,
) -> Planned:
    """Return the plan that the arguments of a command ask for; `values` and `reach` are as in `make_plan`."""
    from maskrcnn.plan.make import make_plan
    from maskrcnn.weights.download import why_unreachable

    init = arguments.init or "auto"
    return make_plan(
        arguments.data,
        minutes=arguments.minutes,
        recipe=arguments.recipe,
        init=None if init == "none" else init,
        device=arguments.device,
        values=values,
        reach=reach or why_unreachable,
    )
