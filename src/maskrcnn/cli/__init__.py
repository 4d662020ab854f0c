"""The command line: ``maskrcnn COMMAND``; each command has a file of its own, which imports what it needs."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import traceback
import warnings
from collections.abc import Sequence
from importlib import metadata
from typing import Any

from maskrcnn import __version__
from maskrcnn.cli import bench, check, demo, evaluate, export, paper, plan, predict, train, weights
from maskrcnn.cli.errors import FAILED, INTERRUPTED, explain

_COMMANDS = (demo, check, plan, train, evaluate, predict, bench, export, weights, paper)
_DEBUG = "MASKRCNN_DEBUG"
_EPILOG = f"""\
exit status: 0 all done, 1 something failed, 2 a mistake in the command or its files, 3 the loss or the weights
are not finite; 130 interrupted by Ctrl-C, 143 by SIGTERM, 128 + N by signal N, each with everything saved.
{_DEBUG}=1 in the environment shows the traceback of an error.
Files that can be made again are kept in $MASKRCNN_CACHE (default: ~/.cache/maskrcnn)."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status, as the epilog of ``maskrcnn --help`` defines it.

    Errors that a user can cause end in one sentence on stderr; a bug raises, with its traceback.
    """
    arguments = _parser().parse_args(argv)
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: print(f"maskrcnn: {message}", file=sys.stderr)
        try:
            status = arguments.command(arguments)
            sys.stdout.flush()  # here, where a reader that has gone is noticed
            return status
        except KeyboardInterrupt:
            return INTERRUPTED
        except BrokenPipeError:  # as of `maskrcnn weights list | head -1`: nobody reads what would be printed
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return FAILED
        except Exception as error:
            explanation = explain(error)
            if explanation is None:
                raise
            if os.environ.get(_DEBUG, "0") not in ("", "0"):
                traceback.print_exc()
            print(f"maskrcnn: {explanation.sentence}", file=sys.stderr)
            return explanation.status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="maskrcnn",
        description="Mask R-CNN: train, evaluate, predict and export.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=_EPILOG,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the versions and exit")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in _COMMANDS:
        command.add(commands)
    return parser


class _Version(argparse.Action):
    """Looks the versions up only when they are asked for, without an import of torch."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        torch = metadata.version("torch")
        print(f"maskrcnn {__version__} (PyTorch {torch}, Python {platform.python_version()})")
        parser.exit()
