"""Options as groups of plain values: dataclasses that checkpoints and files keep and ``--set`` changes.

An options object is a frozen dataclass. Its fields are plain values (numbers, texts, booleans, None, tuples
of these) or groups, which are further dataclasses of this kind. Every plain value has a dotted name, such as
``optimiser.lr``. A group that may be absent is annotated ``Group | None``; its own name then removes it:
``masks=none``.

This file imports nothing heavy, so that the command line can explain itself at once.
"""

from __future__ import annotations

import math
import reprlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, asdict, field, fields, is_dataclass, replace
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

from maskrcnn.messages import all_faults, nearest

T = TypeVar("T")
_LARGEST = sys.float_info.max


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _hints_of(options: Any) -> dict[str, Any]:
    kind: Any = type(options)
    return _hints(kind)


class Option(NamedTuple):
    """A plain value of an options object: its annotation, its present value and what it means."""

    kind: Any
    value: Any
    meaning: str


def option(default: Any, meaning: str) -> Any:
    """Return a dataclass field with a default and the text that ``--help`` prints for it."""
    return field(default=default, metadata={"meaning": meaning})


def options_of(options: Any) -> dict[str, Option]:
    """Return the plain values of an options object by their dotted names, absent groups included."""
    listed: dict[str, Option] = {}
    for part in fields(options):
        kind, value = _hints_of(options)[part.name], getattr(options, part.name)
        meaning = part.metadata.get("meaning", "")
        group = _group_of(kind)
        if group is None:
            listed[part.name] = Option(kind, value, meaning)
            continue
        if NoneType in get_args(kind):
            listed[part.name] = Option(NoneType, value, meaning)
        inner = options_of(group() if value is None else value)
        listed |= {f"{part.name}.{name}": entry for name, entry in inner.items()}
    return listed


def values_of(options: Any) -> dict[str, Any]:
    """Return the plain values of an options object by their dotted names; an absent group is one None."""
    flat: dict[str, Any] = {}
    for part in fields(options):
        value = getattr(options, part.name)
        if is_dataclass(value):
            flat |= {f"{part.name}.{name}": inner for name, inner in values_of(value).items()}
        else:
            flat[part.name] = value
    return flat


def changed_values(options: Any, base: Any) -> dict[str, Any]:
    """Return the values of `options` that differ from those of `base`, by their dotted names."""
    usual = values_of(base)
    return {name: value for name, value in values_of(options).items() if usual.get(name, MISSING) != value}


def with_values(options: T, values: Mapping[str, Any]) -> T:
    """Return `options` with some values replaced, given by their dotted names.

    A value inside an absent group brings the group back. Lists are taken as tuples. Raises ValueError for a
    name that does not exist (and suggests one), for a value of the wrong type and for one out of range.
    """
    known = options_of(options)
    with all_faults() as attempt:
        for name, value in values.items():
            with attempt():
                options = _with_value(options, name, _as_tuples(value), known)
    return options


def _with_value(options: T, name: str, value: Any, known: Mapping[str, Option]) -> T:
    if name not in known:
        raise ValueError(f"there is no option {name}; {nearest(name, known)}")
    if not is_kind(value, known[name].kind):
        raise ValueError(f"{name} must be {describe_kind(known[name].kind)}, not {reprlib.repr(value)}")
    return _replaced(options, name.split("."), value)


def _replaced(options: Any, path: Sequence[str], value: Any) -> Any:
    name, *rest = path
    if not rest:
        return replace(options, **{name: value})
    group = getattr(options, name)
    if group is None:
        made = _group_of(_hints_of(options)[name])
        assert made is not None
        group = made()
    return replace(options, **{name: _replaced(group, rest, value)})


def _group_of(kind: Any) -> type | None:
    """Return the dataclass that an annotation names, alone or beside None."""
    return next((part for part in (kind, *get_args(kind)) if is_dataclass(part)), None)  # type: ignore[return-value]


# --- the plain form of a file ---


def to_plain(value: Any) -> dict[str, Any]:
    """Return a dataclass as nested dictionaries of plain values."""
    return asdict(value)


def from_plain(kind: type[T], values: Any) -> T:
    """Return the dataclass that `to_plain` made `values` of; lists are taken as tuples.

    A value that is missing has its default: an older version did not know it. Raises ValueError that names
    the field where values without a default are missing, and where they are unknown, of a wrong type or out
    of range.
    """
    return _from_plain(kind, values, "")


def _from_plain(kind: Any, values: Any, place: str) -> Any:
    names = [part.name for part in fields(kind)]
    needed = {part.name for part in fields(kind) if part.default is part.default_factory is MISSING}
    if not isinstance(values, Mapping) or not needed <= set(values) <= set(names):
        have = ", ".join(map(str, values)) if isinstance(values, Mapping) else type(values).__name__
        raise ValueError(f"{place or kind.__name__} should hold {', '.join(names)}, but holds {have:.200}")
    built = {}
    for name in values:
        hint, where = _hints(kind)[name], f"{place}{name}"
        value, group = _as_tuples(values[name]), _group_of(_hints(kind)[name])
        if group is not None and isinstance(value, Mapping):
            built[name] = _from_plain(group, value, f"{where}.")
        elif is_kind(value, hint):
            built[name] = value
        else:
            raise ValueError(f"{where} must be {describe_kind(hint)}, not {reprlib.repr(value)}")
    return kind(**built)


def _as_tuples(value: Any, depth: int = 4) -> Any:
    """Return lists as tuples; no option is a list of lists of lists of lists."""
    if depth and isinstance(value, list | tuple):
        return tuple(_as_tuples(part, depth - 1) for part in value)
    return value


def is_kind(value: Any, kind: Any) -> bool:
    """Say whether a plain value is what an annotation asks for. A whole number is a number, a bool is not."""
    origin, parts = get_origin(kind), get_args(kind)
    if kind is Any:
        return True
    if origin in (Union, UnionType):
        return any(is_kind(value, part) for part in parts)
    if origin is Literal:
        return any(value == part and type(value) is type(part) for part in parts)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        each = parts[:1] * len(value) if parts[-1] is ... else parts
        return len(value) == len(each) and all(map(is_kind, value, each))
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _LARGEST
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, origin or kind)


# --- the texts of a command line ---


def parse_assignments(texts: Iterable[str], *groups: Mapping[str, Option]) -> dict[str, Any]:
    """Read ``name=value`` texts; return the values by their dotted names in `groups` (see `options_of`).

    The last part of a name is enough where only one option ends in it: ``lr=0.01`` for ``optimiser.lr``.
    Values are numbers, true and false, none, words, and lists with commas (``640,800``). Raises ValueError
    for an unknown or ambiguous name and for a value of the wrong type.
    """
    known = {name: entry for group in groups for name, entry in group.items()}
    values: dict[str, Any] = {}
    with all_faults() as attempt:
        for text in texts:
            with attempt():
                full, value = _parse_assignment(text, known)
                values[full] = value
    return values


def _parse_assignment(text: str, known: Mapping[str, Option]) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"--set {text}: expected name=value")
    full = _full_name(name, known)
    try:
        return full, parse_value(value.strip(), known[full].kind)
    except (ValueError, KeyError):
        raise ValueError(f"--set {text}: expected {describe_kind(known[full].kind)}") from None


def _full_name(name: str, known: Iterable[str]) -> str:
    names = list(known)
    if name in names:
        return name
    ending = [full for full in names if full.endswith(f".{name}")]
    if len(ending) > 1:
        raise ValueError(f"--set {name}: several options end in {name}; choose one of {', '.join(ending)}")
    if not ending:
        short = {full.rpartition(".")[2] for full in names}
        raise ValueError(f"--set {name}: there is no such option; {nearest(name, [*names, *sorted(short)])}")
    return ending[0]


def parse_value(text: str, kind: Any) -> Any:
    """Read a text as the value that an annotation asks for. Raises ValueError or KeyError for another."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return _first_that_fits(text, parts)
    if origin is Literal:
        return parts[[str(part) for part in parts].index(text)]
    if origin is tuple:
        texts = [part for part in text.split(",") if part]
        each = parts[:1] * len(texts) if parts[-1] is ... else parts
        return tuple(parse_value(part, kind) for part, kind in zip(texts, each, strict=True))
    if kind in (bool, NoneType):
        words = {"true": True, "false": False} if kind is bool else {"none": None}
        return words[text.lower()]
    if kind not in (int, float, str):
        raise ValueError
    value = kind(text)
    if kind is float and not math.isfinite(value):
        raise ValueError
    return value


def _first_that_fits(text: str, kinds: Sequence[Any]) -> Any:
    for kind in sorted(kinds, key=lambda kind: kind is not NoneType):  # before str, which would take "none"
        try:
            return parse_value(text, kind)
        except (ValueError, KeyError):
            continue
    raise ValueError


def describe_kind(kind: Any) -> str:
    """Return what an annotation asks for, in words."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return " or ".join(describe_kind(part) for part in parts)
    if origin is Literal:
        return f"one of {', '.join(map(str, parts))}"
    if origin is tuple and parts[-1] is ...:
        return f"a list with commas, each {describe_kind(parts[0])}"
    if origin is tuple:
        return f"{len(parts)} values with commas, each {describe_kind(parts[0])}"
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "a word", NoneType: "none"}
    return words.get(kind, getattr(kind, "__name__", str(kind)))


def format_value(value: Any) -> str:
    """Return a value as `parse_value` reads it."""
    if isinstance(value, tuple):
        return ",".join(map(format_value, value))
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def explain(options: Any) -> str:
    """Return the options that have a meaning, a line each: name, present value, meaning."""
    listed = options_of(options).items()
    lines = [
        f"  {f'{name}={format_value(entry.value)}':40} {entry.meaning}"
        for name, entry in listed
        if entry.meaning and entry.kind is not NoneType
    ]
    return "\n".join(lines)
