"""Optional dependencies."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def import_extra(name: str, extra: str) -> Any:
    """Import and return a module that an optional extra installs. Raises ValueError if it is not installed."""
    try:
        return import_module(name)
    except ImportError as error:
        raise ValueError(f"{name} is not installed: pip install 'maskrcnn[{extra}]' ({error})") from error
