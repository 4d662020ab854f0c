"""``maskrcnn check``."""

from __future__ import annotations

import argparse
from pathlib import Path

from maskrcnn.cli.arguments import Commands


def add(commands: Commands) -> None:
    """Add the command and its arguments."""
    parser = commands.add_parser(
        "check",
        help="look for faults in the pictures and annotations of a data set",
        description="Reads all annotations and pictures of a data set in COCO's format and lists what is "
        "wrong, by kind, with the first places and the mend. Exit status: 0 nothing is wrong, 1 there are "
        "errors or warnings.",
    )
    parser.add_argument("data", type=Path, metavar="DATA", help="folder of a data set, as for `train`")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all findings to this file")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the command; return its exit status."""
    from maskrcnn.data.doctor.examine import examine
    from maskrcnn.data.doctor.findings import findings_json, findings_text, grouped
    from maskrcnn.files import write_json

    groups = grouped(examine(arguments.data))
    if groups:
        print(findings_text(groups))
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        write_json(arguments.json, findings_json(groups))
    counts = {
        severity: sum(len(found) for kind, found in groups.items() if kind.severity == severity)
        for severity in ("error", "warning", "note")
    }
    print(", ".join(f"{count:,} {severity}{'s' * (count != 1)}" for severity, count in counts.items()))
    return 1 if counts["error"] or counts["warning"] else 0
