"""What an exported file says of its network."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import GenericAlias
from typing import Any, get_args, get_origin, get_type_hints

KEY = "maskrcnn"  # under which a file keeps its description


@dataclass(frozen=True)
class Description:
    """What it takes to look at pictures with an exported network and to say what it sees."""

    recipe: str
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    keypoint_names: tuple[str, ...]
    skeleton: tuple[tuple[int, ...], ...]
    short_side: int | None  # of pictures, px; None: as in the file
    long_side: int
    size_hw: tuple[int, int] | None  # of the input; None: any from `least_side` on
    least_side: int
    stride: int  # divides the sides of the input
    batch: int | None  # pictures at a time; None: any number
    channels: int
    # What the graph does itself, for who wants to know: on the scale 0 … 255, in the order that it uses.
    pixel_mean: tuple[float, ...]
    pixel_std: tuple[float, ...]
    bgr: bool
    max_detections: int
    score_threshold: float

    def to_json(self) -> str:
        """Return it as text."""
        return json.dumps(asdict(self), allow_nan=False)


def read_description(text: str | None, path: Path) -> Description:
    """Return the description that `text` holds. Raises ValueError, naming the file, where it holds none."""
    kinds = get_type_hints(Description)
    try:
        values = json.loads(text or "")
    except ValueError as error:
        raise ValueError(
            f"{path} does not say what it finds: it was not written by maskrcnn export"
        ) from error
    names = [field.name for field in fields(Description)]
    if not isinstance(values, dict) or sorted(values) != sorted(names):
        raise ValueError(f"{path} was written by another version of maskrcnn export: export it again")
    values = {name: _tuples(values[name]) for name in names}
    for name, value in values.items():
        if not _is(value, kinds[name]):
            raise ValueError(f"{path}: {name} is {value!r:.60}")
    if not len(values["class_names"]) == len(values["category_ids"]) > 0:
        raise ValueError(f"{path}: there are not as many category ids as class names")
    return Description(**values)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _is(value: Any, kind: Any) -> bool:
    """Whether a value of JSON is of a kind that `Description` has."""
    if isinstance(kind, GenericAlias):
        first, *rest = get_args(kind)
        fits = isinstance(value, tuple) and (rest == [...] or len(value) == 1 + len(rest))
        return fits and all(_is(item, first) for item in value)
    if get_origin(kind) is not None or not isinstance(kind, type):  # a union
        return any(_is(value, one) for one in get_args(kind))
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
