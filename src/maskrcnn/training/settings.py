"""Every number of a training, with the paper's as defaults, and how ``--set field=value`` changes one.

This file imports nothing heavy, so that the command line can explain itself at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from maskrcnn.plain import Option, parse_assignments


def _of(default: Any, meaning: str) -> Any:
    return field(default=default, metadata={"meaning": meaning})


@dataclass(frozen=True)
class Settings:
    """The numbers of a training; one that makes no sense raises ValueError.

    The defaults are those of He et al. (2017), §3.1, in the length that became usual: 16 pictures a step,
    rate 0.02, ninety thousand steps. A step of another size gets its rate by the linear rule of Goyal et al.
    (2017), §2.1: half the pictures, half the rate.
    """

    # Length
    steps: int = _of(90_000, "updates of the weights")
    time_limit: float | None = _of(None, "minutes, evaluations included; the schedule then runs on the clock")
    seed: int = _of(0, "of the weights, the order of the pictures, their augmentation and the sampling")

    # One step
    batch_size: int = _of(16, "pictures that go through the network at once, in all processes together")
    accumulate: int = _of(
        1, "batches that make one step; 8 of 2 are the paper's 16 in an eighth of the memory"
    )
    precision: Literal["float32", "bf16", "fp16"] = _of("float32", "of the network's arithmetic")
    compiled: bool = _of(False, "true: by torch.compile, minutes at first, for faster steps on a GPU")
    optimiser: Literal["sgd", "adamw"] = _of("sgd", "sgd has momentum")
    lr: float | None = _of(
        None, "learning rate; none: 0.02 (adamw 0.0002) for 16 pictures a step, in proportion"
    )
    momentum: float = _of(0.9, "of sgd")
    weight_decay: float = _of(1e-4, "of every weight")
    decay_norms_and_biases: bool = _of(True, "false spares them the weight decay")
    gradient_clip: float | None = _of(None, "largest norm of the gradient")

    # The rate over time
    warmup_steps: int = _of(1000, "steps in which the rate rises linearly")
    warmup_factor: float = _of(0.001, "share of the rate at which it begins")
    schedule: Literal["step", "cosine"] = _of("step", "how the rate falls")
    decay_at: tuple[float, ...] = _of(
        (2 / 3, 8 / 9), "shares of the training at which `step` lowers the rate"
    )
    decay_factor: float = _of(0.1, "what it is multiplied by there")

    # Pictures
    short_sides: tuple[int, ...] | None = _of(
        (800,), "pixels; of several, each picture draws one; none: as in the file"
    )
    long_side: int = _of(1333, "most pixels")
    scale: tuple[float, float] | None = _of(None, "least and largest random factor on top")
    crop: tuple[int, int] | None = _of(None, "rows, columns of a random window")
    flip_horizontal: float = _of(0.5, "probability")
    flip_vertical: float = _of(0.0, "probability")
    jitter: tuple[float, float, float] | None = _of(None, "most change of brightness, contrast, saturation")
    test_short_side: int | None = _of(None, "in evaluation and prediction; none: the largest of short_sides")
    test_long_side: int | None = _of(None, "the same; none: long_side")
    workers: int = _of(2, "processes that read pictures")

    # What is written, and when
    log_every: int = _of(20, "steps")
    save_every: int = _of(1000, "steps; the end saves too")
    eval_every: int | None = _of(5000, "steps; the end evaluates too; none: only then; 0: never")

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulate", "log_every", "save_every"):
            _check(self, name, getattr(self, name) >= 1, "at least 1")
        for name in ("warmup_steps", "workers", "weight_decay", "seed", "eval_every"):
            _check(self, name, (getattr(self, name) or 0) >= 0, "0 or more")
        for name in ("lr", "time_limit", "gradient_clip", "test_short_side", "test_long_side"):
            _check(self, name, getattr(self, name) is None or getattr(self, name) > 0, "more than 0, or none")
        for name in ("flip_horizontal", "flip_vertical", "momentum", "warmup_factor", "decay_factor"):
            _check(self, name, 0 <= getattr(self, name) <= 1, "from 0 to 1")
        for name in ("short_sides", "long_side", "crop", "scale"):
            value = getattr(self, name)
            values = value if isinstance(value, tuple) else (value,)
            good = bool(values) and all(side is None or side > 0 for side in values)
            _check(self, name, good, "more than 0")
        _check(
            self, "decay_at", all(0 <= at <= 1 for at in self.decay_at), "shares of the training, from 0 to 1"
        )

    @property
    def pictures(self) -> int:
        """Pictures of one step."""
        return self.batch_size * self.accumulate

    @property
    def peak_lr(self) -> float:
        """The learning rate after warm-up."""
        if self.lr is not None:
            return self.lr
        return {"sgd": 0.02, "adamw": 0.0002}[self.optimiser] * self.pictures / 16

    @property
    def test_sides(self) -> tuple[int | None, int]:
        """Short and long side of the pictures in evaluation and prediction."""
        largest = max(self.short_sides) if self.short_sides else None
        return self.test_short_side or largest, self.test_long_side or self.long_side


def _check(settings: Settings, name: str, good: bool, expected: str) -> None:
    if not good:
        raise ValueError(f"{name} must be {expected}, not {_written(getattr(settings, name))}")


def parse_sets(
    sets: Iterable[str], recipe_options: Mapping[str, Option], base: Settings | None = None
) -> tuple[Settings, dict[str, Any]]:
    """Read ``name=value`` texts: settings on top of `base`, and options of a recipe by their dotted names."""
    kinds = get_type_hints(Settings)
    values: dict[str, Any] = {}
    others: list[str] = []
    for text in sets:
        name, equals, value = text.partition("=")
        if not equals or name not in kinds:
            others.append(text)
        else:
            values[name] = _read(value, kinds[name], f"--set {text}")
    fields_ = {name: Option(kind, None, "") for name, kind in kinds.items()}
    return replace(base or Settings(), **values), parse_assignments(others, recipe_options, fields_)


def settings_from(values: Mapping[str, Any]) -> Settings:
    """Rebuild settings from a checkpoint's plain values; ValueError where they make no sense here."""
    try:
        return Settings(**values)
    except TypeError as error:
        raise ValueError(f"settings of another version: {error}") from None


def explain() -> str:
    """Return every setting with its default and meaning, a line each."""
    lines = [f"{f'{f.name}={_written(f.default)}':32} {f.metadata['meaning']}" for f in fields(Settings)]
    return "\n".join(f"  {line}" for line in lines)


def _read(text: str, kind: Any, where: str) -> Any:
    """Read `text` as the annotated `kind`."""
    try:
        return _value(text.strip(), kind)
    except (ValueError, KeyError):
        raise ValueError(f"{where}: expected {_words(kind)}") from None


def _value(text: str, kind: Any) -> Any:
    parts = get_args(kind)
    if get_origin(kind) in (Union, UnionType):
        return _first(text, parts)
    if get_origin(kind) is Literal:
        return parts[[str(part) for part in parts].index(text)]
    if get_origin(kind) in (tuple, Sequence):
        texts = [part for part in text.split(",") if part]
        each = parts[:1] * len(texts) if get_origin(kind) is Sequence or parts[-1] is ... else parts
        return tuple(_value(part, kind) for part, kind in zip(texts, each, strict=True))
    if kind in (bool, NoneType):
        words = {"true": True, "false": False} if kind is bool else {"none": None}
        return words[text.lower()]
    if kind not in (int, float, str):
        raise ValueError
    value = kind(text)
    if kind is float and not math.isfinite(value):
        raise ValueError
    return value


def _first(text: str, kinds: Sequence[Any]) -> Any:
    """Read `text` as the first kind that takes it; none before words, or "none" would be a word."""
    for kind in sorted(kinds, key=lambda kind: kind is not NoneType):
        try:
            return _value(text, kind)
        except (ValueError, KeyError):
            continue
    raise ValueError


def _words(kind: Any) -> str:
    parts = get_args(kind)
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(_words(part) for part in parts)
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, parts))}"
    if get_origin(kind) in (tuple, Sequence):
        many = get_origin(kind) is Sequence or parts[-1] is ...
        return (
            f"{_words(parts[0])}s with commas" if many else f"{len(parts)} of {_words(parts[0])} with commas"
        )
    names = {int: "whole number", float: "number", bool: "true or false", str: "word", NoneType: "none"}
    return names.get(kind, "what no text can give: call the recipe in Python")


def _written(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(_written, value))
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)
