"""Runs a function in a process of its own, with bounded time and memory, and says how it ended."""

from __future__ import annotations

import os
import pickle
import resource
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

SECONDS, BYTES = 20, 4 << 30  # that one file may take
_SENTENCES = (ValueError, FileNotFoundError, OSError, FloatingPointError, MemoryError)
# What a file that is only read never causes
_FORBIDDEN = {"os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "socket.connect"}


class End(NamedTuple):
    """How a function ended: read, refused (one sentence), or one of the faults."""

    kind: str  # read, refused, traceback, code run, hang, killed
    text: str = ""

    @property
    def is_fault(self) -> bool:
        return self.kind not in ("read", "refused")


def isolated(function: Callable[[], Any], seconds: float = SECONDS, memory: int = BYTES) -> End:
    """Call `function` in a fork of this process, which must not have started threads."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        _run(function, writer, memory)
    os.close(writer)
    try:
        return _result(reader, child, seconds)
    finally:
        os.close(reader)


def _run(function: Callable[[], Any], writer: int, memory: int) -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + memory, used + memory))
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    events: list[str] = []
    sys.addaudithook(lambda event, _: events.append(event) if event in _FORBIDDEN else None)
    try:
        function()
        end = End("read")
    except _SENTENCES as error:
        lines = str(error).count("\n")
        end = End("refused", f"{error}") if lines == 0 else End("traceback", f"{lines + 1} lines: {error}")
    except BaseException:
        end = End("traceback", traceback.format_exc())
    if events:
        end = End("code run", ", ".join(events))
    os.write(writer, pickle.dumps(tuple(end))[:60_000])
    os._exit(0)


def _result(reader: int, child: int, seconds: float) -> End:
    deadline, content = time.monotonic() + seconds, b""
    while True:
        ready, _, _ = select.select([reader], [], [], max(deadline - time.monotonic(), 0))
        if not ready:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return End("hang", f"no end after {seconds:g} seconds")
        part = os.read(reader, 65536)
        if not part:
            break
        content += part
    _, status = os.waitpid(child, 0)
    if not content:
        return End("killed", f"status {status}")
    return End(*pickle.loads(content))
