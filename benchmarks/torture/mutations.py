"""Damaged files: mutations of bytes, and of the values of a JSON file, drawn at random."""

from __future__ import annotations

import copy
import json
import math
import random
from typing import Any

# What a field can hold that its reader does not expect
ODD_VALUES: tuple[Any, ...] = (
    *(None, True, "", "7", "a\x1b[31m", "../../etc/passwd", "x" * 300, "\udc80", "/dev/zero", "CON"),
    *(0, -1, 1.5, 2**31, 2**53 + 1, 2**63, 10**310, -(10**20), 1e308, math.nan, math.inf, 5e-324),
    *([], {}, [[]], [None], [1, 2], [[0, 0, 1, 1]], {"counts": [], "size": [0, 0]}, {"counts": "\\", "size": [9]}),
    *([0] * 50, [[1e300] * 6], {"a": {"b": {}}}, [[[[[1]]]]]),
)


def mutate_bytes(content: bytes, draw: random.Random) -> bytes:
    """Return the content with bits flipped, parts removed, repeated or overwritten, or its end cut off."""
    changed = bytearray(content)
    for _ in range(draw.choice((1, 1, 1, 2, 4, 16))):
        at, size = draw.randrange(len(changed) + 1), draw.choice((1, 2, 4, 16, 256))
        match draw.randrange(6):
            case 0 if at < len(changed):
                changed[at] ^= 1 << draw.randrange(8)
            case 1:
                del changed[at : at + size]
            case 2:
                changed[at:at] = changed[at : at + size]
            case 3:
                changed[at : at + size] = draw.randbytes(size)
            case 4:
                changed[at : at + size] = draw.choice((b"\0", b"\xff", b"\x7f")) * size
            case _:
                del changed[at:]
    return bytes(changed)


def mutate_json(content: bytes, draw: random.Random) -> bytes:
    """Return JSON in which a few values are odd, absent, repeated or moved; sometimes bytes are damaged."""
    if draw.random() < 0.1:
        return mutate_bytes(content, draw)
    value = json.loads(content)
    for _ in range(draw.choice((1, 1, 2, 5))):
        place = draw.choice(list(_places(value)))
        holder, key = place
        match draw.randrange(5):
            case 0:
                del holder[key]
            case 1 if isinstance(holder, list):
                holder.append(copy.deepcopy(holder[key]))
            case 2:
                other, name = draw.choice(list(_places(value)))
                holder[key] = copy.deepcopy(other[name]) if other is not holder[key] else None
            case _:
                holder[key] = copy.deepcopy(draw.choice(ODD_VALUES))
    return json.dumps(value).encode()


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Return the container and key of every value inside `value`."""
    places: list[tuple[Any, Any]] = [({"": value}, "")]
    stack = [value]
    while stack:
        holder = stack.pop()
        items = holder.items() if isinstance(holder, dict) else enumerate(holder) if isinstance(holder, list) else ()
        for key, child in items:
            places.append((holder, key))
            stack.append(child)
    return places
