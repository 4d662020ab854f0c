"""Metrics as tables for the terminal, and as a JSON file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.markup import escape
from rich.table import Table

from maskrcnn.evaluation.coco import FIELDS, Metrics
from maskrcnn.files import write_json

TITLES = {"bbox": "boxes", "segm": "masks", "boundary": "boundaries", "keypoints": "keypoints"}


def by_benchmark(metrics: Metrics) -> dict[str, Metrics]:
    """Group the metrics of an `Evaluation` by the benchmark whose rules they follow; "" stands for COCO's.

    Each group is ``{kind: {metric: value, …, "per_class": {name: {metric: value}}}}``.
    """
    groups = {"": {kind: numbers for kind, numbers in metrics.items() if kind in FIELDS}}
    if "cityscapes" in metrics:
        groups["Cityscapes"] = {"segm": metrics["cityscapes"]}
    if "lvis" in metrics:
        groups["LVIS"] = metrics["lvis"]
    return groups


def metrics_tables(metrics: Metrics) -> Group:
    """Return tables to print with rich: for each benchmark all metrics, and the AP of each class.

    LVIS' classes are not listed again: COCO's table has a line for each of them.
    """
    tables: list[Table] = []
    for benchmark, kinds in by_benchmark(metrics).items():
        tables.append(_summary_table(benchmark, kinds))
        class_names = list(next(iter(kinds.values()))["per_class"])
        if len(class_names) > 1 and benchmark != "LVIS":
            tables.append(_class_table(benchmark, kinds, class_names))
    return Group(*tables)


def _summary_table(benchmark: str, kinds: dict[str, dict[str, Any]]) -> Table:
    columns = [name for name in next(iter(kinds.values())) if name != "per_class"]
    rows = {TITLES[kind]: [numbers[name] for name in columns] for kind, numbers in kinds.items()}
    return _table(benchmark, columns, rows)


def _class_table(benchmark: str, kinds: dict[str, dict[str, Any]], class_names: Sequence[str]) -> Table:
    rows = {name: [numbers["per_class"][name]["AP"] for numbers in kinds.values()] for name in class_names}
    return _table(f"{benchmark} class".strip(), [f"AP {TITLES[kind]}" for kind in kinds], rows)


def _table(corner: str, columns: Sequence[str], rows: dict[str, list[float | None]]) -> Table:
    table = Table(corner)
    for column in columns:
        table.add_column(column, justify="right")
    for name, values in rows.items():
        table.add_row(escape(name), *("-" if value is None else f"{value:.1f}" for value in values))
    return table


def write_metrics(path: Path | str, metrics: Metrics) -> None:
    """Write the metrics as JSON. On failure, an existing file is left unchanged."""
    write_json(Path(path), metrics)
