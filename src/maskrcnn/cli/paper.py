"""``maskrcnn paper``."""

from __future__ import annotations

import argparse
from pathlib import Path

from maskrcnn.cli.arguments import Commands, add_sets, read_sets
from maskrcnn.plain import with_values


def add(commands: Commands) -> None:
    """Add the command's arguments."""
    parser = commands.add_parser(
        "paper", help="the paper's tables: list them, or train and evaluate their networks"
    )
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    actions.add_parser("list", help="list every row with its published figures").set_defaults(command=_list)
    run = actions.add_parser(
        "run", help="train and evaluate the networks of a table, and compare with the published figures"
    )
    run.add_argument("table", metavar="TABLE", help="name of a table, such as 2c (see maskrcnn paper list)")
    run.add_argument("rows", nargs="*", metavar="ROW", help="names of rows (default: all)")
    run.add_argument(
        "--data", type=Path, required=True, metavar="DATA", help="folder in the layout of COCO or Cityscapes"
    )
    run.add_argument(
        "--output",
        type=Path,
        default=Path("runs/paper"),
        metavar="DIR",
        help="folder for networks and reports (default: runs/paper)",
    )
    run.add_argument(
        "--scale", choices=("full", "small"), default="full", help="the paper's schedule, or a short one"
    )
    run.add_argument(
        "--body", help="another backbone, such as resnet18 for smaller machines (default: the row's own)"
    )
    run.add_argument(
        "--init",
        metavar="WEIGHTS",
        help="initial weights (default: ImageNet's for --scale full, none for small)",
    )
    run.add_argument(
        "--seeds", type=int, default=1, metavar="N", help="train each row with N seeds (default: 1)"
    )
    add_sets(run)
    run.set_defaults(command=_run)


def _list(arguments: argparse.Namespace) -> int:
    from rich import print as print_table

    from maskrcnn.paper.tables import listed

    print_table(listed())
    return 0


def _run(arguments: argparse.Namespace) -> int:
    from rich import print as print_table

    from maskrcnn.paper.run import IMAGENET, run_table, settings_of
    from maskrcnn.paper.tables import chosen

    if arguments.seeds < 1:
        raise ValueError(f"--seeds must be at least 1, not {arguments.seeds}")
    table = chosen(arguments.table, arguments.rows, arguments.body)
    values, options = read_sets(arguments.sets)
    report = run_table(
        table,
        arguments.data,
        arguments.output / arguments.table,
        settings=lambda row: with_values(settings_of(table, row, arguments.scale), values),
        seeds=arguments.seeds,
        init=arguments.init or (IMAGENET if arguments.scale == "full" else None),
        options=options,
    )
    print_table(report.printed)
    print(f"figures {report.figures}\npage {report.page}")
    return 0
