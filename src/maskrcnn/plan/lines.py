"""What a plan is made of: its lines, and the wish that they answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from maskrcnn.plain import format_value


class Line(NamedTuple):
    """One setting, or option of the recipe, by its dotted name."""

    name: str
    value: Any
    reason: str


_DRAWN = Line("init", None, "drawn weights")


@dataclass(frozen=True)
class Wish:
    """What a user asks for beside the best network."""

    minutes: float | None = None  # None: as long as the data need
    recipe: str | None = None  # None: the plan chooses
    start: Literal["scratch", "backbone", "detector"] = "scratch"  # what the initial weights are
    init: Line = _DRAWN  # their file or published name
    kept: tuple[Line, ...] = ()  # options that these weights need


@dataclass(frozen=True)
class Plan:
    """A recipe, initial weights, and settings and options of the recipe that differ from their defaults."""

    lines: tuple[Line, ...]

    @property
    def recipe(self) -> str | None:
        """The recipe; None: that of the initial weights."""
        return self.values(["recipe"]).get("recipe")

    @property
    def init(self) -> str | None:
        """The file or the published name of the initial weights; None: drawn ones."""
        return self.values(["init"]).get("init")

    def texts(self) -> tuple[tuple[str, str, str], ...]:
        """Return name, value and reason of each line; the value as ``--set`` takes it."""
        return tuple((line.name, format_value(line.value), line.reason) for line in self.lines)

    def replaced(self, values: Mapping[str, Any], reason: str) -> Plan:
        """Return the plan with the lines of these names replaced, or added, for one reason."""
        lines = {line.name: line for line in self.lines}
        return Plan((*(lines | {name: Line(name, values[name], reason) for name in values}).values(),))

    def values(self, names: Sequence[str] | Mapping[str, Any]) -> dict[str, Any]:
        """Return the values of those lines whose names are among `names`."""
        return {line.name: line.value for line in self.lines if line.name in names}
