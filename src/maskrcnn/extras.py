"""Optional dependencies."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def import_extra(name: str, extra: str) -> Any:
    """Import and return a module that an optional extra installs. Raises ValueError if it cannot be."""
    try:
        return import_module(name)
    except ImportError as error:
        raise ValueError(f"{name} cannot be imported ({error}): pip install 'maskrcnn[{extra}]'") from error
