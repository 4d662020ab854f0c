"""The curves of a run: every number that its log has, by step, and their charts."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from maskrcnn.evaluation.charts import COLOURS, INK, Chart, Key, Series, series_chart
from maskrcnn.evaluation.tables import TITLES

_MOST_POINTS = 120  # of a curve
_MOST_DOTS = 40  # of a curve whose points are marked
_MOST_CHARTS = 12

Curve = dict[int, float]  # values by step
Record = dict[str, Any]


def read_records(path: Path) -> list[Record]:
    """Return the records that have a step; a line that was cut off is left out."""
    records = []
    with suppress(OSError), path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            with suppress(ValueError, RecursionError):
                record = json.loads(line)
                if isinstance(record, dict) and isinstance(record.get("step"), int):
                    records.append(record)
    return records


def curves_of(records: Iterable[Record]) -> dict[str, Curve]:
    """Return all finite numbers of the records by dotted name and step, those of single classes left out.

    Of several records of a step, as a resumed training may leave them, the last one counts.
    """
    curves: dict[str, Curve] = {}
    for record in records:
        for name, value in _numbers(record, ""):
            curves.setdefault(name, {})[record["step"]] = value
    return {name: dict(sorted(curve.items())) for name, curve in curves.items()}


def _numbers(values: Mapping[str, Any], place: str) -> Iterator[tuple[str, float]]:
    for name, value in values.items():
        if isinstance(value, dict) and name != "per_class" and place.count(".") < 4:
            yield from _numbers(value, f"{place}{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            yield f"{place}{name}", float(value)


def curve_charts(curves: Mapping[str, Curve]) -> list[tuple[str, Chart, list[Key]]]:
    """Return title, chart and legend of each group of curves: known groups first, then each other number."""
    groups: dict[str, dict[str, Curve]] = {
        "Average precision": {_ap_name(n): c for n, c in curves.items() if n.rpartition(".")[2] == "AP"},
        "Loss": {_loss_name(n): c for n, c in curves.items() if n.endswith("loss")},
        "Parts of the loss": {words(n[5:]): c for n, c in curves.items() if n.startswith("loss_")},
        "Learning rate": {"learning rate": curves.get("lr", {})},
        "Norm of the gradient": {"gradient norm": curves.get("gradient_norm", {})},
    }
    known = {"step", "seconds", "lr", "gradient_norm"}
    for name, curve in curves.items():
        if "." not in name and "loss" not in name and name not in known and len(groups) < _MOST_CHARTS:
            groups[words(name).capitalize()] = {words(name): curve}
    last_step = max([1, *(step for curve in curves.values() for step in curve)])
    return [
        (title, *_chart(title, group, last_step)) for title, group in groups.items() if any(group.values())
    ]


def _chart(title: str, group: Mapping[str, Curve], last_step: int) -> tuple[Chart, list[Key]]:
    colours = [INK, *COLOURS] if title == "Loss" else COLOURS
    series = [
        Series(name, *thinned(curve, _MOST_POINTS), colour, marked=len(curve) <= _MOST_DOTS)
        for (name, curve), colour in zip(group.items(), cycle(colours), strict=False)
        if curve
    ]
    legend = [Key(one.colour, f"{one.name} {one.ys[-1]:.4g}") for one in series]
    return series_chart(series, "step", last_step, title.lower()), legend


def thinned(curve: Curve, most: int) -> tuple[list[float], list[float]]:
    """Return steps and values of a curve; of more than `most`, the means of as many equal parts."""
    steps, values = np.array(list(curve), float), np.array(list(curve.values()))
    if len(steps) <= most:
        return steps.tolist(), values.tolist()
    edges = np.linspace(0, len(steps), most + 1).astype(int)
    lengths = np.diff(edges)
    means = [(np.add.reduceat(numbers, edges[:-1]) / lengths).tolist() for numbers in (steps, values)]
    return means[0], means[1]


def _ap_name(name: str) -> str:
    *groups, kind, _ = name.split(".")
    return f"{TITLES.get(kind, words(kind))}{''.join(f' ({words(group)})' for group in groups)}"


def _loss_name(name: str) -> str:
    return "training" if name == "loss" else words(name.split(".")[0].removesuffix("_loss"))


def words(name: str) -> str:
    """Return the name of a number in words."""
    return name.replace("_", " ")
