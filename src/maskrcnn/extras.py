"""Optional dependencies."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def import_extra(name: str, extra: str) -> Any:
    """Import a module that an extra of this library brings. Raises ValueError where it is not installed."""
    try:
        return import_module(name)
    except ImportError as error:
        raise ValueError(f"this takes {name}: pip install 'maskrcnn[{extra}]' ({error})") from error
