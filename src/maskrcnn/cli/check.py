"""``maskrcnn check``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from maskrcnn.cli.arguments import Commands
from maskrcnn.messages import counted

if TYPE_CHECKING:
    from maskrcnn.data.doctor.findings import Report


def add(commands: Commands) -> None:
    """Add the command's arguments."""
    parser = commands.add_parser("check", help="list the faults of a data set, and mend its annotations")
    parser.add_argument("data", type=Path, metavar="DATA", help="folder in the layout of COCO or Roboflow")
    parser.add_argument(
        "--fix",
        type=Path,
        metavar="OUT",
        help="write a repaired copy of the annotation files into this folder, and list the changes",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the findings to this file")
    parser.add_argument(
        "--draw",
        type=Path,
        metavar="FOLDER",
        help="draw the pictures with the worst findings, 24 at most, as PNG files into this folder",
    )
    parser.set_defaults(command=run)


def check_first(data: Path) -> Report | None:
    """Check annotations and headers before they are used, print a summary, and return the findings.

    What cannot be checked, a folder without annotation files or Cityscapes' layout, is left to its reader.
    """
    from maskrcnn.data.doctor.check import check_quickly

    try:
        report = check_quickly(data)
    except (ValueError, FileNotFoundError):
        return None
    if summary := report.summary(data):
        print(summary, flush=True)
    return report


def run(arguments: argparse.Namespace) -> int:
    """Run the command; the exit status is 1 if there are errors or warnings."""
    from rich import print as print_tables

    from maskrcnn.data.doctor.check import check_splits, open_splits
    from maskrcnn.data.doctor.draw import draw_worst
    from maskrcnn.data.doctor.findings import Report
    from maskrcnn.data.doctor.fix import fix

    report = Report()
    splits = open_splits(arguments.data, report)
    print_tables(check_splits(splits, report).table())
    if arguments.draw:
        drawn = draw_worst(splits, report, arguments.draw)
        print(f"drawings of {counted(len(drawn), 'picture')} {arguments.draw}")
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        report.write(arguments.json)
        print(f"findings {arguments.json}")
    if arguments.fix:
        for repair in fix(arguments.data, arguments.fix):
            print_tables(repair.table())
    return 0 if report.clean else 1
