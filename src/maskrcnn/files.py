"""Writing files whole or not at all: what stood there before stays until the new one is complete."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary name beside `path`; what was written there takes its place, or goes if that failed."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write JSON, whole or not at all."""
    with replacing(path) as unfinished:
        unfinished.write_text(json.dumps(content, allow_nan=False) + "\n", encoding="utf-8")


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Raise errors of the operating system as a sentence that names `path`.

    A missing file remains a FileNotFoundError; anything else (no permission, a folder where a file was
    expected, too many open files) becomes a ValueError.
    """
    try:
        yield
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file") from None
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror or error}") from error


def cache_folder() -> Path:
    """Return where what can be had again is kept: $MASKRCNN_CACHE, or maskrcnn in the user's cache folder."""
    if chosen := os.environ.get("MASKRCNN_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "maskrcnn"
