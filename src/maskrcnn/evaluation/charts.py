"""Charts as positions in an SVG drawing, which html/chart.html draws."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import numpy as np
from jaxtyping import Float, Int

INK = "currentColor"  # that of text, in a light and in a dark page
RIGHT, WRONG = "#0072b2", "#d55e00"
# The palette of Okabe and Ito, which colour-blind people can tell apart, without black and without yellow
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#8a5a2b")

_TICKS = (0.0, 0.25, 0.5, 0.75, 1.0)


class Key(NamedTuple):
    """An entry of a legend."""

    colour: str
    meaning: str


class Curve(NamedTuple):
    """The values (0 … 1) of a curve at equal steps from 0 to 1."""

    name: str
    values: Float[np.ndarray, " n"]
    colour: str
    width: float = 1.5


class Series(NamedTuple):
    """Finite values `ys` at ascending positions `xs`; `marked` shows each as a dot."""

    name: str
    xs: Sequence[float]
    ys: Sequence[float]
    colour: str
    marked: bool = False


class Line(NamedTuple):
    """A polyline; `points` are "x,y x,y …"."""

    name: str
    points: str
    colour: str
    width: float


class Dot(NamedTuple):
    """A small disc; `title` is shown under the mouse."""

    x: float
    y: float
    colour: str
    title: str


class Bar(NamedTuple):
    """A filled rectangle; `title` is shown under the mouse."""

    x: float
    y: float
    width: float
    height: float
    colour: str
    title: str


@dataclass(frozen=True)
class Chart:
    """A chart; all positions are px of the drawing, x to the right, y down. Ticks are positions and texts."""

    x_name: str
    y_name: str
    label: str  # describes the chart to screen readers
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    lines: list[Line] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)
    dots: list[Dot] = field(default_factory=list)
    marker: tuple[float, str] | None = None  # x and text of a dashed vertical line

    width: ClassVar[int] = 460
    height: ClassVar[int] = 300
    left: ClassVar[int] = 52  # the edges of the plot area
    right: ClassVar[int] = 448
    top: ClassVar[int] = 12
    bottom: ClassVar[int] = 256


def curves_chart(curves: Sequence[Curve], x_name: str, y_name: str) -> Chart:
    """Return a chart of curves over 0 … 1 on both axes, the last one on top."""
    return Chart(
        x_name,
        y_name,
        f"{y_name} over {x_name}",
        x_ticks=[(_x(tick), f"{tick:g}") for tick in _TICKS],
        y_ticks=[(_y(tick), f"{tick:g}") for tick in _TICKS],
        lines=[Line(curve.name, _points(curve.values), curve.colour, curve.width) for curve in curves],
    )


def _points(values: Float[np.ndarray, " n"]) -> str:
    xs = np.linspace(0, 1, len(values)).tolist()
    return " ".join(f"{_x(x)},{_y(y)}" for x, y in zip(xs, values.tolist(), strict=True))


def series_chart(series: Sequence[Series], x_name: str, x_end: int, label: str) -> Chart:
    """Return a chart of series over 0 … `x_end`, the last one on top. The y axis has 0.

    `label` says what the values are; it stands beside the chart, not on its axis.
    """
    y_ticks = round_ticks([y for one in series for y in one.ys])

    def left(x: float) -> float:
        return _x(x / x_end)

    def top(y: float) -> float:
        return _y((y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0]))

    placed = [(one, [(left(x), top(y)) for x, y in zip(one.xs, one.ys, strict=True)]) for one in series]
    return Chart(
        x_name,
        "",
        f"{label} over {x_name}",
        x_ticks=[(left(tick), f"{tick:,.10g}") for tick in round_ticks([float(x_end)]) if tick <= x_end],
        y_ticks=[(top(tick), _short(tick)) for tick in y_ticks],
        lines=[
            Line(one.name, " ".join(f"{x},{y}" for x, y in points), one.colour, 1.8) for one, points in placed
        ],
        dots=[
            Dot(*point, one.colour, f"{one.name} {y:.4g}, {x_name} {x:,.10g}")
            for one, points in placed
            if one.marked
            for point, x, y in zip(points, one.xs, one.ys, strict=True)
        ],
    )


def round_ticks(values: Sequence[float]) -> list[float]:
    """Return a few equally spaced round numbers that enclose all values and 0."""
    low, high = min([0.0, *values]), max([0.0, *values])
    span = (high - low) or 1.0
    power = 10.0 ** math.floor(math.log10(span / 5))
    step = next(power * factor for factor in (1, 2, 5, 10) if span <= 5.001 * power * factor)
    first, last = math.floor(low / step + 1e-6), math.ceil((low + span) / step - 1e-6)
    return [tick * step for tick in range(first, max(last, first + 2) + 1)]


def _short(number: float) -> str:
    """Return a number in few characters: 1,000, 0.25, 5e-05."""
    return f"{number:,.6g}" if number == 0 or abs(number) >= 0.001 else f"{number:.3g}"


def histogram_chart(
    right: Int[np.ndarray, " bins"], wrong: Int[np.ndarray, " bins"], threshold: float | None
) -> Chart:
    """Return a chart of two counts in each bin of the score, on a logarithmic axis that begins at 0."""
    counts = {"right": right.tolist(), "wrong": wrong.tolist()}
    top = max(10 ** math.ceil(math.log10(max(1, *counts["right"], *counts["wrong"]))), 10)
    powers = [10**power for power in range(round(math.log10(top)) + 1)]
    step = 1 / len(right)
    bars = []
    for offset, (name, colour) in zip((0.1, 0.5), (("right", RIGHT), ("wrong", WRONG)), strict=True):
        for i, count in enumerate(counts[name]):
            x, y = _x((i + offset) * step), _y(_log(count, top))
            title = f"{count} {name}, score {i * step:.2f} to {(i + 1) * step:.2f}"
            width = round(0.4 * step * (Chart.right - Chart.left), 1)
            bars.append(Bar(x, y, width, round(Chart.bottom - y, 1), colour, title))
    return Chart(
        "score",
        "detections",
        "histogram of scores",
        x_ticks=[(_x(tick), f"{tick:g}") for tick in _TICKS],
        y_ticks=[(_y(0.0), "0")] + [(_y(_log(power, top)), f"{power:,}") for power in powers],
        bars=bars,
        marker=None if threshold is None else (_x(threshold), f"best threshold {threshold:.3f}"),
    )


def _log(count: int, top: int) -> float:
    return math.log10(1 + count) / math.log10(1 + top)


def _x(share: float) -> float:
    return round(Chart.left + share * (Chart.right - Chart.left), 1)


def _y(share: float) -> float:
    return round(Chart.bottom - share * (Chart.bottom - Chart.top), 1)
