"""Files that appear whole or not at all: an existing file stays until its successor is complete."""

from __future__ import annotations

import glob
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_SUFFIX = ".unfinished"
_ABANDONED_AFTER = 3600.0  # seconds without a write, after which the process that wrote is taken for dead


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, this thread's own; the file written there replaces `path`.

    It is flushed to the disk first, so that even a loss of power leaves the old file or the new one. After an
    error it is deleted, and `path` stays as it was. What killed processes have left is deleted as well.
    Errors of writing name `path`, or carry it as a note.
    """
    name = path.name[:48]  # leaves room for the rest where a name is as long as the file system allows
    unfinished = path.with_name(f".{name}.{os.getpid()}-{threading.get_native_id()}{_SUFFIX}")
    _delete_abandoned(path.parent, name)
    try:
        yield unfinished
        with unfinished.open("r+b") as file:
            os.fsync(file.fileno())
        unfinished.replace(path)
    except (OSError, RuntimeError, MemoryError) as error:
        if isinstance(error, OSError) and error.errno and str(error.filename) == str(unfinished):
            raise OSError(error.errno, error.strerror, str(path)) from error
        error.add_note(f"while writing {path}")
        raise
    finally:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)


def _delete_abandoned(folder: Path, name: str) -> None:
    for file in folder.glob(f".{glob.escape(name)}.*{_SUFFIX}"):
        with suppress(OSError):  # another process may be as quick
            if time.time() - file.stat().st_mtime > _ABANDONED_AFTER:
                file.unlink()


def write_json(path: Path, content: Any, indent: int | None = None) -> None:
    """Write JSON, whole or not at all."""
    with replacing(path) as unfinished:
        unfinished.write_text(json.dumps(content, allow_nan=False, indent=indent) + "\n", encoding="utf-8")


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


@contextmanager
def json_list(path: Path, before: str = "", after: str = "\n") -> Iterator[Callable[[Any], None]]:
    """Yield a function that writes one more item of a JSON list; the file appears when the list is complete.

    Items go to the disk as they come, so the list may be larger than the memory. `before` and `after` are
    what surrounds the list in the file.
    """
    with replacing(path) as unfinished, unfinished.open("w", encoding="utf-8") as file:
        separator = f"{before}["

        def append(item: Any) -> None:
            nonlocal separator
            file.write(separator + json.dumps(item, allow_nan=False))
            separator = ", "

        yield append
        file.write(f"{separator}]{after}" if separator != ", " else f"]{after}")


def cache_folder() -> Path:
    """Return the folder of files that can be made again: $MASKRCNN_CACHE, or maskrcnn in the user's cache."""
    if chosen := os.environ.get("MASKRCNN_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "maskrcnn"
