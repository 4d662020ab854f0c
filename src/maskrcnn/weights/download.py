"""Published files, downloaded once into a cache folder, also where several processes ask at once.

Beside a file ``name`` the folder may have ``.name.part`` (an incomplete download, which the next one
resumes), ``.name.lock`` (held by the process that downloads) and ``.name.size`` (the size of the verified
file, by which a file that was truncated or grew later is recognised and downloaded again).
"""

from __future__ import annotations

import hashlib
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import BinaryIO

from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from maskrcnn.files import cache_folder
from maskrcnn.weights.published import Published

MAX_BYTES = 2 << 30  # twice the largest published file
_CHUNK = 1 << 20
_TIMEOUT = 30  # seconds without a byte
_PROBE = 5.0  # seconds in which a server must answer to count as reachable


def fetch(published: Published, folder: Path | None = None) -> Path:
    """Return the file of a published checkpoint, downloaded if `folder`, by default the cache, lacks it.

    One process downloads, the others wait for it. An interrupted download is resumed. A file gets its name
    only when it is complete and its checksum, where the published name has one, is right. A file in the
    folder is trusted if it has the size recorded when it was verified; one without a record, such as a file
    copied there by hand, is verified once. Raises ValueError without a connection, for a file that the server
    does not have, for one that is too large, incomplete or damaged, and where the folder cannot be written.
    """
    folder = folder or cache_folder()
    path = folder / published.file_name
    try:
        if _is_intact(published, path):
            return path
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(published, path):
            if not _is_intact(published, path):  # unless the process waited for has downloaded it
                _download_verified(published, path)
        return path
    except OSError as error:
        raise ValueError(
            f"{published.name} cannot be stored in {folder} ({error.strerror or error}); choose another "
            "folder by MASKRCNN_CACHE"
        ) from error


def is_cached(published: Published, folder: Path | None = None) -> bool:
    """Return whether `fetch` would return the file of a published checkpoint without a download."""
    try:
        return _is_intact(published, (folder or cache_folder()) / published.file_name)
    except OSError:
        return False


def why_unreachable(published: Published, seconds: float = _PROBE) -> str:
    """Return why the server does not offer a file, as a short phrase; "" where it does.

    It asks for the headers alone. It returns in time also where the look-up of a server's name hangs, which
    no timeout of a connection limits: a thread waits for that.
    """
    answers: Queue[str] = Queue()
    Thread(target=lambda: answers.put(_ask_for_headers(published, seconds)), daemon=True).start()
    try:
        return answers.get(timeout=seconds)
    except Empty:
        return _no_answer(seconds)


def _no_answer(seconds: float) -> str:
    return f"no answer in {seconds:g} s"


def _ask_for_headers(published: Published, seconds: float) -> str:
    try:
        with urllib.request.urlopen(urllib.request.Request(published.url, method="HEAD"), timeout=seconds):
            return ""
    except urllib.error.HTTPError as error:
        return f"the server returned {error.code} {error.reason}"
    except (OSError, HTTPException) as error:
        cause = getattr(error, "reason", error)
        if isinstance(cause, TimeoutError):
            return _no_answer(seconds)
        return f"no connection: {getattr(cause, 'strerror', None) or cause}"


def _is_intact(published: Published, path: Path) -> bool:
    """Return whether `path` is a file of the recorded size, or, without a record, of the right checksum."""
    if not path.is_file():
        return False
    size, recorded = path.stat().st_size, _recorded_size(path)
    is_intact = size == recorded if recorded is not None else not _damage(published, path)
    if is_intact and recorded is None:
        with suppress(OSError):  # the folder may be read-only
            _beside(path, "size").write_text(str(size))
    return is_intact


def _recorded_size(path: Path) -> int | None:
    try:
        return int(_beside(path, "size").read_text())
    except (FileNotFoundError, ValueError):  # none, or one that another process is just writing
        return None


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(f".{path.name}.{suffix}")


@contextmanager
def _locked(published: Published, path: Path) -> Iterator[None]:
    """Hold the lock of a file's download. The system releases it when the process ends, however it ends."""
    lock = FileLock(_beside(path, "lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        _print(f"waiting for another process that downloads {published.name} to {path}")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _print(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _download_verified(published: Published, path: Path) -> None:
    """Download to `path`. Where a resumed download turns out damaged, start again from nothing."""
    if path.is_file():
        size = path.stat().st_size
        _print(f"{path} ({size} bytes) is not the file that was published: it is downloaded again")
    part = _beside(path, "part")
    is_resumed = part.exists()
    damage = _download(published, part) or _damage(published, part)
    if damage and is_resumed:
        part.unlink(missing_ok=True)
        damage = _download(published, part) or _damage(published, part)
    if damage:
        part.unlink(missing_ok=True)
        raise ValueError(f"{published.url} is damaged: {damage}; try again")
    part.replace(path)
    _beside(path, "size").write_text(str(path.stat().st_size))


def _damage(published: Published, path: Path) -> str:
    """Return how the beginning of the file's hash differs from the published one; "" where it does not."""
    if not published.checksum:
        return ""
    algorithm, expected = published.checksum.split(":")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, algorithm).hexdigest()
    beginning = digest[: len(expected)]
    return "" if beginning == expected else f"its {algorithm} begins with {beginning}, not {expected}"


def _download(published: Published, part: Path) -> str:
    """Append to `part` the bytes that it lacks; return why they cannot be appended, or "".

    Raises ValueError for an error of the server or the connection; what has arrived stays in `part`.
    """
    size = part.stat().st_size if part.exists() else 0
    try:
        response = _request(published, size)
        if response is None:
            return "" if published.checksum else "its end is unknown"
        with response:
            if response.status != 206:  # the server sends the file from its beginning
                size = 0
            elif not response.headers.get("Content-Range", "").startswith(f"bytes {size}-"):
                return "the server continued it at another place"
            total = size + int(response.headers.get("Content-Length") or 0)
            _check_size(published, total)
            with part.open("ab" if size else "wb") as file:
                _copy(response, file, published, size, total)
        if part.stat().st_size < total:
            raise _ConnectionFailed(f"the connection ended after {part.stat().st_size} of {total} bytes")
    except _ConnectionFailed as failure:
        raise ValueError(
            f"{published.name} cannot be downloaded from {published.url} ({failure}): connect this machine, "
            f"or put the file into {part.parent}; the next download resumes an interrupted one"
        ) from failure
    return ""


class _ConnectionFailed(Exception):
    """The connection to the server failed, as opposed to a file that cannot be written."""


def _request(published: Published, start: int) -> HTTPResponse | None:
    """Return the server's response, from byte `start` on; None where the file has no such byte."""
    request = urllib.request.Request(published.url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        return urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if start and error.code == 416:
            return None
        raise ValueError(f"{published.url}: the server returned {error.code} {error.reason}") from error
    except (OSError, HTTPException) as error:
        raise _ConnectionFailed(error) from error


def _check_size(published: Published, size: int) -> None:
    if size > MAX_BYTES:
        raise ValueError(f"{published.url} has {size} bytes or more, but weights have at most {MAX_BYTES}")


def _copy(response: HTTPResponse, file: BinaryIO, published: Published, size: int, total: int) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(
            f"{published.name}, {published.licence}", total=total or None, completed=size
        )
        for chunk in _chunks(response):
            size += len(chunk)
            _check_size(published, size)
            file.write(chunk)
            file.flush()  # so that the part has it if this process is killed
            progress.update(task, completed=size)


def _chunks(response: HTTPResponse) -> Iterator[bytes]:
    """Yield the body as it arrives. Raises `_ConnectionFailed`."""
    try:
        while chunk := response.read1(_CHUNK):
            yield chunk
    except (OSError, HTTPException) as error:
        raise _ConnectionFailed(error) from error
