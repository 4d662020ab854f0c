"""The command line: ``maskrcnn COMMAND``; each command has a file of its own, which imports what it needs."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence

from maskrcnn.cli import bench, demo, evaluate, export, paper, predict, train, weights

_INTERRUPTED = 130  # what a shell reports after Ctrl-C
_COMMANDS = (demo, train, evaluate, predict, bench, export, weights, paper)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return 0, 1 when not all could be done, 2 for a mistake in what was asked."""
    arguments = _parser().parse_args(argv)
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: print(f"maskrcnn: {message}", file=sys.stderr)
        try:
            return arguments.command(arguments)
        except (ValueError, FileNotFoundError) as error:
            print(f"maskrcnn: {error}", file=sys.stderr)
            return 2
        except FloatingPointError as error:
            print(f"maskrcnn: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            return _INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="maskrcnn", description="Mask R-CNN: train, evaluate and predict.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in _COMMANDS:
        command.add(commands)
    return parser
