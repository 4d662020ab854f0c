"""Errors that a user can cause, each as one sentence and an exit status."""

from __future__ import annotations

import errno
import re
from typing import NamedTuple

FAILED, MISUSED, DIVERGED, INTERRUPTED = 1, 2, 3, 130  # 130 is what shells report after Ctrl-C

_OUT_OF_MEMORY = (
    "out of memory{}: use smaller pictures, a smaller batch or fewer workers, "
    "or another --device where the command has one"
)
# What RuntimeErrors of PyTorch say when the machine is the cause, and a sentence for each
_RUNTIME_ERRORS = {
    r"out of memory|can't allocate memory|not enough memory|CUBLAS_STATUS_ALLOC_FAILED": _OUT_OF_MEMORY,
    r"DataLoader worker .*(killed|exited|shared memory)": (
        "a worker process that reads pictures was killed, mostly because memory is short: use fewer workers"
    ),
    r"PytorchStreamWriter|inline_container.*unexpected pos|file write failed": (
        "a file could not be written completely: the disk may be full"
    ),
}
_ALLOCATION = r"[Tt]ried to allocate ([\d.]+ [A-Za-z]+)"
_HINTS = {
    errno.EEXIST: "a folder was expected: choose another --output",
    errno.ENOTDIR: "a folder was expected: choose another path",
    errno.EISDIR: "a file was expected: choose another path",
    errno.ENOSPC: "free some space, or choose another --output",
    errno.EDQUOT: "free some space, or choose another --output",
    errno.EROFS: "choose another --output",
    errno.EACCES: "check its permissions, or choose another path",
    errno.EPERM: "check its permissions, or choose another path",
    errno.EMFILE: "raise the limit of open files (ulimit -n), or use fewer workers",
}
_FAILURES = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EMFILE,
    errno.EIO,
}  # causes other than the words of the command


class Explanation(NamedTuple):
    """What the command prints and returns after an error."""

    sentence: str
    status: int


def explain(error: Exception) -> Explanation | None:
    """Return the sentence and exit status for an error; None for one that only a bug causes.

    Functions say where an error happened by `Exception.add_note`; the sentence ends in these notes.
    """
    explanation = _explained(error)
    if explanation is None:
        return None
    notes = [note for note in getattr(error, "__notes__", ()) if note not in explanation.sentence]
    return explanation._replace(sentence=", ".join([explanation.sentence, *notes]))


def _explained(error: Exception) -> Explanation | None:
    if isinstance(error, MemoryError):
        return Explanation(_OUT_OF_MEMORY.format(""), FAILED)
    if isinstance(error, OSError):
        return Explanation(_os_error(error), FAILED if error.errno in _FAILURES else MISUSED)
    if isinstance(error, FloatingPointError):
        return Explanation(str(error), DIVERGED)
    if isinstance(error, RuntimeError):
        return _runtime_error(str(error))
    return Explanation(str(error), MISUSED) if isinstance(error, ValueError) else None


def _os_error(error: OSError) -> str:
    if error.errno is None:  # this library's own sentence
        return str(error)
    parts = [] if error.filename is None else [str(error.filename)]
    parts += [error.strerror or errno.errorcode.get(error.errno, "")]
    return ": ".join(parts + [hint for number, hint in _HINTS.items() if number == error.errno])


def _runtime_error(text: str) -> Explanation | None:
    for pattern, sentence in _RUNTIME_ERRORS.items():
        if re.search(pattern, text):
            size = re.search(_ALLOCATION, text)
            return Explanation(sentence.format(f" (tried to allocate {size[1]})" if size else ""), FAILED)
    return None
