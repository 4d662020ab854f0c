"""Shows, writes and reads a plan."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from maskrcnn.files import reading, write_json
from maskrcnn.plain import format_value
from maskrcnn.plan.fingerprint import Fingerprint
from maskrcnn.plan.rules import Plan

FILE = "plan.json"
_LARGEST = 1 << 20  # bytes of a plan


def plan_table(plan: Plan) -> Table:
    """Return the plan as a table: a setting, its value and its reason a line."""
    table = Table("setting", "value", "reason", title=f"recipe {plan.recipe or 'of the initial weights'}")
    table.title_justify = "left"
    for line in plan.lines:
        table.add_row(line.name, format_value(line.value), line.reason)
    return table


def write_plan(path: Path, plan: Plan, data: Fingerprint) -> None:
    """Write the plan, whole or not at all, with the fingerprint that it was made from.

    Values are texts as ``--set`` takes them.
    """
    lines = [
        {"name": line.name, "value": format_value(line.value), "reason": line.reason} for line in plan.lines
    ]
    write_json(path, {"recipe": plan.recipe, "settings": lines, "fingerprint": asdict(data)}, indent=2)


def read_plan(path: Path) -> tuple[str | None, dict[str, tuple[str, str]]]:
    """Return the recipe of a plan's file, and the value and the reason, as texts, of each name.

    Raises FileNotFoundError and ValueError, naming the file.
    """
    with reading(path):
        if path.stat().st_size > _LARGEST:
            raise ValueError(f"{path}: larger than 1 MB, where a plan was expected")
        text = path.read_text(encoding="utf-8", errors="replace")
    try:
        content = json.loads(text)
        recipe = content["recipe"]
        settings: list[dict[str, Any]] = content["settings"]
        lines = {str(one["name"]): (str(one["value"]), str(one.get("reason", ""))) for one in settings}
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{path}: not a plan of maskrcnn ({type(error).__name__}: {error}); expected an object with "
            '"recipe" and "settings", a list of objects with "name" and "value"'
        ) from None
    if recipe is not None and not isinstance(recipe, str):
        raise ValueError(f"{path}: 'recipe' is {recipe!r}, where a recipe's name or null was expected")
    return recipe, lines
