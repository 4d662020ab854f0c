"""Published files, downloaded once into a folder of their own, whole and checked."""

from __future__ import annotations

import hashlib
import urllib.error
import urllib.request
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import BinaryIO

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from maskrcnn.files import cache_folder
from maskrcnn.weights.published import Published

MOST_BYTES = 2 << 30  # the largest published file has half of this
_CHUNK = 1 << 20
_SECONDS = 30  # without an answer


def fetch(published: Published, folder: Path | None = None) -> Path:
    """Return the file of a published checkpoint, downloading it where `folder` does not have it yet.

    A download that was cut off goes on where it stopped; the file gets its name when it is complete and its
    checksum, where the address carries one, is right. Raises ValueError when there is no connection, the
    server does not have the file, or what came is too large, incomplete or damaged.
    """
    folder = folder or cache_folder()
    path = folder / published.file_name
    if path.is_file():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    try:
        _download(published, part)
    except urllib.error.HTTPError as error:
        raise ValueError(f"{published.url} answers {error.code} {error.reason}") from error
    except (OSError, HTTPException) as error:
        raise ValueError(
            f"{published.name} cannot be downloaded from {published.url} ({error}): connect this machine, or "
            f"put the file into {folder}; what has come stays, and the next try goes on from there"
        ) from error
    _check(published, part)
    part.replace(path)
    return path


def _download(published: Published, part: Path) -> None:
    """Append to `part` what it lacks."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(published.url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=_SECONDS)
    except urllib.error.HTTPError as error:
        if have and error.code == 416:  # nothing is missing, or the file there is another one
            return
        raise
    with response:
        goes_on = response.status == 206
        have = have if goes_on else 0
        total = have + int(response.headers.get("Content-Length") or 0)
        if total > MOST_BYTES:
            raise ValueError(f"{published.url} has {total} bytes, more than weights ever have ({MOST_BYTES})")
        with part.open("ab" if goes_on else "wb") as file:
            _copy(response, file, published, have, total)
    if total > have and part.stat().st_size < total:
        raise ConnectionError(f"cut off after {part.stat().st_size} of {total} bytes")


def _copy(response: HTTPResponse, file: BinaryIO, published: Published, have: int, total: int) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(
            f"{published.name}, {published.licence}", total=total or None, completed=have
        )
        while chunk := response.read(_CHUNK):
            have += len(chunk)
            if have > MOST_BYTES:
                raise ValueError(f"{published.url} does not end after {MOST_BYTES} bytes")
            file.write(chunk)
            progress.update(task, completed=have)


def _check(published: Published, part: Path) -> None:
    """Compare the beginning of the file's hash with the one in its address; delete a file that differs."""
    if not published.checksum:
        return
    kind, beginning = published.checksum.split(":")
    with part.open("rb") as file:
        digest = hashlib.file_digest(file, kind).hexdigest()
    if not digest.startswith(beginning):
        part.unlink()
        raise ValueError(
            f"{published.url} is damaged: its {kind} begins with {digest[: len(beginning)]}, "
            f"not {beginning}; it was deleted, try again"
        )
