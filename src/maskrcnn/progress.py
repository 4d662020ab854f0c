"""Progress of a long loop: a bar on a terminal, and a line every ten seconds elsewhere, both on stderr."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import TypeVar

from rich.console import Console
from rich.progress import track

T = TypeVar("T")

_INTERVAL = 10.0  # seconds between two lines


def with_progress(items: Iterable[T], title: str, total: int) -> Iterator[T]:
    """Yield the items, of which there are `total`, and show how many are done and how long the rest takes."""
    console = Console(stderr=True)
    if console.is_terminal:
        yield from track(items, title, total=total, console=console)
        return
    start = printed = time.monotonic()
    for done, item in enumerate(items):
        now = time.monotonic()
        if done and now - printed >= _INTERVAL:
            left = timedelta(seconds=round((now - start) / done * (total - done)))
            line = f"{title}: {done:,} of {total:,} ({done / total:.0%}), {left} left"
            console.print(line, markup=False, highlight=False, soft_wrap=True)
            printed = now
        yield item
