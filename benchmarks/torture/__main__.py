"""Tries to break the library, and prints what was tried and what was lost: that must be nothing.

    python benchmarks/torture                                 an hour
    python benchmarks/torture --short                         five minutes
    python benchmarks/torture --only kills signals            some of the trials
    python benchmarks/torture --only files --count 100000     more mutated files
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from files import try_files
from processes import TRIALS, Bench

_SHORT = ("files", "signals", "full_disk", "two_at_once")


def main() -> int:
    names = ["files", *(trial.__name__ for trial in TRIALS)]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help=f"only {', '.join(_SHORT)}, and 600 files")
    parser.add_argument("--only", nargs="+", choices=names, help="some of the trials")
    parser.add_argument("--count", type=int, help="mutated files (default: 10,000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for what the trials write; damaged files are in faults/")
    arguments = parser.parse_args()
    chosen = arguments.only or (_SHORT if arguments.short else names)
    count = arguments.count or (600 if arguments.short else 10_000)
    faults = tried = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary)
        bench = Bench(folder / "trials", random.Random(arguments.seed))
        for name, lines in trials(chosen, folder, bench, count, arguments.seed):
            start = time.monotonic()
            found = list(lines)
            print(f"{name}: {len(found) or 'no'} faults, {time.monotonic() - start:.0f} s", flush=True)
            print("".join(f"    {fault}\n" for fault in found), end="", flush=True)
            tried, faults = tried + 1, faults + len(found)
    print(f"{tried} trials, {faults} faults")
    return 1 if faults else 0


def trials(
    chosen: list[str], folder: Path, bench: Bench, count: int, seed: int
) -> Iterator[tuple[str, list[str] | Iterator[str]]]:
    """Yield the name of each trial, and its faults as they turn up."""
    if "files" in chosen:
        for kind in try_files(folder / "files", count, seed):
            ends = ", ".join(f"{number} {end}" for end, number in kind.ends.most_common())
            yield f"{kind.kind}: {ends}", kind.faults
    for trial in TRIALS:
        if trial.__name__ in chosen:
            assert trial.__doc__ is not None
            yield f"{trial.__name__} ({trial.__doc__.splitlines()[0]})", trial(bench)


if __name__ == "__main__":
    raise SystemExit(main())
