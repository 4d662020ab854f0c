"""Small charts as SVG text, to stand inside an HTML page: no scripts, no files, no other library."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

INK = "#1a1a1a"
RIGHT, WRONG = "#0072b2", "#d55e00"
# Okabe and Ito's colours, told apart by nearly everybody, without black and without yellow
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#8a5a2b")

_WIDTH, _HEIGHT = 460, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 12, 44  # margins around the plot


class Line(NamedTuple):
    """One curve: its values at equal steps from 0 to 1."""

    name: str
    values: Float[np.ndarray, " n"]
    colour: str
    width: float = 1.5


def curves(lines: Sequence[Line], x_name: str, y_name: str) -> str:
    """Draw curves over 0 … 1 on both axes, the last one on top."""
    ticks = [0.0, 0.25, 0.5, 0.75, 1.0]
    drawn = [
        f'<polyline fill="none" stroke="{line.colour}" stroke-width="{line.width}" points="{_points(line)}">'
        f"<title>{escape(line.name)}</title></polyline>"
        for line in lines
    ]
    frame = _frame([(t, f"{t:g}") for t in ticks], [(t, f"{t:g}") for t in ticks], x_name, y_name)
    return _svg([*frame, *drawn], f"{y_name} over {x_name}")


def _points(line: Line) -> str:
    xs = np.linspace(0, 1, len(line.values))
    return " ".join(f"{_x(x):.1f},{_y(y):.1f}" for x, y in zip(xs, line.values, strict=True))


def histogram(
    right: Int[np.ndarray, " bins"], wrong: Int[np.ndarray, " bins"], threshold: float | None
) -> str:
    """Draw two bars in each part of 0 … 1, counts on a logarithmic axis that begins at 0, and a threshold."""
    top = max(10 ** math.ceil(math.log10(max(1, *right.tolist(), *wrong.tolist()))), 10)
    powers = [10**power for power in range(round(math.log10(top)) + 1)]
    step = 1 / len(right)
    bars = []
    for i, counts in enumerate(zip(right.tolist(), wrong.tolist(), strict=True)):
        for k, (count, colour, name) in enumerate(
            zip(counts, (RIGHT, WRONG), ("right", "wrong"), strict=True)
        ):
            x, y = _x((i + 0.1 + 0.4 * k) * step), _y(_log(count, top))
            title = f"{count} {name}, score {i * step:.2f} to {(i + 1) * step:.2f}"
            bars.append(_bar(x, y, _x(0.4 * step) - _x(0.0), colour, title))
    y_ticks = [(0.0, "0")] + [(_log(power, top), f"{power:,}") for power in powers]
    frame = _frame([(t, f"{t:g}") for t in (0.0, 0.25, 0.5, 0.75, 1.0)], y_ticks, "score", "detections")
    return _svg([*frame, *bars, *_mark(threshold)], "histogram of scores")


def _log(count: int, top: int) -> float:
    return math.log10(1 + count) / math.log10(1 + top)


def _bar(x: float, y: float, width: float, colour: str, title: str) -> str:
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{_y(0.0) - y:.1f}" fill="{colour}">'
        f"<title>{escape(title)}</title></rect>"
    )


def _mark(threshold: float | None) -> list[str]:
    """A dashed line, named on the side where there is room."""
    if threshold is None:
        return []
    x, before = _x(threshold), threshold > 0.6
    ends = f'x1="{x:.1f}" x2="{x:.1f}" y1="{_y(1.0)}" y2="{_y(0.0)}"'
    return [
        f'<line {ends} stroke="{INK}" stroke-dasharray="4 3"/>',
        f'<text x="{x - 5 if before else x + 5:.1f}" y="{_y(1.0) + 11}" class="halo" '
        f'text-anchor="{"end" if before else "start"}">best threshold {threshold:.3f}</text>',
    ]


def _frame(
    x_ticks: Sequence[tuple[float, str]], y_ticks: Sequence[tuple[float, str]], x_name: str, y_name: str
) -> list[str]:
    """Quiet grid lines, numbers beside them, and the names of the axes."""
    made = []
    for place, text in x_ticks:
        made.append(_grid(_x(place), _x(place), _y(0.0), _y(1.0)))
        made.append(f'<text x="{_x(place):.1f}" y="{_y(0.0) + 17}" text-anchor="middle">{text}</text>')
    for place, text in y_ticks:
        made.append(_grid(_x(0.0), _x(1.0), _y(place), _y(place)))
        made.append(f'<text x="{_x(0.0) - 6}" y="{_y(place) + 4:.1f}" text-anchor="end">{text}</text>')
    made.append(f'<text x="{_x(0.5)}" y="{_HEIGHT - 6}" text-anchor="middle">{escape(x_name)}</text>')
    turned = f'transform="translate(12 {_y(0.5)}) rotate(-90)"'
    made.append(f'<text {turned} text-anchor="middle">{escape(y_name)}</text>')
    return made


def _grid(x1: float, x2: float, y1: float, y2: float) -> str:
    return f'<line x1="{x1:.1f}" x2="{x2:.1f}" y1="{y1:.1f}" y2="{y2:.1f}" stroke="#e2e2e2"/>'


def _svg(parts: Sequence[str], label: str) -> str:
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}" role="img" '
        f'aria-label="{escape(label)}">{"".join(parts)}</svg>'
    )


def _x(share: float) -> float:
    return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)


def _y(share: float) -> float:
    return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)
