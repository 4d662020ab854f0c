"""One file that holds a training: enough to predict with its network, and to resume it."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, get_origin, get_type_hints

import torch

from maskrcnn.files import replacing
from maskrcnn.plain import from_plain, to_plain
from maskrcnn.training.plateau import Plateau
from maskrcnn.training.settings import Settings
from maskrcnn.weights.files import read_checkpoint
from maskrcnn.weights.model_checkpoint import ModelCheckpoint, model_from_plain

_FORMAT = 2


@dataclass(frozen=True)
class Checkpoint:
    """A training after `step` steps.

    `settings.seed` and `step` stand for its random states: they seed the random numbers of every step, and
    the order and augmentation of its pictures.

    ``last.pt`` holds all of it. ``best.pt`` holds the weights that an evaluation found best, without the
    states of optimiser, scaler and average: half of the size, or less.
    """

    trained: ModelCheckpoint
    settings: Settings
    optimiser: dict[str, Any]  # its state of each parameter, by the parameter's name
    scaler: dict[str, Any]  # of fp16's gradients
    step: int
    elapsed: float  # seconds
    metrics: dict[str, Any]  # of these weights in the last evaluation; empty before the first
    best_ap: float  # percent, of masks where there are masks; -1 before the first evaluation
    # Absent in files of older versions
    plan: tuple[tuple[str, str, str], ...] = ()  # name, value and reason of each line; () without a plan
    average: dict[str, Any] = field(default_factory=dict)  # of the weights, see `ema.Average`; empty without
    evaluated: int = 0  # step of the last evaluation
    plateau: Plateau = field(default_factory=Plateau)
    setbacks: int = 0  # times that the training went back to a save and halved its rate
    at_a_time: int = 0  # pictures in a forward pass of a process, since memory ran out; 0: a batch


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, whole or not at all. Raises OSError, naming `path`, where that is impossible."""
    values = {part.name: getattr(checkpoint, part.name) for part in fields(checkpoint)}
    plain = {
        "trained": checkpoint.trained.plain(),
        "settings": to_plain(checkpoint.settings),
        "plateau": to_plain(checkpoint.plateau),
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as unfinished, unfinished.open("wb") as file:
            torch.save({**values, **plain, "format": _FORMAT}, file)
    except (OSError, RuntimeError) as error:
        # torch raises RuntimeError where writing fails; Python's own error is its context
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        raise OSError(cause.errno, cause.strerror or str(cause), str(path)) from error


def load(path: str | Path) -> Checkpoint:
    """Read a checkpoint on the CPU; nothing in the file is executed.

    Raises FileNotFoundError where there is no such file, and ValueError where it is not a checkpoint of a
    training by this version.
    """
    values = read_checkpoint(path)
    try:
        return _checked(values)
    except ValueError as error:
        raise ValueError(f"{path} is not a checkpoint of this version of maskrcnn: {error}") from error


def _checked(values: Any) -> Checkpoint:
    if not isinstance(values, dict) or "format" not in values:
        raise ValueError("it does not name its format (other weights start a training by --init)")
    if (version := values.pop("format")) != _FORMAT:
        raise ValueError(f"its format is {version!r:.20}, not {_FORMAT}")
    kinds = get_type_hints(Checkpoint) | {"settings": dict, "trained": dict, "plateau": dict}
    if "step" in values:  # in files of older versions, what was due after a step was done
        values = {
            "plan": (),
            "average": {},
            "evaluated": values["step"],
            "plateau": {},
            "setbacks": 0,
            "at_a_time": 0,
            **values,
        }
    if values.keys() != kinds.keys():
        raise ValueError(f"it should hold {', '.join(kinds)}, but holds {', '.join(map(str, values)):.200}")
    for name, kind in kinds.items():
        if not isinstance(values[name], kind := get_origin(kind) or kind):
            raise ValueError(f"{name} is a {type(values[name]).__name__}, not a {kind.__name__}")
    return Checkpoint(
        **{
            **values,
            "trained": model_from_plain(values["trained"]),
            "settings": from_plain(Settings, values["settings"]),
            "plateau": from_plain(Plateau, values["plateau"]),
        }
    )
