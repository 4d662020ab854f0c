"""Suggestions for names that are not known."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

_LISTED = 8


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a suggestion: the known name that is most similar to `name`, or the first of the known names."""
    names = list(known)
    likely = get_close_matches(name, names, n=1)
    if likely:
        return f"did you mean {likely[0]}?"
    return f"there are {first_few(names, _LISTED)}"


def first_few(items: Sequence[object], limit: int = 5) -> str:
    """Return the first `limit` items, separated by commas, and how many more there are."""
    more = f" and {len(items) - limit} more" if len(items) > limit else ""
    return ", ".join(map(str, items[:limit])) + more
