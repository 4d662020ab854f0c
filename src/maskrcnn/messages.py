"""Words for people who mistyped something."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

_LISTED = 8


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a question for the known name that is most like `name`, or some of those that there are."""
    names = list(known)
    likely = get_close_matches(name, names, n=1)
    if likely:
        return f"did you mean {likely[0]}?"
    return f"there are {first_few(names, _LISTED)}"


def first_few(items: Sequence[object], limit: int = 5) -> str:
    """Return the first `limit` items, separated by commas, and how many more there are."""
    more = f" and {len(items) - limit} more" if len(items) > limit else ""
    return ", ".join(map(str, items[:limit])) + more
