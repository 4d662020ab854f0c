"""Shows, writes and reads a plan."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Column, Table

from maskrcnn.files import reading, write_json
from maskrcnn.plan.fingerprint import Fingerprint
from maskrcnn.plan.lines import Plan

FILE = "plan.json"
_LARGEST = 1 << 20  # bytes of a plan


def plan_table(plan: Plan) -> Table:
    """Return the plan as a table: a setting, its value and its reason a line."""
    table = Table(Column("setting", no_wrap=True), Column("value", overflow="fold"), "reason")
    for texts in plan.texts():
        table.add_row(*map(escape, texts))
    return table


def write_plan(path: Path, plan: Plan, data: Fingerprint) -> None:
    """Write the plan, whole or not at all, with the fingerprint that it was made from.

    Values are texts as ``--set`` takes them.
    """
    lines = [{"name": name, "value": value, "reason": reason} for name, value, reason in plan.texts()]
    write_json(path, {"settings": lines, "fingerprint": asdict(data)}, indent=2)


def read_plan(path: Path) -> dict[str, tuple[str, str]]:
    """Return the value and the reason, as texts, of each name in a plan's file.

    Raises FileNotFoundError and ValueError, naming the file.
    """
    with reading(path):
        if path.stat().st_size > _LARGEST:
            raise ValueError(f"{path}: larger than 1 MB, where a plan was expected")
        text = path.read_text(encoding="utf-8", errors="replace")
    try:
        settings: list[dict[str, Any]] = json.loads(text)["settings"]
        return {str(one["name"]): (str(one["value"]), str(one.get("reason", ""))) for one in settings}
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{path}: not a plan of maskrcnn ({type(error).__name__}: {error}); expected an object with "
            '"settings", a list of objects with "name" and "value"'
        ) from None
