"""Suggestions for names that are not known."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

_LISTED = 8


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a suggestion: the known name that is most similar to `name`, or the first of the known names."""
    names = list(known)
    similar = get_close_matches(name, names, n=1)
    if similar:
        return f"did you mean {similar[0]}?"
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"there are {', '.join(names[:_LISTED])}{more}"
