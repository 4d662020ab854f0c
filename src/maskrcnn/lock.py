"""One process writes into a folder: two would overwrite each other's files and records."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

_LOCK, _HOLDER = ".lock", ".lock.holder"
_PATIENCE = 10.0  # seconds; reading processes of a killed training keep its lock until they notice, up to 5 s


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Create `folder` if necessary, and lock it for this process.

    The operating system releases the lock when the process ends, however it ends. A folder in which nothing
    was written is deleted again. Raises ValueError, naming the process, where another one holds the folder,
    and where it cannot be a folder because a file has its name.
    """
    is_new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ValueError(f"{folder}: a folder was expected, but it or a folder above it is a file") from None
    holder, lock = folder / _HOLDER, FileLock(folder / _LOCK)
    try:
        lock.acquire(timeout=0 if _is_alive(holder) else _PATIENCE)
    except Timeout:
        raise ValueError(
            f"{folder} is in use by another process ({_read(holder)}): wait until it ends, or "
            "choose another --output"
        ) from None
    try:
        holder.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
        yield
    finally:
        holder.unlink(missing_ok=True)
        if is_new and [path.name for path in folder.iterdir()] == [_LOCK]:
            with suppress(OSError):  # Windows deletes no open file
                (folder / _LOCK).unlink()
                folder.rmdir()
        lock.release()


def _read(holder: Path) -> str:
    with suppress(OSError):
        return holder.read_text(encoding="utf-8")
    return "an unknown process"


def _is_alive(holder: Path) -> bool:
    """Return False where the process that wrote `holder` has ended for certain."""
    _, number, _, host = (*_read(holder).split(), "", "", "", "")[:4]
    if os.name != "posix" or host != socket.gethostname() or not number.isdecimal():
        return True
    with suppress(PermissionError):  # it is another user's
        try:
            os.kill(int(number), 0)
        except ProcessLookupError:
            return False
    return True
