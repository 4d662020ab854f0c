"""The settings of a training, in groups; the defaults are the paper's.

A setting has a dotted name, such as ``optimiser.lr``; no two groups share the last part of a name, so that
``lr`` is enough for ``--set`` and for `Settings.of`. This file imports nothing heavy, so that ``--help`` is
immediate.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from maskrcnn.messages import nearest
from maskrcnn.plain import format_value, option, options_of, with_values

_BASE_LR = {"sgd": 0.02, "adamw": 0.0002}  # for 16 pictures a step


@dataclass(frozen=True)
class Length:
    """How long the training is."""

    steps: int | None = option(90_000, "updates of the weights; none: time_limit alone ends the training")
    time_limit: float | None = option(
        None, "minutes, evaluations included; the schedule then follows the clock"
    )
    patience: int | None = option(
        None, "evaluations in a row that gain less than 0.1 AP, after which the last decay begins early"
    )

    def __post_init__(self) -> None:
        _check(self, "at least 1, or none", self.patience is None or self.patience >= 1, "patience")
        _check(self, "at least 1, or none", self.steps is None or self.steps >= 1, "steps")
        _check(self, "more than 0, or none", self.time_limit is None or self.time_limit > 0, "time_limit")
        has_end = self.steps is not None or self.time_limit is not None
        _check(self, "a number where time_limit is none", has_end, "steps")


@dataclass(frozen=True)
class Step:
    """What one update of the weights computes."""

    batch_size: int = option(16, "pictures in one forward pass, over all processes")
    accumulate: int = option(
        1, "forward passes per step; 8 of 2 pictures are the paper's 16 in an eighth of the memory"
    )
    precision: Literal["float32", "bf16", "fp16"] = option("float32", "of the network's arithmetic")
    compiled: bool = option(False, "true: torch.compile; minutes at the start, faster steps on a GPU")

    def __post_init__(self) -> None:
        for name in ("batch_size", "accumulate"):
            _check(self, "at least 1", getattr(self, name) >= 1, name)

    @property
    def pictures(self) -> int:
        """Pictures per step."""
        return self.batch_size * self.accumulate


@dataclass(frozen=True)
class Optimiser:
    """How a gradient changes the weights."""

    algorithm: Literal["sgd", "adamw"] = option("sgd", "sgd has momentum")
    lr: float | None = option(
        None, "learning rate; none: 0.02 (adamw: 0.0002) for 16 pictures a step, in proportion"
    )
    momentum: float = option(0.9, "of sgd")
    weight_decay: float = option(1e-4, "of every weight")
    decay_norms_and_biases: bool = option(True, "false: no weight decay for them")
    gradient_clip: float | None = option(None, "largest norm of the gradient")
    ema: float | None = option(None, "decay of a moving average of the weights, judged beside them")
    retries: int = option(
        0, "times that a loss that is not finite leads back to the last save, at half the rate"
    )

    def __post_init__(self) -> None:
        _check(self, "0 or more and less than 1, or none", self.ema is None or 0 <= self.ema < 1, "ema")
        _check(self, "0 or more", self.retries >= 0, "retries")
        for name in ("lr", "gradient_clip"):
            _check(self, "more than 0, or none", getattr(self, name) is None or getattr(self, name) > 0, name)
        _check(self, "from 0 to 1", 0 <= self.momentum <= 1, "momentum")
        _check(self, "0 or more", self.weight_decay >= 0, "weight_decay")


@dataclass(frozen=True)
class Schedule:
    """How the learning rate changes over the training."""

    warmup_steps: int | None = option(
        None, "steps in which the rate rises linearly; none: 5 % of the training, at most 1000"
    )
    warmup_factor: float = option(0.001, "share of the rate at the first step")
    decay: Literal["step", "cosine"] = option("step", "how the rate falls")
    decay_at: tuple[float, ...] = option(
        (2 / 3, 8 / 9), "shares of the training at which `step` lowers the rate"
    )
    decay_factor: float = option(0.1, "by which `step` multiplies the rate")

    def __post_init__(self) -> None:
        _check(self, "0 or more, or none", (self.warmup_steps or 0) >= 0, "warmup_steps")
        for name in ("warmup_factor", "decay_factor"):
            _check(self, "from 0 to 1", 0 <= getattr(self, name) <= 1, name)
        shares = all(0 <= share <= 1 for share in self.decay_at)
        _check(self, "shares of the training, from 0 to 1", shares, "decay_at")


@dataclass(frozen=True)
class Pictures:
    """How large pictures are, and who reads them."""

    short_sides: tuple[int, ...] | None = option(
        (800,), "pixels; of several, one is drawn for each picture; none: as in the file"
    )
    long_side: int = option(1333, "upper limit, pixels")
    test_short_side: int | None = option(
        None, "in evaluation and prediction; none: the largest of short_sides"
    )
    test_long_side: int | None = option(None, "in evaluation and prediction; none: long_side")
    workers: int = option(2, "processes that read pictures")

    def __post_init__(self) -> None:
        sides = self.short_sides is None or (len(self.short_sides) > 0 and min(self.short_sides) > 0)
        _check(self, "more than 0", sides, "short_sides")
        _check(self, "more than 0", self.long_side > 0, "long_side")
        for name in ("test_short_side", "test_long_side"):
            _check(self, "more than 0, or none", getattr(self, name) is None or getattr(self, name) > 0, name)
        _check(self, "0 or more", self.workers >= 0, "workers")

    @property
    def test_sides(self) -> tuple[int | None, int]:
        """Short and long side of pictures in evaluation and prediction; None: as in the file."""
        largest = max(self.short_sides) if self.short_sides else None
        return self.test_short_side or largest, self.test_long_side or self.long_side


@dataclass(frozen=True)
class Augmentation:
    """Random changes of training pictures."""

    scale: tuple[float, float] | None = option(None, "least and largest random factor of the size")
    crop: tuple[int, int] | None = option(None, "rows, columns of a random window")
    flip_horizontal: float = option(0.5, "probability")
    flip_vertical: float = option(0.0, "probability")
    jitter: tuple[float, float, float] | None = option(
        None, "largest change of brightness, contrast, saturation"
    )

    def __post_init__(self) -> None:
        for name in ("scale", "crop"):
            _check(self, "more than 0", all(value > 0 for value in getattr(self, name) or ()), name)
        low, high = self.scale or (1.0, 1.0)
        _check(self, "the least factor, then the largest", low <= high, "scale")
        _check(self, "0 or more", all(change >= 0 for change in self.jitter or ()), "jitter")
        for name in ("flip_horizontal", "flip_vertical"):
            _check(self, "from 0 to 1", 0 <= getattr(self, name) <= 1, name)


@dataclass(frozen=True)
class Logging:
    """When the training logs, saves and evaluates, in steps."""

    log_every: int = option(20, "steps")
    save_every: int = option(1000, "steps; the end of the training also saves")
    eval_every: int | None = option(5000, "steps; the end also evaluates; none: only the end; 0: never")
    validation_loss: bool = option(False, "true: an evaluation also computes the loss, of up to 64 pictures")

    def __post_init__(self) -> None:
        for name in ("log_every", "save_every"):
            _check(self, "at least 1", getattr(self, name) >= 1, name)
        _check(self, "0 or more", (self.eval_every or 0) >= 0, "eval_every")


@dataclass(frozen=True)
class Settings:
    """The settings of a training. A value out of range raises ValueError.

    The defaults are those of He et al. (2017), §3.1, in the length that became usual: 16 pictures a step,
    rate 0.02, ninety thousand steps. A step of another size gets its rate by the linear rule of Goyal et al.
    (2017), §2.1: half the pictures, half the rate.
    """

    length: Length = field(default_factory=Length)
    step: Step = field(default_factory=Step)
    optimiser: Optimiser = field(default_factory=Optimiser)
    schedule: Schedule = field(default_factory=Schedule)
    pictures: Pictures = field(default_factory=Pictures)
    augmentation: Augmentation = field(default_factory=Augmentation)
    logging: Logging = field(default_factory=Logging)
    seed: int = option(0, "of the weights, the order of the pictures, augmentation and sampling")

    def __post_init__(self) -> None:
        _check(self, "0 or more", self.seed >= 0, "seed")

    @classmethod
    def of(cls, **values: Any) -> Settings:
        """Return the default settings with some values replaced, by the last part of their names.

        ``Settings.of(steps=1000, batch_size=4)``. Raises ValueError for an unknown name, and for a value of
        the wrong type or out of range.
        """
        return cls().replaced(**values)

    def replaced(self, **values: Any) -> Settings:
        """Return these settings with some values replaced; names and errors as in `of`."""
        names = {full.rpartition(".")[2]: full for full in options_of(self)}
        for name in values:
            if name not in names:
                raise ValueError(f"there is no setting {name}; {nearest(name, names)}")
        return with_values(self, {names[name]: value for name, value in values.items()})

    @property
    def peak_lr(self) -> float:
        """The learning rate after warm-up."""
        if self.optimiser.lr is not None:
            return self.optimiser.lr
        return _BASE_LR[self.optimiser.algorithm] * self.step.pictures / 16


def _check(group: Any, expected: str, is_met: bool, name: str) -> None:
    if not is_met:
        raise ValueError(f"{name} must be {expected}, not {format_value(getattr(group, name))}")
